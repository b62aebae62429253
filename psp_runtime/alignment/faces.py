"""A face: its points, and the square that FFHQ would cut out.

Positions are x, y in pixels, with a pixel's centre at whole numbers.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]

# Points of FaceMesh: the two corners of each eye (their mean is nearer to that of dlib's six than the same six are),
# those of the mouth, and the outline from the forehead clockwise.
LEFT_EYE, RIGHT_EYE, MOUTH = [33, 133], [362, 263], [61, 291]
_OUTLINE = [
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
]  # fmt: skip


@dataclass(frozen=True)
class Face:
    """A face in a photo.

    `points` [468,2] are those of FaceMesh, `quad` [4,2] the square of its FFHQ crop (see `quad`); in both, x and y in
    pixels with a pixel's centre at whole numbers. `score`, 0 to 1, is the detector's.
    """

    points: Points = field(repr=False)
    quad: Points
    score: float

    @property
    def size(self) -> float:
        """Measure its square's side in pixels: published encoders want 256 or more."""
        return side(self.quad)

    @property
    def across(self) -> Points:
        """Give the upper edge of its square, a vector [2]: how the face is turned."""
        return np.asarray(self.quad[3] - self.quad[0])

    @property
    def box(self) -> Points:
        """Give the box [2,2] around its points: the low and the high corner."""
        return np.stack([self.points.min(0), self.points.max(0)])

    @property
    def outline(self) -> Points:
        """Give the edge of the face [36,2], without hair and ears."""
        return self.points[_OUTLINE]

    def framed(self, scale: float) -> "Face":
        """Widen its square `scale` times: `crop_scale` of an engine says how wide it wants them."""
        centre = self.quad.mean(0)
        return replace(self, quad=centre + (self.quad - centre) * scale)


def from_mesh(points: Points, score: float) -> Face:
    """Make the face of 468 points [468,2]."""
    left, right = (points[corners].mean(0) for corners in (LEFT_EYE, RIGHT_EYE))
    return Face(points, quad(left, right, *points[MOUTH]), score)


def quad(left_eye: ArrayLike, right_eye: ArrayLike, mouth_left: ArrayLike, mouth_right: ArrayLike) -> Points:
    """Find the square [4,2] of a face: top left, bottom left, bottom right, top right, pixel centres at whole numbers.

    Positions [2] of the middle of both eyes and of the corners of the mouth, "left" being left in the picture. For 68
    landmarks the eyes are means of 36-41 and 42-47, the corners 48 and 54 (counted from 0).
    """
    left, right, mouth_start, mouth_end = (
        np.asarray(point, np.float64) for point in (left_eye, right_eye, mouth_left, mouth_right)
    )
    eyes, mouth = (left + right) / 2, (mouth_start + mouth_end) / 2
    across, down = right - left, mouth - eyes
    x = across + [down[1], -down[0]]  # the line of the eyes, and a right angle to that from eyes to mouth
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def side(corners: Points) -> float:
    """Measure the upper edge of a quad [4,2], in pixels."""
    return float(np.hypot(*(corners[3] - corners[0])))
