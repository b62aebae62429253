"""Inputs of the two operations, and how far from their definition a result may be."""

import numpy as np
import torch

from psp_train.ops import fused_bias_leaky_relu, upfirdn2d

#: One rounding of the result, relative to its largest value; the plain torch form rounds a few times more.
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def error(y: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference over the largest magnitude expected, or over 1."""
    assert tuple(y.shape) == expected.shape
    return float(np.abs(y.detach().double().numpy() - expected).max() / max(np.abs(expected).max(), 1.0))


def random(shape, dtype=torch.float64, seed=0):
    """Normally distributed, exact in `dtype`."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def activated_blur(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return fused_bias_leaky_relu(upfirdn2d(x, torch.ones(4, 4) / 16, pad=(2, 1)), bias)
