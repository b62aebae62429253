"""The FFHQ crop: where a face's square is, and the picture in it, as published encoders were trained on.

Positions are x, y in pixels. Points and quads have a pixel's centre at whole numbers; corners of a `Crop` are
continuous, with a pixel's centre at +0.5. Computed as NVlabs/ffhq-dataset (`recreate_aligned_images`) and pSp's
`scripts/align_all_parallel.py` do, to the byte but for single roundings.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from psp_runtime.alignment.faces import Face, Points, side
from psp_runtime.alignment.padding import padded
from psp_runtime.errors import PictureError

#: Around the quad, this share of its side is kept; missing parts of that at the border of the photo are made up.
MARGIN, LEAST_MARGIN = 0.1, 3
#: Where something is made up, it is at least this share of the side wide, and its blur reaches a WITHINth of its width
#: into the photo.
PAD, WITHIN = 0.3, 3


@dataclass(frozen=True)
class Crop:
    """An aligned picture and the way back into the photo.

    `picture` is RGB, size x size. `corners` [4,2] are where its corners lie in the photo: top left, bottom left, bottom
    right, top right, continuous positions. `outline` [N,2] is the edge of the face in the same positions, where it is
    known. `blurred` are the widths in pixels, at the left, top, right and bottom border of the photo, of what the crop
    shows blurred because it reaches over that border.
    """

    picture: Image.Image
    corners: Points
    outline: Points | None = field(default=None, repr=False)
    blurred: tuple[float, ...] = (0, 0, 0, 0)

    @property
    def side(self) -> float:
        """Measure the side of the crop in the photo, in pixels."""
        return side(self.corners)

    def to_crop(self, size: int) -> Points:
        """Give the affine map [2,3] from a continuous position in the photo to one in the crop, `size` pixels wide."""
        top_left, bottom_left, _, top_right = self.corners
        inverse = np.linalg.inv(np.stack([top_right - top_left, bottom_left - top_left], 1) / size)
        return np.column_stack([inverse, -inverse @ top_left])


def crop(picture: Image.Image, quad: ArrayLike | Face, size: int, transform_size: int | None = None) -> Crop:
    """Cut a square out of a picture: `quad` [4,2] as `quad` gives it, or that of a face. It becomes `size` x `size`.

    It is drawn at `transform_size` and shrunk to `size`: published pSp took 256 from 256, which is the default, and
    FFHQ 1024 from 4096. Raises `PictureError` for a quad that lies outside of the picture, or is none.
    """
    corners = np.array(quad.quad if isinstance(quad, Face) else quad, np.float64)
    if corners.shape != (4, 2) or not np.isfinite(corners).all() or side(corners) <= 0:
        raise PictureError(f"expected the four corners [4,2] of a square in a picture, given {corners.tolist()}")
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    shrink = max(int(side(corners) / size * 0.5), 1)
    small = _shrunk(picture, shrink)
    corners /= shrink
    # As the reference, without a half-pixel correction; so the way back has none either.
    scale = np.divide(picture.size, small.size)
    places = (corners + 0.5) * scale
    around, corners, blurred = _surroundings(small, corners)
    drawn = transform_size or size
    where = tuple((corners + 0.5).ravel())
    made = around.transform((drawn, drawn), Image.Transform.QUAD, where, Image.Resampling.BILINEAR)
    made = made.resize((size, size), Image.Resampling.LANCZOS) if size < drawn else made
    outline = quad.outline + 0.5 if isinstance(quad, Face) else None
    return Crop(made, places, outline, tuple((blurred * [*scale, *scale]).tolist()))


def _shrunk(picture: Image.Image, shrink: int) -> Image.Image:
    if shrink == 1:
        return picture
    width, height = (max(round(length / shrink), 1) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _surroundings(picture: Image.Image, corners: Points) -> tuple[Image.Image, Points, Points]:
    """Cut out the part of a picture around a quad, made up where it ends, the quad in it, and `Crop.blurred`."""
    length = side(corners)
    margin = max(int(np.rint(length * MARGIN)), LEAST_MARGIN)
    low, high = _bounds(corners)
    box = *np.maximum(low - margin, 0), *np.minimum(high + margin, picture.size)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise PictureError(f"the square {corners.round(1).tolist()} lies outside of the picture, {picture.size}")
    part = picture.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
    corners = corners - box[:2]
    low, high = _bounds(corners)
    pad = np.maximum([*(margin - low), *(high - part.size + margin)], 0)
    if pad.max() <= margin - 4:
        return part, corners, np.zeros(4)
    pad = np.maximum(pad, max(int(np.rint(length * PAD)), 1))
    at_border = np.equal(box, (0, 0, *picture.size))
    return Image.fromarray(padded(np.asarray(part), pad, length)), corners + pad[:2], at_border * pad / WITHIN


def _bounds(corners: Points) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.floor(corners.min(0)).astype(np.int64), np.ceil(corners.max(0)).astype(np.int64)
