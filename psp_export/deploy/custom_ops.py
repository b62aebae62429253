"""Trace FIR filters and activations as custom operations, each one node of an ONNX file."""

import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.convolution import conv_transpose2d
from psp_runtime.engines.tensorrt.plugins import NAMESPACE, VERSION, FusedBiasLeakyReLU, UpFirDn2d

#: What TensorRT's parser looks a plugin up by, in torch's notation for node attributes.
PLUGIN = {"plugin_namespace_s": NAMESPACE, "plugin_version_s": VERSION}


def upfirdn2d(x: torch.Tensor, fir: torch.Tensor, up: int, crop: int) -> torch.Tensor:
    """Convolve each channel, transposed, stride `up`, `crop` cut off all around: one node `psp::PspUpFirDn2d`.

    x [B,C,H,W], fir [C,1,k,k], the same for every channel -> [B,C,(H-1)·up+k-2·crop,…]. This is the upfirdn2d with
    padding k-1-crop before and k-up-crop after.
    """
    return _UpFirDn2d.apply(x, fir.float(), up, crop)


def fused_bias_leaky_relu(x: torch.Tensor, bias: torch.Tensor, slope: float = 0.2, gain: float = 1.0) -> torch.Tensor:
    """Compute leaky_relu(x + bias, slope) * gain: one node `psp::PspFusedBiasLeakyReLU`. x [B,C,H,W], bias [C,1,1]."""
    return _FusedBiasLeakyReLU.apply(x, bias.float(), slope, gain)


def use_custom_ops(module: nn.Module) -> None:
    """Let a deployable module compute its FIR filters and activations by the custom operations, in place."""
    for part in module.modules():
        if hasattr(part, "use_custom_ops"):
            part.use_custom_ops()


class _UpFirDn2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, fir, up, crop):
        return conv_transpose2d(x, fir.to(x.dtype), stride=up, padding=crop, groups=x.shape[1])

    @staticmethod
    def symbolic(g, x, fir, up, crop):
        channels, _, kernel, _ = fir.type().sizes()
        node = g.op(
            f"{NAMESPACE}::{UpFirDn2d.name}", x, fir, strides_i=[up] * 2, pads_i=[crop] * 4, group_i=channels, **PLUGIN
        )
        # The exporter cannot infer the shape of a node that is not ONNX's own.
        batch, _, *sides = x.type().varyingSizes()
        sides = [(side - 1) * up + kernel - 2 * crop for side in sides]
        return node.setType(x.type().with_sizes([batch, channels, *sides]))


class _FusedBiasLeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias, slope, gain):
        return F.leaky_relu(x + bias.to(x.dtype), slope) * gain

    @staticmethod
    def symbolic(g, x, bias, slope, gain):
        node = g.op(f"{NAMESPACE}::{FusedBiasLeakyReLU.name}", x, bias, slope_f=slope, gain_f=gain, **PLUGIN)
        return node.setType(x.type())
