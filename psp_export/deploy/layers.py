"""Make what deployable encoders are made of: frozen copies, folded batch normalisation, layers side by side."""

import torch
from torch import nn

from psp_export.deploy.convolution import Conv2d


class BatchedLinear(nn.Module):
    """n linear layers side by side, FP32: [B,n·C] -> [B,n,S]; weight [n,S,C], bias [n,S]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = frozen(weight.transpose(1, 2)), frozen(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads, width, dim = self.weight.shape
        y = x.reshape(-1, heads, 1, width) @ self.weight
        return y.reshape(-1, heads, dim) + self.bias


def norm_affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Express batch normalisation in eval mode as scale and shift [C], in float64."""
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def make_conv(weight: torch.Tensor, bias: torch.Tensor | None, like: nn.Conv2d, groups: int = 1) -> Conv2d:
    """Make a convolution with these values and the stride and padding of `like`."""
    with torch.device("meta"):
        outputs, inputs, kernel, _ = weight.shape
        conv = Conv2d(inputs * groups, outputs, kernel, like.stride, like.padding, 1, groups, bias is not None)
    conv.weight = frozen(weight.float())
    if bias is not None:
        conv.bias = frozen(bias.float())
    return conv


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold batch normalisation into the convolution before it, which gets a bias."""
    scale, shift = norm_affine(norm)
    return make_conv(conv.weight.double() * scale[:, None, None, None], shift, conv)


def copy_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Copy a convolution, frozen."""
    return make_conv(conv.weight, conv.bias, conv)


def copy_prelu(prelu: nn.PReLU) -> nn.PReLU:
    """Copy a PReLU, frozen."""
    copy = nn.PReLU(prelu.num_parameters)
    copy.weight = frozen(prelu.weight)
    return copy


def merge_convs(convs: list[nn.Conv2d], groups: int) -> nn.Conv2d:
    """Put convolutions side by side in one: sharing their input (groups 1), or each with its own."""
    return make_conv(torch.cat([c.weight for c in convs]), torch.cat([c.bias for c in convs]), convs[0], groups)


def frozen(tensor: torch.Tensor) -> nn.Parameter:
    """Copy a tensor, detached and contiguous, as a parameter without gradient."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


class ScaleShift(nn.Module):
    """Batch normalisation that comes before a zero-padded convolution: x * scale + shift per channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = norm_affine(norm)
        self.scale, self.shift = frozen(scale[:, None, None].float()), frozen(shift[:, None, None].float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift
