"""Inputs of the two operations, and how far from their definition a result may be."""

import numpy as np
import torch

from psp_runtime.kernels import launches
from psp_runtime.kernels.launches import DTYPES, Launch, Resampling
from psp_train.ops import cuda, fused_bias_leaky_relu, upfirdn2d
from psp_train.ops.upfirdn2d import empty_result

#: One rounding of the result, relative to its largest value; the plain torch form rounds a few times more.
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LAYOUTS = [torch.contiguous_format, torch.channels_last]

TYPES = [getattr(torch, name) for name in DTYPES]


def error(y: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference over the largest magnitude expected, or over 1."""
    assert tuple(y.shape) == expected.shape
    return float(np.abs(y.detach().double().numpy() - expected).max() / max(np.abs(expected).max(), 1.0))


def random(shape, dtype=torch.float64, seed=0):
    """Normally distributed, exact in `dtype`."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def activated_blur(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return fused_bias_leaky_relu(upfirdn2d(x, torch.ones(4, 4) / 16, pad=(2, 1)), bias)


def planned(x: torch.Tensor, fir: torch.Tensor, how: Resampling) -> tuple[Launch, torch.Tensor]:
    """The launch for these tensors, and its result, empty as yet."""
    y = empty_result(x, fir, how).fill_(torch.nan)
    return launches.upfirdn2d(cuda.describe(x), fir.data_ptr(), tuple(fir.shape), cuda.describe(y), how), y


def layouts(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One shape in memory orders that need different kernels."""
    batch, channels, height, width = shape
    x = random(shape, dtype)
    wide = random((batch, channels, width + 3, height * 2), dtype)
    return {
        "planes": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "gaps": wide.transpose(2, 3)[:, :, ::2, 1:-2],
        "misaligned channels last": random((batch, height, width, channels + 1), dtype)[..., 1:].permute(0, 3, 1, 2),
        "one batch, expanded": x[:1].expand(batch, -1, -1, -1),
    }
