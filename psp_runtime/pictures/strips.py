"""A decoded picture read upright, a strip of rows at a time: what is converted at once stays small.

Pillow converts and turns whole pictures, each time into another copy. Strip by strip the result is the same to the bit:
conversions are of pixels, and resizing is one pass along the rows and one along the columns.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from PIL import Image

#: Pixels of a strip, unless a single row has more.
STRIP = 1 << 20

#: How EXIF orientations, 1 to 8, are turned upright. In those of `_SWAPPED` columns become rows; those of `_REVERSED`
#: have the first row of the upright picture at their end.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED, _REVERSED = (5, 6, 7, 8), (3, 4, 7, 8)


class Upright(NamedTuple):
    """A picture as it is shown: `image` as it is stored, turned by its EXIF `orientation` when strips are read.

    `top` is the largest grey value its file can hold, where Pillow stretches that to 8 or 16 bits, else None. `white`
    is the value of white that its file states in another way, 65535 for most with 16 bits.
    """

    image: Image.Image
    orientation: int = 1
    top: int | None = None
    white: int = 65535

    @property
    def size(self) -> tuple[int, int]:
        """Give width and height, upright."""
        width, height = self.image.size
        return (height, width) if self.orientation in _SWAPPED else (width, height)

    def strips(self) -> Iterator[Image.Image]:
        """Yield the picture from top to bottom, in strips of its whole width; each is a copy."""
        width, height = self.size
        rows = max(1, STRIP // width)
        for start in range(0, height, rows):
            yield self._strip(start, min(start + rows, height))

    def _strip(self, start: int, stop: int) -> Image.Image:
        width, height = self.size
        if self.orientation in _REVERSED:
            start, stop = height - stop, height - start
        box = (start, 0, stop, width) if self.orientation in _SWAPPED else (0, start, width, stop)
        strip = self.image.crop(box)
        return strip.transpose(_TURNS[self.orientation]) if self.orientation in _TURNS else strip

    def resized(
        self, shape: tuple[int, int], convert: Callable[[Image.Image], Image.Image], how: Image.Resampling
    ) -> Image.Image:
        """Make a picture of `shape`, width and height, of what `convert` makes of the picture, of one mode."""
        narrow, place = None, 0
        for strip in self.strips():
            part = convert(strip).resize((shape[0], strip.height), how)
            narrow = narrow or Image.new(part.mode, (shape[0], self.size[1]))
            narrow.paste(part, (0, place))
            place += strip.height
        assert narrow is not None
        return narrow.resize(shape, how)
