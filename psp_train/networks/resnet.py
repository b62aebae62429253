"""The encoders of the second description of pSp: a ResNet-50 and one linear layer per style vector.

"local" (kind "resnet_wplus") has a layer for each of the L styles, "global" (kind "resnet_w") one, whose vector
every style gets. docs/training.md, "The second description".

    backbone.*            the keys of torchvision's ResNet-50 without `fc`: conv1, bn1, layer1 ... layer4
    heads.N.weight, bias  the linear layer of style N, [S, 4 * last width] and [S]; N is 0 alone for "global"

Pictures come in [-1,1] (sketches in [0,1], label maps one-hot) as for the other encoders, not standardised by
ImageNet's mean and deviation: the difference is a scale and a shift per channel, which the first convolution and its
batch normalisation, both trained on, absorb; and sketches and label maps have no such statistics.
"""

import torch
from torch import nn

from psp_train.networks.config import EncoderConfig
from psp_train.networks.features import ResNet50


class ResNetEncoder(nn.Module):
    """ResNet-50 features, averaged over the picture, and linear heads on them."""

    #: No style is an offset from another one, as e4e's are.
    deltas: int | None = None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet50(config.input_channels, config.units, config.widths)
        heads = 1 if config.kind == "resnet_w" else config.styles
        self.heads = nn.ModuleList(nn.Linear(self.backbone.outputs, config.style_dim) for _ in range(heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,256,256] to W+ offsets [B,L,S]; "resnet_w": the same for all L."""
        features = self.backbone(x)
        latents = torch.stack([head(features) for head in self.heads], dim=1)
        return latents.expand(-1, self.config.styles, -1)
