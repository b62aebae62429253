"""The encoders of every kind, built by their configuration."""

from psp_train.networks.config import EncoderConfig
from psp_train.networks.encoder import Backbone, NaiveWPlusEncoder, PSPEncoder, WEncoder
from psp_train.networks.resnet import ResNetEncoder

#: Every encoder has the `config` it was built from and maps x [B,C,256,256] to offsets [B,L,S].
Encoder = Backbone | ResNetEncoder


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build the encoder of `config.kind`, on random weights."""
    if config.resnet:
        return ResNetEncoder(config)
    return {"psp": PSPEncoder, "w": WEncoder, "naive_wplus": NaiveWPlusEncoder}[config.kind](config)
