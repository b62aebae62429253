"""What to launch: kernel, grid and arguments for the tensors given. Pure arithmetic, no GPU.

Addresses are those of GPU memory (of host memory when the kernels are emulated), strides are in elements.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psp_runtime.errors import PspError

#: Element types the kernels have, and their bytes.
DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}

# As in the sources: threads per block, and steps of a walk until the first row of outputs is complete, by (up, down).
_THREADS, _FIR = 128, (4, 4)
_BEFORE = {(1, 1): 3, (2, 1): 1, (1, 2): 1}
# What a thread takes: 16 bytes of a row of outputs (8 when halving) in planes, else 4 channels of 2 outputs.
_ROW_BYTES, _CHANNELS, _OUTPUTS = 16, 4, 2
# Long walks read fewer samples twice, short ones make more threads: the longest that leave enough threads for a GPU.
# Multiples of the steps that the kernels read ahead, 4 at most.
_STEPS, _ENOUGH = (32, 16, 8), 80_000
_LARGEST_SIDE = 2**28  # walks count rows and columns in 32 bits
_ELEMENTWISE_THREADS = 256
_VECTOR_BYTES = 16
_MAX_GRID = 2**31 - 1

Sizes = Sequence[int]


class Tensor(NamedTuple):
    """A tensor in memory. `dtype` is one of `DTYPES`; shape and strides are [B,C,H,W] where four are needed."""

    address: int
    dtype: str
    shape: Sizes
    strides: Sizes


@dataclass(frozen=True)
class Resampling:
    """What upfirdn2d does besides filtering; `pads` is (top, bottom, left, right), negative crops."""

    up: int = 1
    down: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip: bool = False
    gain: float = 1.0

    def output_size(self, size: tuple[int, int], fir: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result. Raises `PspError` where nothing is left, or for factors below 1."""
        if self.up < 1 or self.down < 1:
            raise PspError(f"upfirdn2d: up {self.up}, down {self.down}; expected factors of 1 or more")
        top, bottom, left, right = self.pads
        padded = (size[0] * self.up + top + bottom, size[1] * self.up + left + right)
        if padded[0] < fir[0] or padded[1] < fir[1]:
            raise PspError(f"upfirdn2d: {padded[0]}x{padded[1]} after padding, smaller than the FIR {fir[0]}x{fir[1]}")
        return (padded[0] - fir[0]) // self.down + 1, (padded[1] - fir[1]) // self.down + 1


class Walk(NamedTuple):
    """Strips of outputs side by side, walks below each other, and the steps of each walk."""

    strips: int
    walks: int
    steps: int


class Launch(NamedTuple):
    """One kernel of one source and element type, with its grid and its only argument, a structure."""

    source: str
    dtype: str
    kernel: str
    grid: int
    block: int
    params: ctypes.Structure


_I64 = ctypes.c_int64


class Upfirdn2dParams(ctypes.Structure):
    """`struct Upfirdn2d` of upfirdn2d.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "fir", "y")),
        *((name, _I64) for name in ("batch", "channels", "height", "width", "out_height", "out_width")),
        ("x_strides", _I64 * 4),
        ("y_strides", _I64 * 4),
        *((name, _I64) for name in ("fir_height", "fir_width", "up", "down", "pad_top", "pad_left")),
        ("flip", _I64),
        ("channels_last", _I64),
        *((name, _I64) for name in ("strips", "walks", "steps")),
        ("gain", ctypes.c_double),
    ]


class BiasLeakyReLUParams(ctypes.Structure):
    """`struct BiasLeakyReLU` of fused_bias_leaky_relu.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "bias", "y")),
        *((name, _I64) for name in ("count", "inner", "channels")),
        ("slope", ctypes.c_float),
        ("gain", ctypes.c_float),
    ]


class LeakyReLUGradientParams(ctypes.Structure):
    """`struct LeakyReLUGradient` of fused_bias_leaky_relu.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("dy", "y", "dx")),
        ("count", _I64),
        ("slope", ctypes.c_float),
        ("gain", ctypes.c_float),
    ]


def upfirdn2d(x: Tensor, fir: int, fir_size: tuple[int, int], y: Tensor, how: Resampling) -> Launch | None:
    """x [B,C,H,W] -> y [B,C,H',W'], any strides; `fir` is the address of float32 [kh,kw]. None: nothing to do."""
    if math.prod(y.shape) == 0:
        return None
    batch, channels, height, width = x.shape
    out_height, out_width = y.shape[2:]
    channels_last = channels > 1 and x.strides[1] == y.strides[1] == 1
    form, blocks, walk = "general", _blocks(math.prod(y.shape)), Walk(0, 0, 0)
    vectors = channels_last and _whole_vectors(x) and _whole_vectors(y)
    planes = not channels_last and x.strides[3] == y.strides[3] == 1 and _whole_pairs(x)
    small = max(height, width, out_height, out_width) < _LARGEST_SIDE
    if fir_size == _FIR and (how.up, how.down) in _BEFORE and (vectors or planes) and small:
        groups = batch * channels // (_CHANNELS if vectors else 1)
        walk = _choose_walk(y, how, _OUTPUTS if vectors else _ROW_BYTES // DTYPES[y.dtype] // how.down, groups)
        form = f"{'channels_last' if vectors else 'planes'}_up{how.up}_down{how.down}"
        blocks = _blocks(groups * walk.strips * walk.walks)
    params = Upfirdn2dParams(
        *(x.address, fir, y.address),
        *(batch, channels, height, width, out_height, out_width),
        *((_I64 * 4)(*x.strides), (_I64 * 4)(*y.strides)),
        *(*fir_size, how.up, how.down, how.pads[0], how.pads[2], how.flip, channels_last, *walk, how.gain),
    )
    return Launch("upfirdn2d", x.dtype, f"upfirdn2d_{form}", min(blocks, _MAX_GRID), _THREADS, params)


def _choose_walk(y: Tensor, how: Resampling, across: int, groups: int) -> Walk:
    """Choose how the outputs are divided among threads that take `across` of them side by side, in each of `groups`."""
    height, width = y.shape[2:]
    strips = math.ceil((width + -how.pads[2] % how.up) / across)
    height += (_FIR[0] - 1 - how.pads[0]) % how.up
    for steps in _STEPS:
        walks = math.ceil(height / (how.up * (steps - _BEFORE[how.up, how.down])))
        if groups * strips * walks >= _ENOUGH:
            break
    return Walk(strips, walks, steps)


def bias_leaky_relu(
    x: Tensor, bias: int, y: int, channels: int, inner: int, slope: float, gain: float
) -> Launch | None:
    """y = gain * leaky_relu(x + bias, slope), x and y without gaps and of one memory order.

    `bias` is the address of float32 [channels], `inner` the distance of neighbouring channels in elements.
    """
    count = math.prod(x.shape)
    params = BiasLeakyReLUParams(x.address, bias, y, count, inner, channels, slope, gain)
    return _elementwise("bias_leaky_relu", x.dtype, count, params)


def leaky_relu_gradient(dy: Tensor, y: int, dx: int, slope: float, gain: float) -> Launch | None:
    """dx = dy * gain * (1 where y > 0, else slope), all without gaps and of one memory order."""
    count = math.prod(dy.shape)
    params = LeakyReLUGradientParams(dy.address, y, dx, count, slope, gain)
    return _elementwise("leaky_relu_gradient", dy.dtype, count, params)


def _elementwise(kernel: str, dtype: str, count: int, params: ctypes.Structure) -> Launch | None:
    if count == 0:
        return None
    elements = _ELEMENTWISE_THREADS * _VECTOR_BYTES // DTYPES[dtype]
    grid = min(math.ceil(count / elements), _MAX_GRID)
    return Launch("fused_bias_leaky_relu", dtype, kernel, grid, _ELEMENTWISE_THREADS, params)


def _blocks(threads: int) -> int:
    return math.ceil(threads / _THREADS)


def _whole_vectors(tensor: Tensor) -> bool:
    """Say whether every pixel's channels are vectors of `_CHANNELS` at addresses that are multiples of their size."""
    steps = [tensor.strides[axis] for axis in (0, 2, 3) if tensor.shape[axis] > 1]
    aligned = tensor.address % (_CHANNELS * DTYPES[tensor.dtype]) == 0
    return aligned and all(value % _CHANNELS == 0 for value in (tensor.shape[1], *steps))


def _whole_pairs(tensor: Tensor) -> bool:
    """Say whether a tensor begins and ends at multiples of 4 bytes."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    return tensor.address % 4 == 0 and (last + 1) * DTYPES[tensor.dtype] % 4 == 0
