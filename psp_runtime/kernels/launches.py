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

# As in the sources: threads per block, and outputs per thread (columns, rows) by (up, down).
_THREADS, _ACROSS, _FIR = 128, 32, (4, 4)
_TILED = {(1, 1): (4, 8), (2, 1): (4, 8), (1, 2): (2, 4)}
_STRIPS = {(1, 1): 4, (2, 1): 4, (1, 2): 2}
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
    params = Upfirdn2dParams(
        *(x.address, fir, y.address),
        *(batch, channels, height, width, out_height, out_width),
        *((_I64 * 4)(*x.strides), (_I64 * 4)(*y.strides)),
        *(*fir_size, how.up, how.down, how.pads[0], how.pads[2], how.flip, channels_last, how.gain),
    )
    form, blocks = "general", _blocks(math.prod(y.shape))
    if fir_size == _FIR and (how.up, how.down) in _TILED:
        if channels_last and _whole_vectors(x, channels) and _whole_vectors(y, channels):
            vectors = channels * DTYPES[x.dtype] // _VECTOR_BYTES
            strips = math.ceil((out_width + -how.pads[2] % how.up) / _STRIPS[how.up, how.down])
            form, blocks = f"channels_last_up{how.up}_down{how.down}", _blocks(batch * out_height * strips * vectors)
        elif not channels_last:
            columns, rows = _TILED[how.up, how.down]
            tiles_x = math.ceil((out_width + -how.pads[2] % how.up) / (_ACROSS * columns))
            tiles_y = math.ceil((out_height + -how.pads[0] % how.up) / (_THREADS // _ACROSS * rows))
            form, blocks = f"tiled_up{how.up}_down{how.down}", batch * channels * tiles_y * tiles_x
    return Launch("upfirdn2d", x.dtype, f"upfirdn2d_{form}", min(blocks, _MAX_GRID), _THREADS, params)


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


def _whole_vectors(tensor: Tensor, channels: int) -> bool:
    """Whether every pixel's channels are vectors of 16 bytes at addresses that are multiples of 16."""
    size = DTYPES[tensor.dtype]
    steps = [tensor.strides[axis] for axis in (0, 2, 3) if tensor.shape[axis] > 1]
    return all(value * size % _VECTOR_BYTES == 0 for value in (channels, *steps)) and tensor.address % 16 == 0
