"""ALAE and IDInvert of the paper's runtime column, in deployable form: constants folded, uint8 in and out.

* ALAE: StyleALAE, FFHQ 1024 (Pidhorskyi et al., "Adversarial Latent Autoencoders", CVPR 2020).
* IDInvert, FFHQ 256, without its optimisation (Zhu et al., "In-Domain GAN Inversion", ECCV 2020).

A network is made of tensors by their published keys (`weights.py`). Folded are batch norm, spread kernels,
equalised scales, biases and "1 +"; noise is constant, as in our engines. Layers stay what they are, so the work is
that of the published code, with whose outputs the tests compare. What reconstruction does not use is left out:
mapping networks, ALAE's discriminator, the from- and to-RGB layers of smaller pictures.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from measure.peers.layers import (
    State,
    batch_norm,
    below,
    blur,
    conv,
    conv_transpose,
    from_uint8,
    linear,
    moments,
    numbered,
    spread,
)
from psp_train.networks.psp import to_picture

ENCODER_EPS, STYLE_EPS = 1e-5, 1e-8
#: From this side on, a change of the side is part of the convolution.
FUSED_FROM = 128


class Inversion(nn.Module):
    """An encoder and a generator, over float32 pictures [B,3,S,S] in [-1,1]."""

    def __init__(self, encoder: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.encoder, self.generator = encoder, generator

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [B,S,S,3] to a picture of the same shape, and the codes between."""
        codes = self.encoder(from_uint8(image))
        return to_picture(self.generator(codes)), codes


class LayerTensors(NamedTuple):
    """What a layer of `Synthesis` is made of; the first has no `weight` [O,I,3,3]. Scales are in the weights."""

    weight: Tensor | None
    bias: Tensor
    noise: Tensor
    noise_weight: Tensor
    style_weight: Tensor
    style_bias: Tensor


def alae(state: State) -> Inversion:
    """Build StyleALAE from the keys of its checkpoint, and `noise.N` for every layer."""
    generator = below(state, "decoder.")
    layers = []
    for i, block in enumerate(numbered(generator, "decode_block.{}.")):
        for which in (1, 2):
            weight, noise = block.get(f"conv_{which}.weight"), state[f"noise.{2 * i + which - 1}"]
            if which == 1 and noise.shape[-1] >= FUSED_FROM:  # a transposed convolution, stored [I,O,3,3]
                weight = weight.transpose(0, 1)
            style = below(block, f"style_{which}.")
            own = block[f"bias_{which}"], noise, block[f"noise_weight_{which}"]
            layers.append(LayerTensors(weight, *own, style["weight"], style["bias"]))
    last = below(generator, f"to_rgb.{i}.to_rgb.")
    to_rgb = conv(last["weight"], last["bias"])
    return Inversion(ALAEEncoder(below(state, "encoder.")), Synthesis(generator["const"], layers, to_rgb))


def idinvert(state: State) -> Inversion:
    """Build IDInvert from the keys of its checkpoint."""
    generator = below(state, "generator.synthesis.")
    layers = [_equalised(layer) for layer in numbered(generator, "layer{}.")]
    last = below(generator, f"output{len(layers) // 2 - 1}.")
    weight = last["conv.weight"] / math.sqrt(last["conv.weight"].shape[1])
    to_rgb = nn.Sequential(conv(weight, last["bias"]), nn.Tanh())
    synthesis = Synthesis(generator["layer0.const"], layers, to_rgb)
    return Inversion(IDInvertEncoder(below(state, "encoder."), layers[0].style_weight.shape[1]), synthesis)


def _equalised(state: State) -> LayerTensors:
    """The tensors of a layer of IDInvert's generator, its run-time scales folded in."""
    weight = state["weight"].permute(3, 2, 0, 1) if "weight" in state else state.get("conv.weight")
    if weight is not None:
        weight = weight * math.sqrt(2 / (9 * weight.shape[1]))
    noise, style = below(state, "epilogue.apply_noise."), below(state, "epilogue.style_mod.dense.")
    style_weight = style["fc.weight"] / math.sqrt(style["fc.weight"].shape[1])
    own = state["epilogue.bias"], noise["noise"], noise["weight"]
    return LayerTensors(weight, *own, style_weight, style["wscale.bias"])


class ALAEEncoder(nn.Module):
    """Map pictures to W codes [B,C]: a linear function of every channel's mean and deviation, layer after layer."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.from_rgb = conv(state["from_rgb.0.from_rgb.weight"], state["from_rgb.0.from_rgb.bias"])
        blocks = numbered(state, "encode_block.{}.")
        self.layers, styles = nn.ModuleList(), []
        for i, block in enumerate(blocks):
            self.layers.append(conv(block["conv_1.weight"], block["bias_1"], padding=1))
            self.layers.append(_halving(block["conv_2.weight"], block["bias_2"], 2 ** (len(blocks) + 1 - i)))
            styles += [below(block, "style_1."), below(block, "style_2.")]
        weight = torch.cat([style["weight"] for style in styles], 1)
        self.style = linear(weight, torch.stack([style["bias"] for style in styles]).sum(0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.from_rgb(x), 0.2**2)  # the published code applies it twice
        statistics = []
        for layer in self.layers:
            mean, centred, variance = moments(F.leaky_relu(layer(x), 0.2))
            statistics += [mean, variance.sqrt()]
            x = centred * (variance + ENCODER_EPS).rsqrt()
        return self.style(torch.cat(statistics, 1).flatten(1))


def _halving(weight: Tensor, bias: Tensor, side: int) -> nn.Module:
    """Blur, convolve and halve the side."""
    if side >= FUSED_FROM:
        return nn.Sequential(blur(weight.shape[1]), conv(spread(weight) / 4, bias, stride=2, padding=1))
    return nn.Sequential(blur(weight.shape[1]), conv(weight, bias, padding=1), nn.AvgPool2d(2))


class IDInvertEncoder(nn.Module):
    """Map pictures to W+ codes [B,L,C]: residual blocks, then one linear layer."""

    def __init__(self, state: State, code: int) -> None:
        super().__init__()
        first, *blocks, last = numbered(state, "block{}.")
        self.first = _normalised(first, "conv.weight", "bn.bn.")
        self.blocks = nn.ModuleList(_Residual(block) for block in blocks)
        weight = last["fc.weight"] / math.sqrt(last["fc.weight"].shape[1])
        self.last = linear(*fuse_linear_bn_weights(weight, None, *batch_norm(last, "bn.bn.")))
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(F.avg_pool2d(x, 2))
        return self.last(x.flatten(1)).unflatten(1, (-1, self.code))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.shortcut = _normalised(state, "conv.weight", "bn.bn.") if "conv.weight" in state else nn.Identity()
        self.first = _normalised(state, "conv1.weight", "bn1.bn.", state["wscale1.bias"])
        self.second = _normalised(state, "conv2.weight", "bn2.bn.", state["wscale2.bias"])

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x))


def _normalised(state: State, key: str, norm: str, bias: Tensor | None = None) -> nn.Module:
    """A convolution with its batch norm folded in, and leaky ReLU."""
    weight, bias = fuse_conv_bn_weights(state[key], bias, *batch_norm(state, norm))
    return nn.Sequential(conv(weight, bias, padding=weight.shape[-1] // 2), nn.LeakyReLU(0.2))


class Synthesis(nn.Module):
    """StyleGAN's first generator (Karras et al. 2019): codes [B,L,C], or one [B,C] for all layers -> [B,3,S,S]."""

    def __init__(self, const: Tensor, layers: list[LayerTensors], to_rgb: nn.Module) -> None:
        super().__init__()
        self.register_buffer("const", const + layers[0].bias.reshape(-1, 1, 1))
        self.layers = nn.ModuleList(_StyledLayer(tensors, i % 2 == 0) for i, tensors in enumerate(layers))
        self.to_rgb = to_rgb

    def forward(self, codes: Tensor) -> Tensor:
        x = self.const.expand(codes.shape[0], -1, -1, -1)
        for i, layer in enumerate(self.layers):
            x = layer(x, codes if codes.ndim == 2 else codes[:, i])
        return self.to_rgb(x)


class _StyledLayer(nn.Module):
    """Convolve, add noise, leaky ReLU, instance norm, style."""

    def __init__(self, tensors: LayerTensors, grows: bool) -> None:
        super().__init__()
        self.convolve = nn.Identity() if tensors.weight is None else _convolution(tensors, grows)
        self.register_buffer("noise", tensors.noise)
        # With a scale of 1 and a shift of 0: without any, torch cannot export it with a dynamic batch.
        self.norm = nn.InstanceNorm2d(tensors.bias.numel(), STYLE_EPS, affine=True)
        self.register_buffer("noise_weight", tensors.noise_weight.reshape(-1, 1, 1))
        scale, shift = tensors.style_bias.chunk(2)
        self.style = linear(tensors.style_weight, torch.cat([1 + scale, shift]))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        x = self.convolve(x) + self.noise_weight * self.noise
        scale, shift = self.style(code)[:, :, None, None].chunk(2, 1)
        return self.norm(F.leaky_relu(x, 0.2)) * scale + shift


def _convolution(tensors: LayerTensors, grows: bool) -> nn.Module:
    """What comes before the noise, with the bias in its last convolution."""
    weight, bias = tensors.weight, tensors.bias
    if not grows:
        return conv(weight, bias, padding=1)
    if tensors.noise.shape[-1] >= FUSED_FROM:
        grow = conv_transpose(spread(weight).transpose(0, 1), stride=2, padding=1)
        return nn.Sequential(grow, blur(len(weight), bias))
    return nn.Sequential(nn.Upsample(scale_factor=2), conv(weight, padding=1), blur(len(weight), bias))
