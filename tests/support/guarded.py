"""Runs the emulated kernels on tensors between pages that must not be touched: a stray read or write ends the process.

python tests/support/guarded.py [short]       # short: the tensors are a row shorter than the kernels are told
"""

import ctypes
import itertools
import mmap
import sys

import definitions
import emulator
import torch
from op_cases import ROUNDING, error, random

from psp_runtime.kernels import launches
from psp_runtime.kernels.launches import Resampling
from psp_train.ops import cuda
from psp_train.ops.upfirdn2d import empty_result

PAGE = mmap.PAGESIZE
SIZES = [
    ((3, 8, 9, 7), (2, 1, 2, 1)),
    ((2, 8, 5, 135), (1, 2, -1, 3)),
    ((1, 8, 37, 4), (3, -2, 3, 4)),
    ((1, 2, 33, 33), (1, 1, 1, 1)),
]
_areas = []


def guarded(tensor: torch.Tensor, at_end: bool) -> torch.Tensor:
    """A copy without gaps that begins right after a forbidden page, or ends right before one."""
    size = tensor.untyped_storage().nbytes()
    pages = -(-size // PAGE)
    area = mmap.mmap(-1, (pages + 2) * PAGE)
    _areas.append(area)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for guard in (base, base + (pages + 1) * PAGE):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(guard), PAGE, 0) == 0
    start = PAGE + (pages * PAGE - size if at_end else 0)
    memory = torch.frombuffer(area, dtype=tensor.dtype, count=size // tensor.element_size(), offset=start)
    return memory.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def check(dtype: torch.dtype, factors: tuple[int, int], steps: int, at_end: bool, short: bool) -> None:
    """Both operations in both memory orders."""
    launches._STEPS = (steps,)
    fir = guarded(random((4, 4), torch.float32), at_end)
    for (shape, pads), order in itertools.product(SIZES, (torch.contiguous_format, torch.channels_last)):
        x = guarded(random(shape, dtype).to(memory_format=order), at_end)
        how = Resampling(*factors, pads)
        y = guarded(empty_result(x, fir, how).zero_(), at_end)
        told = cuda.describe(x)._replace(shape=(*shape[:2], shape[2] + short, shape[3]))
        emulator.run(launches.upfirdn2d(told, fir.data_ptr(), (4, 4), cuda.describe(y), how))
        assert short or error(y, definitions.upfirdn2d(x.double(), fir, *factors, pads)) < ROUNDING[dtype]
        z, bias = guarded(x, at_end), guarded(random(shape[1], torch.float32), at_end)
        emulator.run(
            launches.bias_leaky_relu(told, bias.data_ptr(), z.data_ptr(), shape[1], x.stride(1), 0.25, 1.5),
        )
        assert short or error(z, definitions.fused_bias_leaky_relu(x.double(), bias, 0.25, 1.5)) < ROUNDING[dtype]


if __name__ == "__main__":
    for dtype in (torch.float16, torch.float32):
        for factors in ((1, 1), (2, 1), (1, 2), (3, 2)):
            for at_end, steps in itertools.product((False, True), (32, 8)):
                check(dtype, factors, steps, at_end, "short" in sys.argv)
    print("nothing was touched that is not theirs")
