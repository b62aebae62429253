"""Networks that other people trained on photographs, whose features losses compare and encoders start from.

AlexNet (Krizhevsky 2014, "One weird trick"), VGG16 (Simonyan & Zisserman 2015, configuration D) and ResNet-50 (He et
al. 2016). Attribute names and indices are those of torchvision, so its published state dicts load; the classifiers
are left out, as only features are used.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from psp_train.networks.config import RESNET50_UNITS
from psp_train.networks.pointwise import PointwiseConv

#: Output channels of VGG16's convolutions; each inner tuple ends in a 2x2 maximum.
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

#: Channels inside the bottlenecks of the four stages of ResNet-50.
RESNET50_WIDTHS = (64, 128, 256, 512)


class AlexNet(nn.Module):
    """The five convolutions of AlexNet; `channels` are those of the feature maps."""

    channels = (64, 192, 384, 256, 256)
    taps = (1, 4, 7, 9, 11)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(inplace=True)),
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map standardised x [B,3,H,W] to relu1 ... relu5, at about 1/4, 1/8 and three times 1/16 of the size."""
        return tapped(self.features, self.taps, x)


class VGG16(nn.Module):
    """The thirteen convolutions of VGG16; `channels` are those of the feature maps."""

    channels = (64, 128, 256, 512, 512)
    taps = (3, 8, 15, 22, 29)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inputs = 3
        for stage in VGG16_STAGES:
            if inputs != 3:
                self.features.append(nn.MaxPool2d(2))
            for outputs in stage:
                self.features.append(nn.Conv2d(inputs, outputs, 3, 1, 1)).append(nn.ReLU(inplace=True))
                inputs = outputs

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map standardised x [B,3,H,W] to relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, at 1/1 ... 1/16 of the size."""
        return tapped(self.features, self.taps, x)


def tapped(layers: nn.Sequential, taps: tuple[int, ...], x: torch.Tensor) -> list[torch.Tensor]:
    """Run the layers on x [B,C,H,W] and return what those numbered `taps` put out."""
    outputs = []
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in taps:
            outputs.append(x)
    return outputs


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times as many channels out as inside, plus a (projected) shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        # The paper strides the first convolution; the published weights belong to a stride here ("ResNet v1.5").
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(PointwiseConv(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,I,H,W] to [B,4*width,H/stride,W/stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class ResNet50(nn.Module):
    """ResNet-50 without its classifier `fc`, or another size of it; `outputs` is the number of its features."""

    def __init__(
        self, channels: int = 3, units: Sequence[int] = RESNET50_UNITS, widths: Sequence[int] = RESNET50_WIDTHS
    ) -> None:
        super().__init__()
        inputs = widths[0]
        self.conv1, self.bn1 = nn.Conv2d(channels, inputs, 7, 2, 3, bias=False), nn.BatchNorm2d(inputs)
        for number, (count, width) in enumerate(zip(units, widths, strict=True), 1):
            stage = nn.Sequential()
            for unit in range(count):
                stage.append(Bottleneck(inputs, width, stride=2 if unit == 0 and number > 1 else 1))
                inputs = 4 * width
            self.add_module(f"layer{number}", stage)
        self.outputs = inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,H,W] to features [B,2048], averaged over the picture."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
