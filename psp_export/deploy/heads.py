"""Turn the heads of the encoders into their deployable form: features of three stages -> offsets [B,L,S]."""

import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.layers import BatchedLinear, ScaleShift, copy_conv, frozen, merge_convs
from psp_export.deploy.resnet import ResNetHead
from psp_runtime.tasks import INPUT_SIZE
from psp_train.networks.config import head_size
from psp_train.networks.encoder import NaiveWPlusEncoder, PSPEncoder, ReStyleEncoder, WEncoder, add_first
from psp_train.networks.encoders import Encoder
from psp_train.networks.resnet import ResNetEncoder


class Pyramid(nn.Module):
    """Feature pyramid and map2style heads: features 64, 32 and 16 wide -> offsets [B,L,S] in FP32."""

    def __init__(self, encoder: PSPEncoder, height: int) -> None:
        super().__init__()
        self.lateral1, self.lateral2 = copy_conv(encoder.latlayer1), copy_conv(encoder.latlayer2)
        self.double16, self.double32 = Double(height // 16, 16), Double(height // 8, 32)
        self.from_first = encoder.config.from_first
        heads = list(encoder.styles)
        groups = [[h for i, h in enumerate(heads) if head_size(i) == size] for size in (16, 32, 64)]
        self.heads = nn.ModuleList(Heads(group) for group in groups if group)

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, p3: torch.Tensor) -> torch.Tensor:
        p2 = self.double16(p3, self.lateral1(c2))
        p1 = self.double32(p2, self.lateral2(c1))
        levels = zip(self.heads, (p3, p2, p1), strict=False)
        codes = torch.cat([heads(level) for heads, level in levels], dim=1)
        return add_first(codes) if self.from_first else codes


class LastMap(nn.Module):
    """ReStyle's heads, all on the last features: [B,C,h,16] -> changes [B,L,S] in FP32."""

    def __init__(self, encoder: ReStyleEncoder) -> None:
        super().__init__()
        self.heads = Heads(list(encoder.styles))
        self.from_first = encoder.config.from_first

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor) -> torch.Tensor:
        codes = self.heads(c3)
        return add_first(codes) if self.from_first else codes


class Double(nn.Module):
    """Bilinear upsampling by 2 with aligned corners, plus the lateral features.

    Upsampling is linear and separable: a product with a constant matrix from both sides.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.rows, self.columns = frozen(_doubling(height).T), frozen(_doubling(width))

    def forward(self, x: torch.Tensor, lateral: torch.Tensor) -> torch.Tensor:
        return self.rows @ (x @ self.columns) + lateral


def _doubling(size: int) -> torch.Tensor:
    return F.interpolate(torch.eye(size)[None], scale_factor=2, mode="linear", align_corners=True)[0]


class Heads(nn.Module):
    """All n map2style heads of one pyramid level: [B,C,H,W] -> [B,n,S] in FP32."""

    def __init__(self, heads: list[nn.Module]) -> None:
        super().__init__()
        chains = [[m for m in head.convs if isinstance(m, nn.Conv2d)] for head in heads]
        self.convs = nn.ModuleList(
            merge_convs(list(convs), groups=1 if depth == 0 else len(heads))
            for depth, convs in enumerate(zip(*chains, strict=True))
        )
        linears = [head.linear.effective() for head in heads]
        self.linear = BatchedLinear(torch.stack([w for w, _ in linears]), torch.stack([b for _, b in linears]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.01)
        return self.linear(x.float().flatten(1))


class WHead(nn.Module):
    """Ablation W: one latent from the pooled features, the same for every layer."""

    def __init__(self, encoder: WEncoder) -> None:
        super().__init__()
        self.linear = BatchedLinear(*(t[None] for t in encoder.linear.effective()))
        self.ones = frozen(torch.ones(encoder.config.styles, 1))

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(c3.float(), 1).flatten(1)
        return self.linear(pooled) * self.ones


class NaiveWPlusHead(nn.Module):
    """Ablation naive W+: every latent from one linear layer, FP32 behind the pooling."""

    def __init__(self, encoder: NaiveWPlusEncoder, height: int) -> None:
        super().__init__()
        norm, _, _, linear = encoder.output_layer_2
        styles, dim = encoder.config.styles, encoder.config.style_dim
        self.norm = ScaleShift(norm)
        # Adaptive average pooling to 7x7 is linear: its windows, as a matrix from both sides.
        self.rows, self.columns = frozen(_windows(height // 16).T), frozen(_windows(16))
        self.linear1 = BatchedLinear(linear.weight[None], linear.bias[None])
        weight, bias = encoder.linear.effective()
        self.linear2 = BatchedLinear(weight[None], bias[None])
        self.shape = (styles, dim)

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor) -> torch.Tensor:
        pooled = self.rows @ (self.norm(c3.float()) @ self.columns)
        features = self.linear1(pooled.flatten(1)).flatten(1)
        return self.linear2(features).reshape(-1, *self.shape)


def _windows(size: int) -> torch.Tensor:
    return F.adaptive_avg_pool1d(torch.eye(size)[None], 7)[0]


def deploy_head(encoder: Encoder, height: int = INPUT_SIZE) -> nn.Module:
    """Make the deployable head of an encoder: features of the last three stages -> offsets [B,L,S].

    `height` is that of the pictures, which are INPUT_SIZE wide.
    """
    if isinstance(encoder, ResNetEncoder):
        return ResNetHead(encoder)
    if isinstance(encoder, PSPEncoder):
        return Pyramid(encoder, height)
    if isinstance(encoder, ReStyleEncoder):
        return LastMap(encoder)
    return WHead(encoder) if isinstance(encoder, WEncoder) else NaiveWPlusHead(encoder, height)
