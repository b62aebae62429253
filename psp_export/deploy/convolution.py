"""Compute in FP32 on a CPU the convolutions that are FP16 in the graph.

Few CPUs convolve in half precision, and on the others torch takes minutes for one picture. Widening the operands, which
is exact, and rounding the result once is what tensor cores do as well: products summed in FP32. The exported graph has
the same node either way.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Geometry(NamedTuple):
    """How a convolution moves over its input, by the names of torch's arguments."""

    stride: int = 1
    padding: int = 0
    groups: int = 1

    def attributes(self, kernel: int) -> dict[str, int | list[int]]:
        """Spell the attributes of an ONNX node as torch's exporter does."""
        return {
            "dilations_i": [1, 1],
            "group_i": self.groups,
            "kernel_shape_i": [kernel] * 2,
            "pads_i": [self.padding] * 4,
            "strides_i": [self.stride] * 2,
        }


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> torch.Tensor:
    """Convolve x [B,I,H,W] with weight [O,I/groups,k,k] -> [B,O,H',W'], as `torch.nn.functional.conv2d`."""
    geometry = Geometry(stride, padding, groups)
    if widened(x):
        return _Conv.apply(x, weight, bias, geometry)
    return F.conv2d(x, weight, bias, **geometry._asdict())


def conv_transpose2d(
    x: torch.Tensor, weight: torch.Tensor, stride: int = 1, padding: int = 0, groups: int = 1
) -> torch.Tensor:
    """Convolve x [B,I,H,W], transposed, with weight [I,O/groups,k,k] -> [B,O,H',W'], as `F.conv_transpose2d`."""
    geometry = Geometry(stride, padding, groups)
    if widened(x):
        return _ConvTranspose.apply(x, weight, geometry)
    return F.conv_transpose2d(x, weight, **geometry._asdict())


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with square kernel, stride and padding, by `conv2d`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0], self.groups)


def widened(x: torch.Tensor) -> bool:
    """Tell whether convolutions of this tensor are computed in FP32."""
    return x.dtype == torch.float16 and x.device.type == "cpu"


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, geometry):
        bias = None if bias is None else bias.float()
        return F.conv2d(x.float(), weight.float(), bias, **geometry._asdict()).half()

    @staticmethod
    def symbolic(g, x, weight, bias, geometry):
        outputs, _, kernel, _ = weight.type().sizes()
        operands = [x, weight] if _absent(bias) else [x, weight, bias]
        node = g.op("Conv", *operands, **geometry.attributes(kernel))
        batch, _, *sides = x.type().varyingSizes()
        sides = [(side + 2 * geometry.padding - kernel) // geometry.stride + 1 for side in sides]
        return node.setType(x.type().with_sizes([batch, outputs, *sides]))


class _ConvTranspose(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, geometry):
        return F.conv_transpose2d(x.float(), weight.float(), **geometry._asdict()).half()

    @staticmethod
    def symbolic(g, x, weight, geometry):
        _, outputs, kernel, _ = weight.type().sizes()
        node = g.op("ConvTranspose", x, weight, **geometry.attributes(kernel))
        batch, _, *sides = x.type().varyingSizes()
        sides = [(side - 1) * geometry.stride + kernel - 2 * geometry.padding for side in sides]
        return node.setType(x.type().with_sizes([batch, outputs * geometry.groups, *sides]))


def _absent(bias) -> bool:
    return bias is None or bias.node().mustBeNone()
