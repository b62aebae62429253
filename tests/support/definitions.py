"""The custom operations by their definition, in float64 NumPy."""

import numpy as np


def upfirdn2d(x, fir, up=1, down=1, pads=(0, 0, 0, 0), flip=False, gain=1.0):
    """x [B,C,H,W], fir [kh,kw]: insert zeros, pad or crop, correlate with the turned FIR, keep every down-th."""
    x, taps = np.asarray(x, np.float64), np.asarray(fir, np.float64)
    taps = taps if flip else taps[::-1, ::-1]
    wide = np.zeros((*x.shape[:2], x.shape[2] * up, x.shape[3] * up))
    wide[:, :, ::up, ::up] = x
    top, bottom, left, right = pads
    wide = np.pad(wide, ((0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in ((top, bottom), (left, right)))))
    height, width = wide.shape[2:]
    wide = wide[:, :, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(wide, taps.shape, (2, 3))[:, :, ::down, ::down]
    return np.einsum("bchwuv,uv->bchw", windows, taps) * gain


def fused_bias_leaky_relu(x, bias, slope=0.2, gain=np.sqrt(2)):
    """x [B,C,...], bias [C]: leaky_relu(x + bias) * gain."""
    x, bias = np.asarray(x, np.float64), np.asarray(bias, np.float64)
    shifted = x + bias.reshape(1, -1, *[1] * (x.ndim - 2))
    return np.where(shifted > 0, shifted, slope * shifted) * gain
