"""A pencil sketch from a photo: the input of the sketch task where there is no artist.

Lines are a flow-based difference of Gaussians (Winnemoeller et al. 2012, "XDoG", section 2.6), extended in two ways
that drawn contours ask for: where two colours of one brightness meet there is a line too, and a contour is one line,
not one for each of its sides. Dark areas are shaded lightly. Nothing is random: one photo always gives one sketch.

Shapes: H W picture, C channels. Pictures are float32 in [0,1] in here; lengths are in pixels of a 256x256 picture,
times `scale`, so that a picture and its enlargement get the same lines.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.errors import PictureError
from psp_runtime.tasks import INPUT_SIZE

Floats = NDArray[np.float32]

#: Larger pictures are sketched at this length of their shorter side and enlarged: finer lines are not drawn.
WORKING_SIZE = 512

LINE = 0.8  # sigma of a line; its surroundings are WIDER and, for the gradient, STEEPER times as wide
WIDER, STEEPER = 1.6, 2.4
FLOW, ALONG = 2.0, 3.0  # sigma of the direction field, and of smoothing along it
GRADIENT = 0.8  # how much the colour gradient counts against the difference of brightness
FAINT, FULL = 0.005, 0.022  # responses below FAINT are paper, above FULL full pencil
PRESSURE, SHADE, DARK = 0.72, 0.3, 0.5  # darkness of a full line, of black areas; shading begins below DARK
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def sketch(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw a photo, uint8 [H,W,3] RGB, as a pencil sketch uint8 [H,W]; 255 is paper.

    Raises `PictureError` for arrays of another type or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise PictureError(f"a photo must be uint8 [H,W,3], given {pixels.dtype} {list(pixels.shape)}")
    height, width = pixels.shape[:2]
    shrink = WORKING_SIZE / min(height, width)
    if shrink >= 1:
        return _draw(pixels)
    size = (round(width * shrink), round(height * shrink))
    small = _draw(np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)))
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _draw(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    x = np.divide(pixels, 255, dtype=np.float32)
    scale = min(x.shape[:2]) / INPUT_SIZE
    grey = x @ GREY
    # A second, tiny blur: pencil lines have no stairs.
    lines = _blur(_smoothstep((_response(x, grey, scale) - FAINT) / (FULL - FAINT)), 0.5 * scale)
    shade = SHADE * (1 - _blur(grey, 1.5 * scale) / DARK).clip(0, 1)
    return np.asarray(255.5 * (1 - shade) * (1 - PRESSURE * lines)).astype(np.uint8)


def _response(x: Floats, grey: Floats, scale: float) -> Floats:
    """Measure how much of a line each pixel is, [H,W], relative to the brightness around it.

    The difference of Gaussians is positive on the dark side of a contour and negative on the other; that of the
    gradient's length has its ridge in the middle. Added up they give one line, and one where only the colour changes.
    """
    length, flow = _flow(x, scale)
    dark = _blur(grey, WIDER * LINE * scale) - _blur(grey, LINE * scale)
    ridge = _blur(length, LINE * scale) - _blur(length, STEEPER * LINE * scale)
    response = (dark + GRADIENT * ridge) / (0.25 + _blur(grey, 6 * scale))
    return _smooth_along(response, flow, ALONG * scale)


def _flow(x: Floats, scale: float) -> tuple[Floats, Floats]:
    """Length of the colour gradient [H,W] per pixel of a 256x256 picture, and the unit direction of contours [2,H,W].

    From the structure tensor (Di Zenzo 1986); the direction is that of the tensor averaged over FLOW.
    """
    dy, dx = _slope(_blur(x, LINE * scale))
    tensor = np.stack([(dx * dx).sum(2), (dx * dy).sum(2), (dy * dy).sum(2)], axis=2)
    xx, xy, yy = np.moveaxis(tensor, 2, 0)
    length = np.float32(scale) * np.sqrt((xx + yy + np.sqrt((xx - yy) ** 2 + 4 * xy**2)) / 2)
    xx, xy, yy = np.moveaxis(_blur(tensor, FLOW * scale), 2, 0)
    across = 0.5 * np.arctan2(2 * xy, xx - yy)
    return length, np.stack([-np.sin(across), np.cos(across)])


def _slope(x: Floats) -> tuple[Floats, Floats]:
    """Central differences of [H,W,C] along y and x; 0 across the border."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    half = np.float32(0.5)
    return half * (padded[2:, 1:-1] - padded[:-2, 1:-1]), half * (padded[1:-1, 2:] - padded[1:-1, :-2])


def _smooth_along(x: Floats, flow: Floats, sigma: float) -> Floats:
    """Gaussian mean of [H,W] along the stream lines of `flow`: gaps close, specks vanish, lines stay thin."""
    total, weights = x.copy(), 1.0
    for sense in (1, -1):
        place = np.mgrid[: x.shape[0], : x.shape[1]][::-1].astype(np.float32)
        step = sense * flow
        for distance in range(1, int(np.ceil(2 * sigma)) + 1):
            place += step
            column, row = (np.rint(p).astype(np.intp).clip(0, n - 1) for p, n in zip(place, x.shape[::-1], strict=True))
            weight = float(np.exp(-0.5 * (distance / sigma) ** 2))
            total += np.float32(weight) * x[row, column]
            weights += weight
            there = flow[:, row, column]  # a direction without a sense: walk on, do not turn round
            step = np.where((there * step).sum(0) < 0, -there, there)
    return np.asarray(total / np.float32(weights))


def _blur(x: Floats, sigma: float) -> Floats:
    """Gaussian blur of [H,W] or [H,W,C]; the border goes on as it ends."""
    radius = max(1, int(np.ceil(2.5 * sigma)))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(x.ndim)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad, mode="edge"), len(taps), axis=axis)
        x = windows @ (taps / taps.sum()).astype(np.float32)
    return x


def _smoothstep(t: Floats) -> Floats:
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)
