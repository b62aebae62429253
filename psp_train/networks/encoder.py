"""Encoders from a picture of 256 pixels' width to latents: pSp, its two ablations, e4e and ReStyle.

"Encoding in Style" (Richardson et al. 2021), section 3.1 and table 2; "Designing an Encoder for StyleGAN Image
Manipulation" (Tov et al. 2021), section 4; "ReStyle" (Alaluf et al. 2021), section 3. The backbone is the IR-SE50 of
ArcFace: a 3x3 stem and four stages of residual units with squeeze-and-excitation; or, of ReStyle beyond faces, a
ResNet-34 without its pooling. Attribute names are those of the published state dicts. The encoders over a ResNet-50
are in `resnet.py`; `encoders.py` has every kind.
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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions of ResNet-34 with their normalisations, plus a (projected) shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(PointwiseConv(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,I,H,W] to [B,O,H/stride,W/stride]."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Backbone(nn.Module):
    """Stem and body of IR-SE50 or ResNet-34; the encoders add their heads to it.

    `deltas` is how many of the offsets from the first code are trained yet (e4e), None is all.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.deltas: int | None = None
        channels, width = config.input_channels, config.widths[0]
        if config.body == "resnet34":
            self.conv1, self.bn1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
            self.relu = nn.PReLU(width)
        else:
            self.input_layer = nn.Sequential(
                nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
            )
        self.body = nn.Sequential()
        for stage, (units, outputs) in enumerate(zip(config.units, config.widths, strict=True)):
            for unit in range(units):
                self.body.append(self._unit(width, outputs, first=unit == 0, stage=stage))
                width = outputs

    def _unit(self, inputs: int, outputs: int, first: bool, stage: int) -> nn.Module:
        """Build a unit; the first of a stage halves the size, which the stem of ResNet-34 has done for stage 0."""
        if self.config.body == "resnet34":
            return BasicBlock(inputs, outputs, stride=2 if first and stage else 1)
        return ResidualUnit(inputs, outputs, stride=2 if first else 1)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,H,W] to what the first stage takes."""
        return self.relu(self.bn1(self.conv1(x))) if self.config.body == "resnet34" else self.input_layer(x)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map x [B,C,H,W] to the outputs of the four stages, [B,width,h,w] at 1/2, 1/4, 1/8 and 1/16 of its size."""
        x = self.stem(x)
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
    """The pSp encoder: a feature pyramid with one map2style head per style (paper, figure 2).

    e4e has the same network, whose codes are offsets from the first one.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        width = config.widths[3]
        self.styles = nn.ModuleList(
            Map2Style(width, config.style_dim, head_size(style)) for style in range(config.styles)
        )
        self.latlayer1 = nn.Conv2d(config.widths[2], width, 1)
        self.latlayer2 = nn.Conv2d(config.widths[1], width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,H,W] to W+ offsets [B,L,S]."""
        _, c1, c2, p3 = self.stages(x)
        p2 = upsample_add(p3, self.latlayer1(c2))
        p1 = upsample_add(p2, self.latlayer2(c1))
        pyramid = {16: p3, 32: p2, 64: p1}
        codes = torch.stack([head(pyramid[head_size(i)]) for i, head in enumerate(self.styles)], dim=1)
        return add_first(codes, self.deltas) if self.config.from_first else codes


class ReStyleEncoder(Backbone):
    """ReStyle's own encoder: every map2style head on the last features (section 3.2, "a simple design")."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        heads = (Map2Style(config.widths[3], config.style_dim, head_size(0)) for _ in range(config.styles))
        self.styles = nn.ModuleList(heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,6,H,W], a picture and what was made of it so far, to the change of its W+ codes [B,L,S]."""
        features = self.stages(x)[3]
        codes = torch.stack([head(features) for head in self.styles], dim=1)
        return add_first(codes, self.deltas) if self.config.from_first else codes


def add_first(codes: torch.Tensor, deltas: int | None = None) -> torch.Tensor:
    """Add the first of the codes [B,L,S] to the others, which are offsets from it (e4e, section 4.1).

    Only the first `deltas` of these count yet; None is all of them.
    """
    offsets = codes[:, 1:]
    if deltas is not None:
        known = torch.arange(offsets.shape[1], device=codes.device) < deltas
        offsets = offsets * known[:, None]  # not cut out: each head keeps a gradient, if one of zeros
    return torch.cat([codes[:, :1], offsets + codes[:, :1]], dim=1)


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
