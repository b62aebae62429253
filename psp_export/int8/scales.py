"""Turn real values into 8 bits: q = clip(round(x / scale) + zero), and back by (q - zero) scale.

Activations have one scale per tensor, weights one per output channel. Signed values are symmetric, -127 to 127, with
zero 0, the only form TensorRT takes; unsigned ones, 0 to 255, fit what an activation has made one-sided.
"""

from typing import Literal, NamedTuple

import numpy as np

from psp_export.int8.histograms import Histogram

#: "s8" symmetric, "u8" with a zero point.
Kind = Literal["s8", "u8"]
#: How a range is chosen: all of it, or as much of it as has the least mean square error.
Method = Literal["mse", "max"]

#: Shares of the range that are tried.
SHARES = np.linspace(0.3, 1, 36)
#: Output channels of so few weights, as of a FIR, get the scale that fits them best.
FEW_WEIGHTS = 64


class Scale(NamedTuple):
    """How one tensor becomes 8 bits; the type of `zero` is that of the quantised values."""

    scale: np.float32
    zero: np.int8 | np.uint8


def activation_scale(histogram: Histogram, kind: Kind, method: Method) -> Scale:
    """Choose the scale of a tensor from where its values lay."""
    shares = SHARES if method == "mse" else SHARES[-1:]
    make = _signed if kind == "s8" else _unsigned
    return min((make(histogram, share) for share in shares), key=lambda scale: _error(histogram, scale))


def _signed(histogram: Histogram, share: float) -> Scale:
    return Scale(_step(max(-histogram.low, histogram.high) * share, 127), np.int8(0))


def _unsigned(histogram: Histogram, share: float) -> Scale:
    """Cut the longer side of the range; 0 itself is always exact, since paddings are."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    low, high = (low, high * share) if high >= -low else (low * share, high)
    step = _step(high - low, 255)
    return Scale(step, np.uint8(np.clip(round(-low / float(step)), 0, 255)))


def _step(length: float, levels: int) -> np.float32:
    """Divide a range into levels; a tensor that is all zeros keeps to whole numbers."""
    return np.float32(length / levels if length > 1e-30 else 1)


def _error(histogram: Histogram, scale: Scale) -> float:
    """Compute the mean square error of the values, each taken for the middle of its bin."""
    x = histogram.centres
    return float((histogram.counts * (dequantised(quantised(x, scale), scale) - x) ** 2).sum())


def quantised(x: np.ndarray, scale: Scale) -> np.ndarray:
    """Round real values of any shape to 8 bits, ties to even, as QuantizeLinear does."""
    low, high = (0, 255) if scale.zero.dtype == np.uint8 else (-127, 127)
    return (np.round(x / scale.scale) + scale.zero).clip(low, high).astype(scale.zero.dtype)


def dequantised(q: np.ndarray, scale: Scale) -> np.ndarray:
    """Give back the real values that 8 bits stand for."""
    return (q.astype(np.float64) - scale.zero) * scale.scale


def quantised_weight(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a weight of any shape per channel of `axis`: int8 of the same shape, and float32 scales [channels]."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    peaks = np.maximum(np.abs(rows).max(1), 1e-30)
    # Weights like 1, 3, 9 are exact where the peak takes 117 levels, and a FIR keeps its sum.
    levels = range(64, 128) if rows.shape[1] <= FEW_WEIGHTS else range(127, 128)
    scales = np.stack([peaks / level for level in levels]).astype(np.float32)
    errors = [((np.round(rows / s[:, None]) * s[:, None] - rows) ** 2).sum(1) for s in scales.astype(np.float64)]
    scale = scales[np.argmin(errors, axis=0), np.arange(len(rows))]
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return np.round(weight / scale.reshape(shape)).clip(-127, 127).astype(np.int8), scale
