"""Convolutions that a CPU computes in FP32 where the graph says FP16.

Few CPUs convolve in half precision, and on the others torch takes minutes for one picture. Widening the operands, which
is exact, and rounding the result once is what tensor cores do as well: products summed in FP32. The exported graph has
the same node either way.
"""

import torch
import torch.nn.functional as F
from torch import nn


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> torch.Tensor:
    """x [B,I,H,W], weight [O,I/groups,k,k] -> [B,O,H',W'], as `torch.nn.functional.conv2d`."""
    if widened(x):
        return _Conv.apply(x, weight, bias, stride, padding, groups)
    return F.conv2d(x, weight, bias, stride, padding, groups=groups)


def conv_transpose2d(
    x: torch.Tensor, weight: torch.Tensor, stride: int = 1, padding: int = 0, groups: int = 1
) -> torch.Tensor:
    """x [B,I,H,W], weight [I,O/groups,k,k] -> [B,O,H',W'], as `torch.nn.functional.conv_transpose2d`."""
    if widened(x):
        return _ConvTranspose.apply(x, weight, stride, padding, groups)
    return F.conv_transpose2d(x, weight, stride=stride, padding=padding, groups=groups)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with square kernel, stride and padding, by `conv2d`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0], self.groups)


def widened(x: torch.Tensor) -> bool:
    """Whether convolutions of this tensor are computed in FP32."""
    return x.dtype == torch.float16 and x.device.type == "cpu"


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, groups):
        bias = None if bias is None else bias.float()
        return F.conv2d(x.float(), weight.float(), bias, stride, padding, groups=groups).half()

    @staticmethod
    def symbolic(g, x, weight, bias, stride, padding, groups):
        outputs, _, kernel, _ = weight.type().sizes()
        operands = [x, weight] if _absent(bias) else [x, weight, bias]
        node = g.op("Conv", *operands, **_attributes(kernel, stride, padding, groups))
        batch, _, *sides = x.type().varyingSizes()
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        return node.setType(x.type().with_sizes([batch, outputs, *sides]))


class _ConvTranspose(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, stride, padding, groups):
        return F.conv_transpose2d(x.float(), weight.float(), stride=stride, padding=padding, groups=groups).half()

    @staticmethod
    def symbolic(g, x, weight, stride, padding, groups):
        _, outputs, kernel, _ = weight.type().sizes()
        node = g.op("ConvTranspose", x, weight, **_attributes(kernel, stride, padding, groups))
        batch, _, *sides = x.type().varyingSizes()
        sides = [(side - 1) * stride + kernel - 2 * padding for side in sides]
        return node.setType(x.type().with_sizes([batch, outputs * groups, *sides]))


def _attributes(kernel: int, stride: int, padding: int, groups: int) -> dict[str, int | list[int]]:
    """What torch's exporter writes for a convolution."""
    return {
        "dilations_i": [1, 1],
        "group_i": groups,
        "kernel_shape_i": [kernel] * 2,
        "pads_i": [padding] * 4,
        "strides_i": [stride] * 2,
    }


def _absent(bias) -> bool:
    return bias is None or bias.node().mustBeNone()
