"""Upsample, FIR filter, downsample: the resampling primitive of StyleGAN2.

It is linear in x, and its adjoint is itself: `up` and `down` change places, the FIR is turned by 180 degrees. So the
backward pass, and the backward pass of that, are calls of the same operator.
"""

import torch
import torch.nn.functional as F
from torch.library import custom_op

from psp_runtime.errors import PspError
from psp_runtime.kernels import launches
from psp_runtime.kernels.launches import Resampling
from psp_train.ops import cuda


def upfirdn2d(
    x: torch.Tensor, fir: torch.Tensor, up: int = 1, down: int = 1, pad: tuple[int, ...] = (0, 0), gain: float = 1.0
) -> torch.Tensor:
    """Insert `up - 1` zeros after every sample, pad (crop where negative), filter, keep every `down`-th sample.

    x [B,C,H,W], fir [kh,kw] -> [B,C,H',W'] in the dtype of x, channels-last if x is; `pad` = (before, after) of both
    axes, or (top, bottom, left, right). The filter is a convolution (torch's are correlations), times `gain`.
    Output height: (H * up + top + bottom - kh) // down + 1.

    float32, float16 and bfloat16 run as one CUDA kernel on a GPU, summed in float32. Raises `PspError` for shapes
    or devices that do not fit and for a FIR that wants a gradient.
    """
    if len(pad) not in (2, 4):
        raise PspError(f"upfirdn2d: pad {tuple(pad)}; expected 2 or 4 numbers")
    return resample(x, fir, Resampling(up, down, tuple(pad) * (4 // len(pad)), gain=gain))


def resample(x: torch.Tensor, fir: torch.Tensor, how: Resampling) -> torch.Tensor:
    """Do what `upfirdn2d` does, with all there is to choose: `how.flip` says that the FIR is flipped already."""
    if x.ndim != 4 or fir.ndim != 2:
        raise PspError(f"upfirdn2d: x {list(x.shape)}, fir {list(fir.shape)}; expected [B,C,H,W] and [kh,kw]")
    if fir.device != x.device:
        raise PspError(f"upfirdn2d: x on {x.device}, FIR on {fir.device}: move the FIR")
    if fir.requires_grad:
        raise PspError("upfirdn2d: the FIR is a constant of the operation, its gradient is not defined: detach it")
    how.output_size(x.shape[2:], fir.shape)
    return _upfirdn2d(x, fir, [how.up, how.down], list(how.pads), how.flip, how.gain)


def plain_upfirdn2d(x: torch.Tensor, fir: torch.Tensor, how: Resampling) -> torch.Tensor:
    """Compute the definition in plain torch: what the operator does on a CPU, and is tested against on a GPU."""
    channels = x.shape[1]
    z = _pad_or_crop(_insert_zeros(x, how.up), how.pads)
    kernel = (fir if how.flip else fir.flip(0, 1)).to(x.dtype) * how.gain
    with torch.autocast(x.device.type, enabled=False):  # the result has the dtype of x
        y = F.conv2d(z, kernel.expand(channels, 1, -1, -1), stride=how.down, groups=channels)
    return y.contiguous(memory_format=_memory_format(x))


def _pad_or_crop(x: torch.Tensor, pads: tuple[int, int, int, int]) -> torch.Tensor:
    top, bottom, left, right = pads
    x = F.pad(x, [max(pad, 0) for pad in (left, right, top, bottom)])
    return x[:, :, max(-top, 0) : x.shape[2] - max(-bottom, 0), max(-left, 0) : x.shape[3] - max(-right, 0)]


def _insert_zeros(x: torch.Tensor, up: int) -> torch.Tensor:
    if up == 1:
        return x
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    return x.reshape(batch, channels, height * up, width * up)


@custom_op("psp::upfirdn2d", mutates_args=())
def _upfirdn2d(
    x: torch.Tensor, fir: torch.Tensor, factors: list[int], pads: list[int], flip: bool, gain: float
) -> torch.Tensor:
    """Compute it on any device; `factors` is [up, down], as an operator of torch takes lists and no `Resampling`."""
    return plain_upfirdn2d(x, fir, Resampling(*factors, tuple(pads), flip, gain))


@_upfirdn2d.register_kernel("cuda")
def _upfirdn2d_cuda(
    x: torch.Tensor, fir: torch.Tensor, factors: list[int], pads: list[int], flip: bool, gain: float
) -> torch.Tensor:
    how = Resampling(*factors, tuple(pads), flip, gain)
    if not cuda.usable(x):
        return plain_upfirdn2d(x, fir, how)
    y, fir = empty_result(x, fir, how), fir.float().contiguous()
    cuda.launch(launches.upfirdn2d(cuda.describe(x), fir.data_ptr(), tuple(fir.shape), cuda.describe(y), how), x)
    return y


@_upfirdn2d.register_fake
def _(x: torch.Tensor, fir: torch.Tensor, factors: list[int], pads: list[int], flip: bool, gain: float) -> torch.Tensor:
    return empty_result(x, fir, Resampling(*factors, tuple(pads)))


def _keep_fir(ctx, inputs, output) -> None:
    x, fir, ctx.factors, ctx.pads, ctx.flip, ctx.gain = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(fir)


def _backward(ctx, dy: torch.Tensor):
    """Apply the adjoint. Its paddings make the window of x[r] start kh - 1 - top before dy, and its size that of x."""
    (fir,), (up, down) = ctx.saved_tensors, ctx.factors
    pads = []
    for axis in (0, 1):
        before = ctx.pads[2 * axis]
        after = ctx.size[axis] * up - up + 1 + before - dy.shape[2 + axis] * down
        pads += [fir.shape[axis] - 1 - before, after]
    return _upfirdn2d(dy, fir, [down, up], pads, not ctx.flip, ctx.gain), None, None, None, None, None


_upfirdn2d.register_autograd(_backward, setup_context=_keep_fir)


def empty_result(x: torch.Tensor, fir: torch.Tensor, how: Resampling) -> torch.Tensor:
    """Make room for the result: [B,C,H',W'] in the dtype and memory order of x."""
    size = how.output_size(x.shape[2:], fir.shape)
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=_memory_format(x))


def _memory_format(x: torch.Tensor) -> torch.memory_format:
    channels_last = x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
