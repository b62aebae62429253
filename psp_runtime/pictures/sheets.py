"""Several pictures in one file: input and output side by side, contact sheets, animations.

Pictures are uint8 [H,W,3].
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.disk import replacing
from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.encoding import LONGEST, encode, picture_format
from psp_runtime.pictures.loading import resize
from psp_runtime.pictures.memory import MAX_PIXELS
from psp_runtime.pictures.previews import preview
from psp_runtime.tasks import InputKind

Pixels = NDArray[np.uint8]

#: Pillow's names of the formats that move.
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP"}
#: A sweep and its way back take about so long, in milliseconds, but no frame longer or shorter than these.
SWEEP_MS, FRAME_MS = 3000, (40, 400)
#: Frames move, and need less than single pictures.
QUALITY = 90

CELL, GAP, PAPER = 256, 4, 255


def shown(source: Pixels, kind: InputKind, shape: tuple[int, ...]) -> Pixels:
    """Show one prepared input as a person sees it, [H,W,3] of `shape`: label maps in colours and with sharp edges."""
    how = Image.Resampling.NEAREST if kind == "labels" else Image.Resampling.LANCZOS
    return np.array(Image.fromarray(preview(source[None], kind)[0]).resize((shape[1], shape[0]), how))


def couple(left: Pixels, right: Pixels) -> Pixels:
    """Put two pictures of one height side by side."""
    return np.concatenate([left, right], axis=1)


def check_animation(path: Path, suffix: str) -> None:
    """Raise `PspError` unless the name of an animation ends as its format asks for."""
    if path.suffix.lower() != suffix:
        raise PspError(f"--{suffix[1:]} {path}: expected a name that ends in {suffix}")


def animate(frames: Sequence[Pixels], path: Path, quality: int = QUALITY) -> None:
    """Write frames [H,W,3] as an endless GIF or WebP, there and back again so that it does not jump.

    `quality` 1..100 is that of a WebP. Raises `PictureError` for frames that the format cannot hold.
    """
    loop = [Image.fromarray(frame) for frame in (*frames, *frames[-2:0:-1])]
    time = int(np.clip(SWEEP_MS // len(loop), *FRAME_MS))
    options = {"save_all": True, "append_images": loop[1:], "duration": time, "loop": 0, "quality": quality}
    # Key frames only: in others libwebp leaves what changes slowly as it was, until patches of the past show.
    options |= {"kmin": 0, "kmax": 1}
    try:
        encoded = encode(loop[0], ANIMATIONS[path.suffix.lower()], options)
    except PictureError as error:
        raise PictureError(f"cannot write {path}: {error}") from error
    with replacing(path) as file:
        file.write(encoded)


class Sheet:
    """A contact sheet of `inputs` groups of `cells` pictures each: inputs and what was made of them.

    Each is `size` pixels wide and `height` high, by default a square. As many groups stand in a row as make the sheet
    about square. Raises `PspError` for a name that is no picture's, and
    for a sheet its format cannot hold.
    """

    def __init__(self, path: Path, inputs: int, cells: int, size: int = CELL, height: int | None = None) -> None:
        self.path, self.inputs, self.cells, self.size, self.height = path, inputs, cells, size, height or size
        self._kept: list[list[Pixels]] = []
        self._arrange(inputs)

    def _arrange(self, inputs: int) -> None:
        self.groups = max(1, min(inputs, round((inputs * self.cells) ** 0.5 / self.cells)))
        kind = picture_format(self.path)
        height, width = self._shape(inputs)
        if max(height, width) > LONGEST.get(kind, 2**31) or height * width > MAX_PIXELS:
            raise PspError(
                f"--grid {self.path} would be {width}x{height}, too large for one {kind} picture: give fewer inputs, "
                "or smaller pictures with --size"
            )

    def add(self, group: list[Pixels]) -> None:
        """Take the pictures of the next input, of any size."""
        self._kept.append([resize(picture, self.size, self.height) for picture in group])

    def draw(self) -> Pixels:
        """Draw the sheet, uint8 [H,W,3]: of more groups than inputs where these had several faces."""
        self._arrange(max(len(self._kept), self.inputs))
        paper = np.full((*self._shape(len(self._kept)), 3), PAPER, np.uint8)
        for index, group in enumerate(self._kept):
            row, place = divmod(index, self.groups)
            for column, picture in enumerate(group, start=place * self.cells):
                y, x = GAP + row * (self.height + GAP), GAP + column * (self.size + GAP)
                paper[y : y + self.height, x : x + self.size] = picture
        return paper

    def _shape(self, inputs: int) -> tuple[int, int]:
        rows, columns = -(-inputs // self.groups), min(inputs, self.groups) * self.cells
        return rows * (self.height + GAP) + GAP, columns * (self.size + GAP) + GAP
