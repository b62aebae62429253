"""Turn the ResNet encoders into their deployable form: every batch normalisation is folded into a convolution."""

import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.layers import BatchedLinear, fold_norm, frozen
from psp_train.networks.features import Bottleneck
from psp_train.networks.resnet import ResNetEncoder


class DeployedBottleneck(nn.Module):
    """Three convolutions and a shortcut, all with their normalisation folded."""

    def __init__(self, unit: Bottleneck) -> None:
        super().__init__()
        self.conv1 = fold_norm(unit.conv1, unit.bn1)
        self.conv2 = fold_norm(unit.conv2, unit.bn2)
        self.conv3 = fold_norm(unit.conv3, unit.bn3)
        projected = isinstance(unit.downsample, nn.Sequential)
        self.shortcut = fold_norm(*unit.downsample) if projected else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def resnet_stem(encoder: ResNetEncoder) -> nn.Sequential:
    """Make the stem: a 7x7 convolution with its normalisation folded, ReLU, maximum; a quarter of the size."""
    network = encoder.backbone
    return nn.Sequential(fold_norm(network.conv1, network.bn1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def resnet_stages(encoder: ResNetEncoder) -> nn.ModuleList:
    """Make the four stages of bottlenecks."""
    network = encoder.backbone
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return nn.ModuleList(nn.Sequential(*(DeployedBottleneck(unit) for unit in stage)) for stage in stages)


class ResNetHead(nn.Module):
    """All linear heads as one, FP32 behind the pooling; the latent of a single head goes to every layer."""

    def __init__(self, encoder: ResNetEncoder) -> None:
        super().__init__()
        heads, config = encoder.heads, encoder.config
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        self.linear = BatchedLinear(weight[None], bias[None])
        self.shape = (len(heads), config.style_dim)
        self.ones = frozen(torch.ones(config.styles, 1)) if len(heads) < config.styles else None

    def forward(self, c1: torch.Tensor, c2: torch.Tensor, c3: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(c3.float(), 1).flatten(1)
        latents = self.linear(pooled).reshape(-1, *self.shape)
        return latents if self.ones is None else latents * self.ones
