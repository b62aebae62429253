"""Turn the encoders into their deployable form (see `psp_export.deploy`)."""

import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.heads import deploy_head
from psp_export.deploy.layers import ScaleShift, copy_conv, copy_prelu, fold_norm, frozen
from psp_export.deploy.resnet import resnet_stages, resnet_stem
from psp_runtime.tasks import INPUT_SIZE, InputKind
from psp_train.networks.encoder import Backbone, BasicBlock, ResidualUnit, SqueezeExcitation
from psp_train.networks.encoders import Encoder
from psp_train.networks.resnet import ResNetEncoder


class DeployedEncoder(nn.Module):
    """The encoder: uint8 picture -> W+ latents [B,L,S] FP32, the average w included."""

    def __init__(self, encoder: Encoder, latent_avg: torch.Tensor, kind: InputKind, height: int = INPUT_SIZE) -> None:
        super().__init__()
        self.prepare = Prepare(kind, encoder.config.input_channels)
        if isinstance(encoder, ResNetEncoder):
            self.stem, self.stages = resnet_stem(encoder), resnet_stages(encoder)
        else:
            self.stem, self.stages = body_stem(encoder), body_stages(encoder)
        self.head = deploy_head(encoder, height)
        self.latent_avg = frozen(latent_avg)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.offsets(self.prepare(image)) + self.latent_avg

    def offsets(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,H,W] FP32, as `prepare` makes it, to [B,L,S]."""
        x = self.stem(x.to(self.stem[0].weight.dtype))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return self.head(*outputs[1:])


class Prepare(nn.Module):
    """The input layer: uint8 picture -> FP32 [B,C,H,W], RGB to [-1,1], sketches to [0,1], class ids to one-hot.

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


class DeployedBlock(nn.Module):
    """Basic block of ResNet-34 with its normalisations folded."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = fold_norm(block.conv1, block.bn1), fold_norm(block.conv2, block.bn2)
        projected = isinstance(block.downsample, nn.Sequential)
        self.shortcut = fold_norm(*block.downsample) if projected else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def body_stem(encoder: Backbone) -> nn.Sequential:
    """Make the stem: a convolution with its normalisation folded, and PReLU."""
    resnet34 = encoder.config.body == "resnet34"
    conv, norm, prelu = (encoder.conv1, encoder.bn1, encoder.relu) if resnet34 else encoder.input_layer
    return nn.Sequential(fold_norm(conv, norm), copy_prelu(prelu))


def body_stages(encoder: Backbone) -> nn.ModuleList:
    """Make the four stages of residual units, or of basic blocks."""
    unit = DeployedBlock if encoder.config.body == "resnet34" else DeployedUnit
    units = iter(encoder.body)
    return nn.ModuleList(nn.Sequential(*(unit(next(units)) for _ in range(count))) for count in encoder.config.units)
