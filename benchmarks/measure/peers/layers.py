"""Layers over given tensors, and how tensors are found by their keys."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Tensors by the keys of a published checkpoint.
State = dict[str, Tensor]


def from_uint8(image: Tensor) -> Tensor:
    """Pictures uint8 [B,S,S,3] as float32 [B,3,S,S] in [-1,1]. TensorRT moves no axes of uint8: numbers first."""
    return image.float().permute(0, 3, 1, 2) / 127.5 - 1


def below(state: State, prefix: str) -> State:
    """The tensors below a prefix, by the rest of their keys."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def numbered(state: State, prefix: str, step: int = 1) -> list[State]:
    """The tensors below `prefix` with the numbers 0, step, 2 step, … in it, as far as there are any."""
    groups = (below(state, prefix.format(number)) for number in itertools.count(0, step))
    return list(itertools.takewhile(bool, groups))


def conv(weight: Tensor, bias: Tensor | None = None, **options) -> nn.Conv2d:
    """A convolution with a weight [O,I/groups,k,k]."""
    outputs, inputs, *kernel = weight.shape
    inputs *= options.get("groups", 1)
    return _filled(nn.Conv2d(inputs, outputs, kernel, bias=bias is not None, device="meta", **options), weight, bias)


def conv_transpose(weight: Tensor, bias: Tensor | None = None, **options) -> nn.ConvTranspose2d:
    """A transposed convolution with a weight [I,O,k,k]."""
    inputs, outputs, *kernel = weight.shape
    module = nn.ConvTranspose2d(inputs, outputs, kernel, bias=bias is not None, device="meta", **options)
    return _filled(module, weight, bias)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with a weight [O,I]."""
    return _filled(nn.Linear(weight.shape[1], len(weight), device="meta"), weight, bias)


def _filled(module, weight: Tensor, bias: Tensor | None):
    module.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().flatten(), requires_grad=False)
    return module


def blur(channels: int, bias: Tensor | None = None) -> nn.Conv2d:
    """A binomial 3 x 3 filter over every channel, zeros around."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    return conv(taps.outer(taps).expand(channels, 1, 3, 3), bias, padding=1, groups=channels)


def spread(weight: Tensor) -> Tensor:
    """A kernel [.,.,3,3] that is added up at four neighbouring places: [.,.,4,4]."""
    padded = F.pad(weight, (1, 1, 1, 1))
    return padded[..., 1:, 1:] + padded[..., :-1, 1:] + padded[..., 1:, :-1] + padded[..., :-1, :-1]


def batch_norm(state: State, prefix: str) -> tuple:
    """Mean, variance, epsilon, scale and shift of a batch norm, as torch's `fuse_..._bn_weights` take them."""
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, scale, shift = (state.get(f"{prefix}{name}") for name in names)
    return mean, variance, 1e-5, scale, shift


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [B,C,1,1] over the places of x, x without it, and the variance [B,C,1,1]."""
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    return mean, centred, centred.square().mean((2, 3), keepdim=True)
