"""The two operations StyleGAN2 adds to a standard framework, written from their definitions in plain torch."""

from psp_train.ops.fused_bias_leaky_relu import fused_bias_leaky_relu
from psp_train.ops.upfirdn2d import upfirdn2d

__all__ = ["fused_bias_leaky_relu", "upfirdn2d"]
