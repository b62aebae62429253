"""Face recognition: networks that give pictures of one person nearly the same direction.

IR-SE50, trained with ArcFace (Deng et al. 2019), is pSp's identity loss and where its encoder starts; IR-101, trained
with CurricularFace (Huang et al. 2020), measures similarity in its tables, so that no model is judged by the network
it was trained on. Attribute names are those of the published state dicts.
"""

import torch
import torch.nn.functional as F
from torch import nn

from psp_train.networks.config import EncoderConfig
from psp_train.networks.encoder import Backbone

#: Residual units in the four stages of IR-101; those of IR-SE50 are the encoder's.
IR101_UNITS = (3, 13, 30, 3)


class IRSE50(Backbone):
    """IR-SE50: the encoder's backbone and an output layer."""

    def __init__(self) -> None:
        super().__init__(EncoderConfig())
        self.output_layer = output_layer(affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map faces x [B,3,112,112] in [-1,1] to features [B,512] of length 1, float32."""
        return unit_length(self.output_layer(self.stages(x)[3]))


class IR101(Backbone):
    """IR-101: deeper, without squeeze-and-excitation, and without scale and bias in the last normalisation."""

    def __init__(self) -> None:
        super().__init__(EncoderConfig(units=IR101_UNITS))
        for residual in self.body:
            del residual.res_layer[5]  # the squeeze-and-excitation
        self.output_layer = output_layer(affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map faces x [B,3,112,112] in [-1,1] to features [B,512] of length 1, float32."""
        return unit_length(self.output_layer(self.stages(x)[3]))


def output_layer(affine: bool) -> nn.Sequential:
    """Build the layers from the last feature map [B,512,7,7] to features [B,512]. A dropout keeps published indices."""
    return nn.Sequential(
        nn.BatchNorm2d(512),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(512 * 7 * 7, 512),
        nn.BatchNorm1d(512, affine=affine),
    )


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Scale each row of [B,N] to length 1, in float32: half precision cannot hold the squares."""
    return F.normalize(features.float(), dim=1)
