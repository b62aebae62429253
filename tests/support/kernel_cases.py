"""Tensors for the tests of the CUDA kernels, and the launches for them."""

import torch
from op_cases import random

from psp_runtime.kernels import launches
from psp_runtime.kernels.launches import DTYPES, Launch, Resampling
from psp_train.ops import cuda
from psp_train.ops.upfirdn2d import empty_result

TYPES = [getattr(torch, name) for name in DTYPES]


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
