"""Bias, leaky ReLU and gain in one step: `leaky_relu(x + b, slope) * gain` (StyleGAN2's activation)."""

import math

import torch
import torch.nn.functional as F

GAIN = math.sqrt(2.0)


def fused_bias_leaky_relu(x: torch.Tensor, bias: torch.Tensor, slope: float = 0.2, gain: float = GAIN) -> torch.Tensor:
    """x [B,C,...], bias [C] -> [B,C,...]. The gain √2 keeps the variance of a normal input."""
    bias = bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    return F.leaky_relu(x + bias, slope) * gain
