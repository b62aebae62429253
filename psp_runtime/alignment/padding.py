"""What surrounds a photo where a crop reaches over its border: its reflection, fading into blur and the median colour.

That is what FFHQ was made with (NVlabs/ffhq-dataset, `download_ffhq.py`, `recreate_aligned_images`), and pSp's own
script after it. Pictures are taken one channel at a time, and blurred only where the blur shows.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

#: Sigma of the blur against the side of the crop, and where its kernel ends, in sigmas.
SIGMA, REACH = 0.02, 4.0
#: Rows of a block of the blur. Half of a larger block's products are with zeros; of a smaller one they take longer.
_BLOCK = 48


def padded(pixels: Pixels, pad: NDArray[np.int64], side: float) -> Pixels:
    """Surround uint8 [H,W,C] with `pad` pixels (left, top, right, bottom; each at least 1) made of it.

    `side` is that of the crop in pixels, which the width of the blur follows.
    """
    left, top, right, bottom = (int(one) for one in pad)
    done = np.empty((pixels.shape[0] + top + bottom, pixels.shape[1] + left + right, pixels.shape[2]), np.uint8)
    for channel in range(pixels.shape[2]):
        plane = np.pad(pixels[..., channel], ((top, bottom), (left, right)), "reflect").astype(np.float32)
        done[..., channel] = _faded(plane, (left, top, right, bottom), SIGMA * side)
    return done


def _faded(plane: Floats, pad: tuple[int, int, int, int], sigma: float) -> Pixels:
    """Make one channel [H,W] with its border blurred and, further out, of one colour."""
    depths, taps = (_depth(plane.shape[0], pad[1], pad[3]), _depth(plane.shape[1], pad[0], pad[2])), _taps(sigma)
    blurry = [np.clip(3 * depth + 1, 0, 1) for depth in depths]
    for window, smooth in [(window, _blurred(plane, window, taps)) for window in _border(blurry)]:
        _fade(plane, smooth, blurry, window)
    middle, plain = _median(plane), [depth.clip(0, 1) for depth in depths]
    for window in _border(plain):
        _fade(plane, middle, plain, window)
    return np.asarray(np.rint(plane, out=plane).clip(0, 255)).astype(np.uint8)


def _fade(plane: Floats, to: Floats | float, share: list[Floats], window: tuple[slice, slice]) -> None:
    """Move a window of a picture [H,W] by a share of rows [H] or columns [W], the larger one, `to` something else."""
    part, (rows, columns) = plane[window], window
    change = to - part
    change *= np.maximum(share[0][rows, None], share[1][columns])
    part += change


def _median(values: Floats) -> float:
    """Compute what np.median does, in a third of the time."""
    half = values.size // 2
    ordered = np.partition(values, half, axis=None)
    lower = ordered[half] if values.size % 2 else ordered[:half].max()
    return float((lower + ordered[half]) / 2)


def _depth(length: int, before: int, after: int) -> Floats:
    """Say how far out each place of an axis is: 1 at the border, 0 where the photo begins, negative within it."""
    place = np.arange(length, dtype=np.float32)
    depth: Floats = 1 - np.minimum(place / np.float32(before), (length - 1 - place) / np.float32(after))
    return depth


def _border(share: list[Floats]) -> list[tuple[slice, slice]]:
    """List windows (rows, columns) that cover, once each, where a share of rows [H] or columns [W] is above 0."""
    (top, bottom), (left, right) = map(_inner, share)
    height, width = map(len, share)
    windows = [((0, top), (0, width)), ((bottom, height), (0, width))]
    windows += [((top, bottom), (0, left)), ((top, bottom), (right, width))]
    return [(slice(*rows), slice(*columns)) for rows, columns in windows if min(np.diff(rows), np.diff(columns)) > 0]


def _inner(values: Floats) -> tuple[int, int]:
    """Find where the zeros in the middle of an axis begin and end."""
    zeros = np.flatnonzero(values == 0)
    return (int(zeros[0]), int(zeros[-1]) + 1) if len(zeros) else (len(values), len(values))


def _taps(sigma: float) -> Floats:
    """Make a Gaussian that ends after REACH sigmas, its sum 1."""
    radius = int(REACH * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    return np.asarray(taps / taps.sum(), np.float32)


def _blurred(plane: Floats, window: tuple[slice, slice], taps: Floats) -> Floats:
    """Blur a window of a picture [H,W]; the picture goes on mirrored at its borders."""
    rows, columns = (_mirrored(part, len(taps) // 2, length) for part, length in zip(window, plane.shape, strict=True))
    around = plane[rows].take(columns, 1)
    height, width = (len(places) - len(taps) + 1 for places in (rows, columns))
    down = np.empty((height, len(columns)), np.float32)
    _smooth(around, taps, down)
    done = np.empty((height, width), np.float32)
    _smooth(down.T, taps, done.T)
    return done


def _mirrored(part: slice, margin: int, length: int) -> NDArray[np.int64]:
    """List the places of a part of an axis and of `margin` more on both sides: … 1 0 | 0 1 … at a border."""
    place = np.arange(part.start - margin, part.stop + margin) % (2 * length)
    return np.asarray(np.minimum(place, 2 * length - 1 - place))


def _smooth(x: Floats, taps: Floats, done: Floats) -> None:
    """Filter [N + taps - 1, M] along its first axis to `done` [N,M]: products with a banded matrix, block by block."""
    more, count = len(taps) - 1, len(done)
    zeros = np.zeros(_BLOCK - 1, np.float32)
    band = np.lib.stride_tricks.sliding_window_view(np.concatenate([zeros, taps, zeros]), _BLOCK + more)[::-1].copy()
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        np.matmul(band[:size, : size + more], x[start : start + size + more], out=done[start : start + size])
