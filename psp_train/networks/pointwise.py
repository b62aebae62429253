"""The strided 1x1 convolution of projected shortcuts, in the one form that trains everywhere."""

import torch
import torch.nn.functional as F
from torch import nn


class PointwiseConv(nn.Conv2d):
    """A strided 1x1 convolution as what it is: a choice of pixels, then a product.

    oneDNN's own strided form corrupts memory in its channels-last backward pass (torch 2.13, 8 to 24 channels,
    AVX-512 without AMX). Keys, shapes and `stride` are those of the convolution it stands for.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,I,H,W] to [B,O,H/stride,W/stride], rounded up."""
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight)
