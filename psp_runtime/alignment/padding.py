"""What surrounds a photo where a crop reaches over its border: its reflection, fading into blur and the median colour.

That is what FFHQ was made with (NVlabs/ffhq-dataset, `download_ffhq.py`, `recreate_aligned_images`), and pSp's own
script after it. Pictures are taken one channel at a time, and blurred only where the blur shows.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

#: Sigma of the blur against the side of the crop, and where its kernel ends, in sigmas.
SIGMA, REACH = 0.02, 4.0
#: A blurred picture is smooth. It is computed APART times a sigma, or at every pixel, and polynomials of this degree
#: give the places between: within two thousandths of a level.
APART, DEGREE = 5, 5
#: Rows of a block of products. Half of a larger block's are with zeros; those of a smaller one take longer.
BLOCK = 48


class Blur(NamedTuple):
    """A Gaussian filter of `radius` on both sides, as two banded matrices.

    `down` [n, (n - 1) step + 2 radius + 1] filters at every `step`-th place, and `up` [n step, n + DEGREE] leads from
    these to all places.
    """

    radius: int
    step: int
    down: Floats
    up: Floats


def padded(pixels: Pixels, pad: NDArray[np.int64], side: float) -> Pixels:
    """Surround uint8 [H,W,C] with `pad` pixels (left, top, right, bottom; each at least 1) made of it.

    `side` is that of the crop in pixels, which the width of the blur follows.
    """
    left, top, right, bottom = (int(one) for one in pad)
    blur = gaussian(SIGMA * side)
    done = np.empty((pixels.shape[0] + top + bottom, pixels.shape[1] + left + right, pixels.shape[2]), np.uint8)
    for channel in range(pixels.shape[2]):
        plane = np.pad(pixels[..., channel], ((top, bottom), (left, right)), "reflect").astype(np.float32)
        _fade_out(plane, (left, top, right, bottom), blur)
        done[..., channel] = np.rint(plane, out=plane)  # from 0 to 255: all of it are means
    return done


def _fade_out(plane: Floats, pad: tuple[int, int, int, int], blur: Blur) -> None:
    """Blur the border of one channel [H,W], and give it one colour further out."""
    depths = _depth(plane.shape[0], pad[1], pad[3]), _depth(plane.shape[1], pad[0], pad[2])
    blurry = [np.clip(3 * depth + 1, 0, 1) for depth in depths]
    for window, smooth in [(window, _blurred(plane, window, blur)) for window in _border(blurry)]:
        _fade(plane, smooth, blurry, window)
    middle, plain = _median(plane), [depth.clip(0, 1) for depth in depths]
    for window in _border(plain):
        _fade(plane, middle, plain, window)


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


def gaussian(sigma: float) -> Blur:
    """Make a Gaussian filter that ends after REACH sigmas, its sum 1."""
    radius, step = int(REACH * sigma + 0.5), max(int(sigma / APART), 1)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    block = max(BLOCK // step, 1)
    down = _band((taps / taps.sum())[None], block, step)
    return Blur(radius, step, down, _band(_polynomials(step), block, 1))


def _polynomials(step: int) -> NDArray[np.float64]:
    """Weigh DEGREE + 1 places, `step` apart, for those from the middle one to the next, [step, DEGREE + 1].

    Lagrange's formula.
    """
    nodes, place = np.arange(DEGREE + 1) - DEGREE // 2, np.arange(step)[:, None] / step
    weights = []
    for node in nodes:
        others = nodes[nodes != node]
        weights.append(np.prod((place - others) / (node - others), 1))
    return np.stack(weights, 1)


def _band(rows: NDArray[np.float64], count: int, further: int) -> Floats:
    """Repeat rows [N,M] `count` times, each `further` to the right: [count N, (count - 1) further + M]."""
    height, width = rows.shape
    band = np.zeros((count, height, (count - 1) * further + width), np.float32)
    for place in range(count):
        band[place, :, place * further :][:, :width] = rows
    return band.reshape(count * height, -1)


def _blurred(plane: Floats, window: tuple[slice, slice], blur: Blur) -> Floats:
    """Blur a window of a picture [H,W]; the picture goes on mirrored at its borders."""
    (height, width), block = (part.stop - part.start for part in window), len(blur.up) // blur.step
    tall, wide = (-(-length // blur.step) + DEGREE for length in (height, width))
    rows = _mirrored(window[0].start, tall, plane.shape[0], blur)
    columns = _mirrored(window[1].start, wide, plane.shape[1], blur)
    first, last = columns.min(), columns.max() + 1
    fewer = _products(blur.down, plane[rows, first:last], tall, block * blur.step)
    few = _products(blur.down, fewer.take(columns - first, 1).T, wide, block * blur.step)
    return _products(blur.up, _products(blur.up, few, width, block).T, height, block)


def _mirrored(start: int, count: int, length: int, blur: Blur) -> NDArray[np.int64]:
    """List the places of an axis that `count` filtered ones need: … 1 0 | 0 1 … at its borders."""
    place = start - DEGREE // 2 * blur.step - blur.radius
    places = np.arange(place, place + (count - 1) * blur.step + 2 * blur.radius + 1) % (2 * length)
    return np.asarray(np.minimum(places, 2 * length - 1 - places))


def _products(band: Floats, x: Floats, count: int, further: int) -> Floats:
    """Filter [N,M] along its first axis to [count,M]: block by block with a matrix, `further` along `x` each time."""
    done = np.empty((count, x.shape[1]), np.float32)
    for block, start in enumerate(range(0, count, len(band))):
        made, part = done[start : start + len(band)], x[block * further :][: band.shape[1]]
        np.matmul(band[: len(made), : len(part)], part, out=made)
    return done
