"""pSp in the form its definition suggests, over the weights of `psp_train`'s networks: what to compare speed with.

"Analyzing and Improving the Image Quality of StyleGAN" (Karras et al. 2020), section 2.2: a style scales the weights
of a convolution (equation 1), which are then normalised (equation 3). Every picture has weights of its own, so the
batch is folded into convolution groups. The FIR filters see every channel as a picture of one channel. The tests and
`training_step.py` check that it gives the same picture and gradients as `Generator`.

The encoder needs no second form: `psp_train`'s own, in eval mode, is the reference's, layer by layer.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from psp_train.networks import PSP
from psp_train.networks.psp import to_input, to_picture
from psp_train.networks.stylegan2 import Generator, ModulatedConv, StyledConv, ToRGB

DEMODULATION_EPS = 1e-8


class Baseline(nn.Module):
    """One part of a model as an engine has it: "full" and "encoder" take pictures, "generator" takes codes.

    Pictures are uint8 [B,256,256,3] in and uint8 [B,H,W,3] out, codes float32 [B,L,S]. The results are those of
    the engine's outputs: (output, latents) of the full one, the one tensor of a part.
    """

    def __init__(self, psp: PSP, part: str = "full") -> None:
        super().__init__()
        self.psp, self.part = psp, part

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if self.part == "generator":
            return to_picture(synthesise(self.psp.decoder, x))
        latents = self.psp.encode(to_input(x, "rgb", 3))
        if self.part == "encoder":
            return latents
        return to_picture(synthesise(self.psp.decoder, latents)), latents


def synthesise(generator: Generator, w: torch.Tensor) -> torch.Tensor:
    """W+ codes [B,L,S] -> picture [B,3,H,W]: what `generator(w)` computes."""
    codes, noises = w.unbind(1), generator.noises.tensors()
    x = generator.input.input.repeat(len(w), 1, 1, 1)
    x = styled_conv(generator.conv1, x, codes[0], noises[0])
    rgb = to_rgb(generator.to_rgb1, x, codes[1], None)
    for i, last in enumerate(generator.to_rgbs):
        for layer in (2 * i + 1, 2 * i + 2):
            x = styled_conv(generator.convs[layer - 1], x, codes[layer], noises[layer])
        rgb = to_rgb(last, x, codes[2 * i + 3], rgb)
    return rgb


def styled_conv(layer: StyledConv, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """x [B,I,H,W], w [B,S], noise [1,1,H',W'] -> [B,O,H',W']."""
    y = modulated_conv(layer.conv, x, w) + layer.noise.weight * noise
    return F.leaky_relu(y + layer.activate.bias[:, None, None], 0.2) * math.sqrt(2)


def to_rgb(layer: ToRGB, x: torch.Tensor, w: torch.Tensor, rgb: torch.Tensor | None) -> torch.Tensor:
    """x [B,I,H,W], w [B,S] and the picture so far [B,3,H/2,W/2] -> [B,3,H,W]."""
    y = modulated_conv(layer.conv, x, w) + layer.bias
    return y if rgb is None else y + upfirdn2d(rgb, layer.upsample.kernel, up=2, pad=(2, 1))


def sample_weights(layer: ModulatedConv, w: torch.Tensor) -> torch.Tensor:
    """Modulated, normalised weights [B,O,I,k,k] for codes w [B,S]."""
    style = layer.modulation(w)
    weight = layer.effective_weight() * style[:, None, :, None, None]
    if not layer.demodulate:
        return weight
    return weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + DEMODULATION_EPS)


def modulated_conv(layer: ModulatedConv, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x [B,I,H,W], w [B,S] -> [B,O,H,W], or [B,O,2H,2W] when upsampling: one group per picture."""
    weight = sample_weights(layer, w)
    batch, outputs, inputs, side, _ = weight.shape
    x = x.reshape(1, batch * inputs, *x.shape[2:])
    if layer.upsample:
        weight = weight.transpose(1, 2).reshape(batch * inputs, outputs, side, side)
        y = F.conv_transpose2d(x, weight, stride=2, groups=batch)
        return upfirdn2d(y.reshape(batch, outputs, *y.shape[2:]), layer.blur.kernel, pad=(1, 1))
    weight = weight.reshape(batch * outputs, inputs, side, side)
    y = F.conv2d(x, weight, padding=side // 2, groups=batch)
    return y.reshape(batch, outputs, *y.shape[2:])


def upfirdn2d(x: torch.Tensor, fir: torch.Tensor, up: int = 1, down: int = 1, pad=(0, 0)) -> torch.Tensor:
    """Zeros in, pad, filter, decimate, step by step: x [B,C,H,W], fir [kh,kw], pad (before, after) of both axes."""
    batch, channels, height, width = x.shape
    spread = F.pad(x.reshape(batch * channels, 1, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    padded = F.pad(spread.reshape(batch * channels, 1, height * up, width * up), (*pad, *pad))
    filtered = F.conv2d(padded, fir.flip(0, 1)[None, None])[:, :, ::down, ::down]
    return filtered.reshape(batch, channels, *filtered.shape[2:])
