"""Rotate-and-Render's generator, in deployable form: batch norm, spectral norm and "1 +" folded, uint8 in and out.

Zhou et al., "Rotate-and-Render", CVPR 2020; its residual blocks are those of SPADE (Park et al., CVPR 2019). Not here
are the steps before it: a face detector, 68 landmarks, a 3D fit and three renderings of the fitted mesh
(docs/speed.md). The tests compare with outputs of the published code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from measure.peers.layers import State, batch_norm, below, conv, conv_transpose, from_uint8, numbered
from psp_train.networks.psp import to_picture

#: Maps of the parts of a face, one channel each.
MAPS = 5


class RotateSPADE(nn.Module):
    """Map a rendered face and maps of its parts to a face. Spectral norm is in the weights already."""

    def __init__(self, state: State) -> None:
        super().__init__()
        state = below(state, "generator.")
        down, up = (numbered(state, f"{name}_layers.{{}}.", 2) for name in ("downsample", "upsample"))
        self.first = _normalised(below(state, "first_layer.1."), padding=3, padding_mode="reflect")
        self.down = nn.Sequential(*(_normalised(layer, stride=2, padding=1) for layer in down))
        self.blocks = nn.ModuleList(_SPADEBlock(block) for block in numbered(state, "resnet_layers{}."))
        self.up = nn.Sequential(*(_grown(layer) for layer in up))
        self.last = conv(state["final_layer.1.weight"], state["final_layer.1.bias"], padding=3, padding_mode="reflect")

    def forward(self, image: Tensor, maps: Tensor) -> Tensor:
        """Map uint8 [B,S,S,3] and maps, uint8 [B,5,S,S] of 0 and 1, to uint8 [B,S,S,3]."""
        return to_picture(self.paint(from_uint8(image), maps.float()))

    def paint(self, x: Tensor, maps: Tensor) -> Tensor:
        """Map float32 [B,3,S,S] in [-1,1] and maps [B,5,S,S] to [B,3,S,S] in (-1,1)."""
        x = self.down(self.first(x))
        step = 2 ** len(self.down)
        maps = maps[:, :, ::step, ::step]
        for block in self.blocks:
            x = block(x, maps)
        return torch.tanh(self.last(self.up(x)))


class _SPADEBlock(nn.Module):
    """Twice: convolve, normalise, scale and shift by the maps, leaky ReLU. Then add the input."""

    def __init__(self, state: State) -> None:
        super().__init__()
        norms = [below(state, f"norm_{i}.") for i in (0, 1)]
        self.modulations = nn.ModuleList(_modulation(norm) for norm in norms)
        self.convolutions = nn.ModuleList()
        for i, norm in enumerate(norms):
            statistics = batch_norm(norm, "param_free_norm.")
            fused = fuse_conv_bn_weights(state[f"conv_{i}.weight"], state[f"conv_{i}.bias"], *statistics)
            self.convolutions.append(conv(*fused, padding=1, padding_mode="reflect"))

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        y = x
        for convolve, modulation in zip(self.convolutions, self.modulations):
            scale, shift = modulation(maps).chunk(2, 1)
            y = F.leaky_relu(convolve(y) * scale + shift, 0.2)
        return x + y


def _modulation(state: State) -> nn.Module:
    """Maps -> scale, 1 + gamma, and shift, beta, as one convolution: [B,2C,H,W]."""
    gamma, beta = below(state, "mlp_gamma."), below(state, "mlp_beta.")
    weight, bias = torch.cat([gamma["weight"], beta["weight"]]), torch.cat([1 + gamma["bias"], beta["bias"]])
    shared = conv(state["mlp_shared.0.weight"], state["mlp_shared.0.bias"], padding=1)
    return nn.Sequential(shared, nn.ReLU(), conv(weight, bias, padding=1))


def _normalised(state: State, **options) -> nn.Module:
    """A convolution with its batch norm folded in, and ReLU."""
    fused = fuse_conv_bn_weights(state["0.weight"], None, *batch_norm(state, "1."))
    return nn.Sequential(conv(*fused, **options), nn.ReLU())


def _grown(state: State) -> nn.Module:
    """The same with a transposed convolution that doubles the side."""
    fused = fuse_conv_bn_weights(state["0.weight"], None, *batch_norm(state, "1."), transpose=True)
    return nn.Sequential(conv_transpose(*fused, stride=2, padding=1, output_padding=1), nn.ReLU())
