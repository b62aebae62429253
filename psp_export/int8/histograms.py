"""Keep where the values of a tensor lie, in little memory, however many are added."""

import math

import numpy as np

#: Bins on each side of zero: 16 or more for each of the 127 levels a range is divided into.
BINS = 4096


class Histogram:
    """Counts of values over [-span, span), where span is a power of two that grows with them; exact `low`, `high`."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.span = 0.0
        self.counts = np.zeros(2 * BINS, np.int64)

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Count values, of any shape; `low` and `high` are the extremes of all they were drawn from."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        bins = np.floor(values.ravel() * (BINS / self.span)).astype(np.int64) + BINS
        self.counts += np.bincount(bins.clip(0, 2 * BINS - 1), minlength=2 * BINS)

    def _widen(self, peak: float) -> None:
        """Let the span hold a peak: every doubling makes one bin of two."""
        if not self.span:
            self.span = 2.0 ** math.ceil(math.log2(max(peak, 1e-30)))
        while self.span < peak:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(pairs, BINS // 2)
            self.span *= 2

    @property
    def centres(self) -> np.ndarray:
        """The middle of every bin, float64 [2·BINS]."""
        return (np.arange(-BINS, BINS) + 0.5) * (self.span / BINS)
