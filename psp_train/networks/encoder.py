"""Encoders from a 256x256 picture to latents: pSp and its two ablations, over an IR-SE backbone.

"Encoding in Style" (Richardson et al. 2021), section 3.1 and table 2. The backbone is the IR-SE50 of ArcFace: a
3x3 stem and four stages of residual units with squeeze-and-excitation. Attribute names are those of the
published state dicts. The encoders over a ResNet-50 are in `resnet.py`; `encoders.py` has every kind.
"""

import torch
import torch.nn.functional as F
from torch import nn

from psp_train.networks.config import EncoderConfig, head_size
from psp_train.networks.pointwise import PointwiseConv
from psp_train.networks.stylegan2 import EqualLinear


class SqueezeExcitation(nn.Module):
    """Channel gates from the globally pooled features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16 or 1, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16 or 1, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel of x [B,C,H,W] by its gate, 0 to 1."""
        gate = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class ResidualUnit(nn.Module):
    """IR-SE unit: BN, conv, PReLU, strided conv, BN, SE, plus a (projected) shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if inputs == outputs:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(PointwiseConv(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcitation(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,I,H,W] to [B,O,H/stride,W/stride]."""
        return self.res_layer(x) + self.shortcut_layer(x)


class Backbone(nn.Module):
    """Stem and body of IR-SE50; the encoders add their heads to it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(config.input_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        self.body = nn.Sequential()
        for units, outputs in zip(config.units, config.widths, strict=True):
            for unit in range(units):
                self.body.append(ResidualUnit(width, outputs, stride=2 if unit == 0 else 1))
                width = outputs

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map x [B,C,H,W] to the outputs of the four stages, [B,width,h,w] at 1/2, 1/4, 1/8 and 1/16 of its size."""
        x = self.input_layer(x)
        outputs, units = [], iter(self.body)
        for count in self.config.units:
            for _ in range(count):
                x = next(units)(x)
            outputs.append(x)
        return outputs


def he_initialised(conv: nn.Conv2d) -> nn.Conv2d:
    """Initialise a convolution to keep the variance through a leaky ReLU.

    With torch's default, six layers without BatchNorm shrink it 200-fold: training from scratch starts on a plateau.
    """
    nn.init.kaiming_normal_(conv.weight, 0.01)
    nn.init.zeros_(conv.bias)
    return conv


class Map2Style(nn.Module):
    """Strided convolutions down to 1x1, then a linear layer: one style vector from a feature map."""

    def __init__(self, width: int, style_dim: int, size: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for _ in range(size.bit_length() - 1):
            self.convs += nn.Sequential(he_initialised(nn.Conv2d(width, width, 3, 2, 1)), nn.LeakyReLU())
        self.linear = EqualLinear(width, style_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features x [B,C,size,size] to one style vector [B,S]."""
        return self.linear(self.convs(x).flatten(1))


class PSPEncoder(Backbone):
    """The pSp encoder: a feature pyramid with one map2style head per style (paper, figure 2)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        width = config.widths[3]
        self.styles = nn.ModuleList(
            Map2Style(width, config.style_dim, head_size(style)) for style in range(config.styles)
        )
        self.latlayer1 = nn.Conv2d(config.widths[2], width, 1)
        self.latlayer2 = nn.Conv2d(config.widths[1], width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,256,256] to W+ offsets [B,L,S]."""
        _, c1, c2, p3 = self.stages(x)
        p2 = upsample_add(p3, self.latlayer1(c2))
        p1 = upsample_add(p2, self.latlayer2(c1))
        pyramid = {16: p3, 32: p2, 64: p1}
        return torch.stack([head(pyramid[head_size(i)]) for i, head in enumerate(self.styles)], dim=1)


class WEncoder(Backbone):
    """Ablation: one style vector from the last features, repeated for every layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.linear = EqualLinear(config.widths[3], config.style_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,256,256] to W offsets [B,L,S], the same for all L."""
        latent = self.linear(self.stages(x)[3].mean((2, 3)))
        return latent[:, None].expand(-1, self.config.styles, -1)


class NaiveWPlusEncoder(Backbone):
    """Ablation: all style vectors from one linear layer on the last features."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        width, dim = config.widths[3], config.style_dim
        self.output_layer_2 = nn.Sequential(
            nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(width * 49, dim)
        )
        self.linear = EqualLinear(dim, dim * config.styles)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,256,256] to W+ offsets [B,L,S]."""
        features = self.output_layer_2(self.stages(x)[3])
        return self.linear(features).view(-1, self.config.styles, self.config.style_dim)


def upsample_add(x: torch.Tensor, lateral: torch.Tensor) -> torch.Tensor:
    """Double the size of x (bilinear, corners aligned) and add the lateral features."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True) + lateral
