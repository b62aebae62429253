"""Networks whose state dicts are the published ones, key for key.

Shapes in comments: B batch, L styles, S style dim, C channels, H W height and width, I and O channels in and out.
"""

from psp_train.networks.config import EncoderConfig
from psp_train.networks.encoders import build_encoder
from psp_train.networks.psp import PSP
from psp_train.networks.stylegan2 import Generator, GeneratorConfig

__all__ = ["PSP", "EncoderConfig", "Generator", "GeneratorConfig", "build_encoder"]
