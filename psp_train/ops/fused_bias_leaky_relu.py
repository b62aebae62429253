"""Bias, leaky ReLU and gain in one step: `leaky_relu(x + b, slope) * gain` (StyleGAN2's activation).

Backward needs only the result: its sign is that of x + b. So one tensor is kept instead of two.
"""

import math

import torch
from torch.library import custom_op

from psp_runtime.errors import PspError
from psp_runtime.kernels import launches
from psp_train.ops import cuda

GAIN = math.sqrt(2.0)


def fused_bias_leaky_relu(x: torch.Tensor, bias: torch.Tensor, slope: float = 0.2, gain: float = GAIN) -> torch.Tensor:
    """Add a bias to each channel, apply a leaky ReLU and multiply by `gain`, by default √2, which keeps the variance of
    a normal input.

    x [B,C,...], bias [C] -> [B,C,...] in the dtype and memory order of x. float32, float16 and bfloat16 run as one CUDA
    kernel on a GPU, rounded once. Raises `PspError` for a bias that does not fit, a gain that is not positive or a
    negative slope (the sign of the result would not tell the branch).
    """
    if x.ndim < 2 or bias.shape != x.shape[1:2]:
        raise PspError(f"fused_bias_leaky_relu: x {list(x.shape)}, bias {list(bias.shape)}; expected [B,C,...] and [C]")
    if bias.device != x.device:
        raise PspError(f"fused_bias_leaky_relu: x on {x.device}, bias on {bias.device}: move the bias")
    if not (gain > 0 and slope >= 0):
        raise PspError(f"fused_bias_leaky_relu: gain {gain}, slope {slope}; expected gain > 0 and slope >= 0")
    return _forward(x, bias, slope, gain)


def plain_bias_leaky_relu(x: torch.Tensor, bias: torch.Tensor, slope: float = 0.2, gain: float = GAIN) -> torch.Tensor:
    """Compute the definition in plain torch: what the operator does on a CPU, and is tested against on a GPU."""
    y = torch.empty_like(x)
    torch.add(x, bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2)), out=y)
    return torch.nn.functional.leaky_relu_(y, slope).mul_(gain)


@custom_op("psp::fused_bias_leaky_relu", mutates_args=())
def _forward(x: torch.Tensor, bias: torch.Tensor, slope: float, gain: float) -> torch.Tensor:
    return plain_bias_leaky_relu(x, bias, slope, gain)


@_forward.register_kernel("cuda")
def _forward_cuda(x: torch.Tensor, bias: torch.Tensor, slope: float, gain: float) -> torch.Tensor:
    if not cuda.usable(x):
        return plain_bias_leaky_relu(x, bias, slope, gain)
    y = torch.empty_like(x)
    x = _laid_out_as(x, y)
    bias = bias.float().contiguous()
    plan = launches.bias_leaky_relu(cuda.describe(x), bias.data_ptr(), y.data_ptr(), *_channels(y), slope, gain)
    cuda.launch(plan, x)
    return y


def plain_gradient(dy: torch.Tensor, y: torch.Tensor, slope: float, gain: float) -> torch.Tensor:
    """Compute dy * gain where y > 0, dy * gain * slope elsewhere, in the memory order of y, in plain torch."""
    dx = torch.empty_like(y)
    torch.ops.aten.leaky_relu_backward.grad_input(dy, y, slope, True, grad_input=dx)
    return dx.mul_(gain)


@custom_op("psp::leaky_relu_gradient", mutates_args=())
def _gradient(dy: torch.Tensor, y: torch.Tensor, slope: float, gain: float) -> torch.Tensor:
    return plain_gradient(dy, y, slope, gain)


@_gradient.register_kernel("cuda")
def _gradient_cuda(dy: torch.Tensor, y: torch.Tensor, slope: float, gain: float) -> torch.Tensor:
    if not cuda.usable(y):
        return plain_gradient(dy, y, slope, gain)
    dx = torch.empty_like(y)
    dy, y = _laid_out_as(dy, dx), _laid_out_as(y, dx)
    cuda.launch(launches.leaky_relu_gradient(cuda.describe(dy), y.data_ptr(), dx.data_ptr(), slope, gain), y)
    return dx


@_forward.register_fake
def _(x: torch.Tensor, bias: torch.Tensor, slope: float, gain: float) -> torch.Tensor:
    return torch.empty_like(x)


@_gradient.register_fake
def _(dy: torch.Tensor, y: torch.Tensor, slope: float, gain: float) -> torch.Tensor:
    return torch.empty_like(y)


def _keep_result(ctx, inputs, output) -> None:
    _, bias, ctx.slope, ctx.gain = inputs
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(output)


def _backward(ctx, dy: torch.Tensor):
    (y,) = ctx.saved_tensors
    dx = _gradient(dy, y, ctx.slope, ctx.gain)
    rest = [axis for axis in range(dx.ndim) if axis != 1]
    db = dx.sum(rest, dtype=torch.promote_types(dx.dtype, torch.float32)) if ctx.needs_input_grad[1] else None
    return dx, None if db is None else db.to(ctx.bias_dtype), None, None


def _keep_sign(ctx, inputs, output) -> None:
    _, y, ctx.slope, ctx.gain = inputs
    ctx.save_for_backward(y)


def _backward_of_gradient(ctx, ddx: torch.Tensor):
    """Differentiate once more: the gradient is linear in dy and, between the kinks, constant in y."""
    (y,) = ctx.saved_tensors
    return _gradient(ddx, y, ctx.slope, ctx.gain), None, None, None


_forward.register_autograd(_backward, setup_context=_keep_result)
_gradient.register_autograd(_backward_of_gradient, setup_context=_keep_sign)


def _laid_out_as(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return x itself, or a copy with the strides of `like`, which has no gaps."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def _channels(y: torch.Tensor) -> tuple[int, int]:
    """Count the channels, and the elements between two of them in memory."""
    return y.shape[1], y.stride(1)
