"""The encoders in deployable form (see `psp_export.deploy`)."""

import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.generator import frozen
from psp_export.deploy.layers import BatchedLinear, copy_conv, copy_prelu, fold_norm, merge_convs, norm_affine
from psp_export.deploy.resnet import ResNetHead, resnet_stages, resnet_stem
from psp_runtime.tasks import InputKind
from psp_train.networks.encoder import (
    Backbone,
    Encoder,
    NaiveWPlusEncoder,
    PSPEncoder,
    ResidualUnit,
    SqueezeExcitation,
    WEncoder,
    head_size,
)
from psp_train.networks.resnet import ResNetEncoder


class DeployedEncoder(nn.Module):
    """uint8 picture -> W+ codes [B,L,S] FP32, the average w included."""

    def __init__(self, encoder: Encoder, latent_avg: torch.Tensor, kind: InputKind) -> None:
        super().__init__()
        self.prepare = Prepare(kind, encoder.config.input_channels)
        if isinstance(encoder, ResNetEncoder):
            self.stem, self.stages = resnet_stem(encoder), resnet_stages(encoder)
        else:
            self.stem, self.stages = irse_stem(encoder), irse_stages(encoder)
        self.head = deploy_head(encoder)
        self.latent_avg = frozen(latent_avg)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(self.prepare(image).to(self.stem[0].weight.dtype))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return self.head(*outputs[1:]) + self.latent_avg


class Prepare(nn.Module):
    """uint8 picture -> FP32 [B,C,256,256]: RGB to [-1,1], sketches to [0,1], class ids to one-hot.

    TensorRT takes uint8 only into a cast, so the cast comes before the transpose.
    """

    def __init__(self, kind: InputKind, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.classes = nn.Buffer(torch.arange(channels, dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.kind == "labels":
            return (image.float()[:, None] == self.classes).float()
        x = image.float().permute(0, 3, 1, 2) / 255
        return x if self.kind == "sketch" else (x - 0.5) / 0.5


class ScaleShift(nn.Module):
    """Batch normalisation that comes before a zero-padded convolution: x * scale + shift per channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = norm_affine(norm)
        self.scale, self.shift = frozen(scale[:, None, None].float()), frozen(shift[:, None, None].float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


class Gate(nn.Module):
    """Squeeze-and-excitation gates [B,C,1,1] of x [B,C,H,W], FP32 inside."""

    def __init__(self, se: SqueezeExcitation) -> None:
        super().__init__()
        self.fc1, self.fc2 = frozen(se.fc1.weight), frozen(se.fc2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(x.float(), 1)
        return torch.sigmoid(F.conv2d(F.relu(F.conv2d(pooled, self.fc1)), self.fc2)).to(x.dtype)


class DeployedUnit(nn.Module):
    """IR-SE residual unit with the second batch normalisation folded."""

    def __init__(self, unit: ResidualUnit) -> None:
        super().__init__()
        norm, conv1, prelu, conv2, norm2, se = unit.res_layer
        self.norm = ScaleShift(norm)
        self.conv1, self.prelu = copy_conv(conv1), copy_prelu(prelu)
        self.conv2 = fold_norm(conv2, norm2)
        self.gate = Gate(se)
        self.stride = conv2.stride[0]
        projected = isinstance(unit.shortcut_layer, nn.Sequential)
        self.shortcut = fold_norm(*unit.shortcut_layer) if projected else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.prelu(self.conv1(self.norm(x))))
        y = y * self.gate(y)
        if self.shortcut is not None:
            return y + self.shortcut(x)
        return y + (x if self.stride == 1 else F.max_pool2d(x, 1, self.stride))


def irse_stem(encoder: Backbone) -> nn.Sequential:
    """3x3 convolution with its normalisation, PReLU."""
    conv, norm, prelu = encoder.input_layer
    return nn.Sequential(fold_norm(conv, norm), copy_prelu(prelu))


def irse_stages(encoder: Backbone) -> nn.ModuleList:
    """The four stages of units."""
    units = iter(encoder.body)
    return nn.ModuleList(
        nn.Sequential(*(DeployedUnit(next(units)) for _ in range(count))) for count in encoder.config.units
    )


class Pyramid(nn.Module):
    """Feature pyramid and map2style heads: features at 64², 32² and 16² -> offsets [B,L,S] in FP32."""

    def __init__(self, encoder: PSPEncoder) -> None:
        super().__init__()
        self.lateral1, self.lateral2 = copy_conv(encoder.latlayer1), copy_conv(encoder.latlayer2)
        self.double16, self.double32 = Double(16), Double(32)
        heads = list(encoder.styles)
        groups = [[h for i, h in enumerate(heads) if head_size(i) == size] for size in (16, 32, 64)]
        self.heads = nn.ModuleList(Heads(group) for group in groups if group)

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, p3: torch.Tensor) -> torch.Tensor:
        p2 = self.double16(p3, self.lateral1(c2))
        p1 = self.double32(p2, self.lateral2(c1))
        levels = zip(self.heads, (p3, p2, p1), strict=False)
        return torch.cat([heads(level) for heads, level in levels], dim=1)


class Double(nn.Module):
    """Bilinear upsampling by 2 with aligned corners, plus the lateral features.

    Upsampling is linear and separable: a product with a constant matrix from both sides.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        identity = torch.eye(size)[None]
        doubled = F.interpolate(identity, scale_factor=2, mode="linear", align_corners=True)[0]
        self.columns = frozen(doubled)

    def forward(self, x: torch.Tensor, lateral: torch.Tensor) -> torch.Tensor:
        return self.columns.T @ (x @ self.columns) + lateral


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
    """Ablation W: one code from the pooled features, the same for every layer."""

    def __init__(self, encoder: WEncoder) -> None:
        super().__init__()
        self.linear = BatchedLinear(*(t[None] for t in encoder.linear.effective()))
        self.ones = frozen(torch.ones(encoder.config.styles, 1))

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(c3.float(), 1).flatten(1)
        return self.linear(pooled) * self.ones


class NaiveWPlusHead(nn.Module):
    """Ablation naive W+: every code from one linear layer, FP32 behind the pooling."""

    def __init__(self, encoder: NaiveWPlusEncoder) -> None:
        super().__init__()
        norm, _, _, linear = encoder.output_layer_2
        styles, dim = encoder.config.styles, encoder.config.style_dim
        self.norm = ScaleShift(norm)
        # 16x16 to 7x7 adaptive average pooling is linear: its windows, as a matrix from both sides.
        self.windows = frozen(F.adaptive_avg_pool1d(torch.eye(16)[None], 7)[0])
        self.linear1 = BatchedLinear(linear.weight[None], linear.bias[None])
        weight, bias = encoder.linear.effective()
        self.linear2 = BatchedLinear(weight[None], bias[None])
        self.shape = (styles, dim)

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor) -> torch.Tensor:
        pooled = self.windows.T @ (self.norm(c3.float()) @ self.windows)
        features = self.linear1(pooled.flatten(1)).flatten(1)
        return self.linear2(features).reshape(-1, *self.shape)


def deploy_head(encoder: Encoder) -> nn.Module:
    """The deployable head of an encoder: features of the last three stages -> offsets [B,L,S]."""
    if isinstance(encoder, ResNetEncoder):
        return ResNetHead(encoder)
    if isinstance(encoder, PSPEncoder):
        return Pyramid(encoder)
    return WHead(encoder) if isinstance(encoder, WEncoder) else NaiveWPlusHead(encoder)
