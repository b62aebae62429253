"""Networks whose state dicts are the published ones, key for key.

Shapes in comments: B batch, L styles, S style dim, C channels, H W height and width, I and O channels in and out.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psp_train.networks.config import EncoderConfig
    from psp_train.networks.encoders import build_encoder
    from psp_train.networks.psp import PSP
    from psp_train.networks.stylegan2 import Generator, GeneratorConfig

__all__ = ["PSP", "EncoderConfig", "Generator", "GeneratorConfig", "build_encoder"]

#: Where the names above are defined: `psp train --help` reads recipes, and starts without PyTorch.
_HOMES = {
    "EncoderConfig": "config",
    "build_encoder": "encoders",
    "PSP": "psp",
    "Generator": "stylegan2",
    "GeneratorConfig": "stylegan2",
}


def __getattr__(name: str) -> Any:
    """Import a network when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
