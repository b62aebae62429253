"""The encoders of every kind, built by their configuration."""

from psp_train.networks.config import EncoderConfig, EncoderKind
from psp_train.networks.encoder import Backbone, NaiveWPlusEncoder, PSPEncoder, ReStyleEncoder, WEncoder
from psp_train.networks.resnet import ResNetEncoder

#: Every encoder has the `config` it was built from and maps x [B,C,H,W] to offsets [B,L,S].
Encoder = Backbone | ResNetEncoder

CLASSES: dict[EncoderKind, type[Encoder]] = {
    "psp": PSPEncoder,
    "e4e": PSPEncoder,
    "w": WEncoder,
    "naive_wplus": NaiveWPlusEncoder,
    "resnet_w": ResNetEncoder,
    "resnet_wplus": ResNetEncoder,
    "restyle_psp": ReStyleEncoder,
    "restyle_e4e": ReStyleEncoder,
    "restyle_fpn": PSPEncoder,
}


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build the encoder of `config.kind`, on random weights."""
    return CLASSES[config.kind](config)
