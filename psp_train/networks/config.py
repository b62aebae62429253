"""The shapes of networks: the kind of an encoder, its backbone and widths. Needs no torch."""

from dataclasses import dataclass, replace
from typing import Literal

EncoderKind = Literal[
    "psp", "e4e", "w", "naive_wplus", "resnet_w", "resnet_wplus", "restyle_psp", "restyle_e4e", "restyle_fpn"
]
#: What a backbone is made of: IR-SE units, or the basic blocks of ResNet-34 (of ReStyle alone).
Body = Literal["irse", "resnet34"]
#: The networks whose features LPIPS may compare: AlexNet or VGG16.
LPIPSNetwork = Literal["alex", "vgg"]
#: Bottlenecks in the four stages of ResNet-50.
RESNET50_UNITS = (3, 4, 6, 3)
#: Basic blocks in the four stages of ResNet-34.
RESNET34_UNITS = (3, 4, 6, 3)
#: Channels that a ReStyle encoder sees: the picture, and the one of the step before.
REFINED_CHANNELS = 6
#: Styles below MEDIUM are read from the 16x16 feature map, those below FINE from 32x32, the rest from 64x64 (figure 2).
MEDIUM, FINE = 3, 7


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder; the defaults are the published one for 1024x1024 (of other kinds: `published_config`).

    `units` and `widths` are the four backbone stages. Over IR-SE and ResNet-34 the last width is also that of the
    feature pyramid and of the map2style heads; over ResNet-50 the widths are those inside the bottlenecks, which put
    out four times as many channels.
    """

    kind: EncoderKind = "psp"
    input_channels: int = 3
    styles: int = 18
    style_dim: int = 512
    units: tuple[int, int, int, int] = (3, 4, 14, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    body: Body = "irse"

    def __post_init__(self) -> None:
        equal = any(a == b for a, b in zip(self.widths, self.widths[1:], strict=False))
        if equal and not self.resnet:  # whose keys name the stages
            raise ValueError(f"widths {self.widths}: each stage must differ from the one before, to be told apart")

    @property
    def resnet(self) -> bool:
        """Whether the backbone is a ResNet-50 (else what `body` says)."""
        return self.kind in ("resnet_w", "resnet_wplus")

    @property
    def refines(self) -> bool:
        """Whether it corrects the codes of the picture it made before, step by step: ReStyle."""
        return self.kind.startswith("restyle_")

    @property
    def from_first(self) -> bool:
        """Whether its codes are offsets from the first of them: e4e (Tov et al. 2021, section 4.1)."""
        return self.kind in ("e4e", "restyle_e4e")


def published_config(
    kind: EncoderKind, input_channels: int = 3, styles: int = 18, style_dim: int = 512, body: Body = "irse"
) -> EncoderConfig:
    """Return the configuration of a kind at its published size: over IR-SE50, or over ResNet-50.

    Of ReStyle's over `body`; `input_channels` are those of the picture alone.
    """
    config = EncoderConfig(kind, input_channels, styles, style_dim, body=body)
    if config.refines:
        units = RESNET34_UNITS if body == "resnet34" else config.units
        return replace(config, input_channels=input_channels + 3, units=units)
    return replace(config, units=RESNET50_UNITS) if config.resnet else config


def head_size(style: int) -> int:
    """Return the side, in pixels, of the feature map that map2style head number `style` reads (paper, figure 2)."""
    return 16 if style < MEDIUM else 32 if style < FINE else 64
