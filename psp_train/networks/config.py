"""The shapes of networks: the kind of an encoder, its backbone and widths. Needs no torch."""

from dataclasses import dataclass, replace
from typing import Literal

EncoderKind = Literal["psp", "w", "naive_wplus", "resnet_w", "resnet_wplus"]
#: The networks whose features LPIPS may compare: AlexNet or VGG16.
LPIPSNetwork = Literal["alex", "vgg"]
#: Bottlenecks in the four stages of ResNet-50.
RESNET50_UNITS = (3, 4, 6, 3)
#: Styles below MEDIUM are read from the 16x16 feature map, those below FINE from 32x32, the rest from 64x64 (figure 2).
MEDIUM, FINE = 3, 7


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder; the defaults are the published one for 1024x1024 (of other kinds: `published_config`).

    `units` and `widths` are the four backbone stages. Over IR-SE the last width is also that of the feature pyramid
    and of the map2style heads; over ResNet the widths are those inside the bottlenecks, which put out four times as
    many channels.
    """

    kind: EncoderKind = "psp"
    input_channels: int = 3
    styles: int = 18
    style_dim: int = 512
    units: tuple[int, int, int, int] = (3, 4, 14, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)

    def __post_init__(self) -> None:
        equal = any(a == b for a, b in zip(self.widths, self.widths[1:], strict=False))
        if equal and not self.resnet:  # whose keys name the stages
            raise ValueError(f"widths {self.widths}: each stage must differ from the one before, to be told apart")

    @property
    def resnet(self) -> bool:
        """Whether the backbone is a ResNet (else IR-SE)."""
        return self.kind in ("resnet_w", "resnet_wplus")


def published_config(
    kind: EncoderKind, input_channels: int = 3, styles: int = 18, style_dim: int = 512
) -> EncoderConfig:
    """Return the configuration of a kind at its published size: over IR-SE50, or over ResNet-50."""
    config = EncoderConfig(kind, input_channels, styles, style_dim)
    return replace(config, units=RESNET50_UNITS) if config.resnet else config


def head_size(style: int) -> int:
    """Return the side, in pixels, of the feature map that map2style head number `style` reads (paper, figure 2)."""
    return 16 if style < MEDIUM else 32 if style < FINE else 64
