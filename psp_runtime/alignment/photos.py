"""A photo's faces as an engine takes them: which are wanted, how wide their squares are, what is too small."""

import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from psp_runtime.alignment.cropping import Crop, crop
from psp_runtime.alignment.faces import Face, Points
from psp_runtime.alignment.finding import look
from psp_runtime.errors import PictureError

#: Where all corners of a face's square are within this share of the frame's, the picture is aligned already.
ALIGNED = 0.06


class NoFaceError(PictureError):
    """A photo without the faces asked for."""


class Choice(NamedTuple):
    """Some faces of a photo, counted from the largest: from `first` (0: the largest) to before `end`, None for all."""

    first: int = 0
    end: int | None = 1

    @property
    def single(self) -> bool:
        """Tell whether it is one face at most."""
        return self.end is not None and self.end - self.first == 1


class Framing(NamedTuple):
    """How faces are cut: into pictures of `size` x `size`, from squares `scale` times as wide as those of FFHQ.

    `transform_size` is that of `crop`. Squares of less than `least` pixels are warned of.
    """

    size: int
    scale: float = 1.0
    transform_size: int | None = None
    least: int = 256


def align(photo: Image.Image, name: str, framing: Framing, which: Choice | None = None) -> list[Crop]:
    """Cut the faces of an upright RGB photo, called `name`, out, the largest first; as `choose` and `cut` do."""
    return [cut(photo, face, framing) for face in choose(photo, name, framing, which)]


def choose(photo: Image.Image, name: str, framing: Framing, which: Choice | None = None) -> list[Face]:
    """Find some faces of a photo, framed, the largest first.

    Without `which` it is the largest, and a warning where there are several. Raises `NoFaceError` for a photo without
    the faces asked for.
    """
    wanted = which or Choice()
    faces, others = look(photo, None if wanted.first else wanted.end)
    chosen = [face.framed(framing.scale) for face in faces[wanted.first : wanted.end]]
    if not chosen:
        found = {0: "no face", 1: "only one face"}.get(len(faces), f"only {len(faces)} faces")
        raise NoFaceError(f"{name}: {found} found, expected a photo of people, from 64 pixels a face")
    if which is None and others:
        words = f"{name}: {len(faces) + others} faces, the largest is taken (--faces all takes every one)"
        warnings.warn(words, stacklevel=2)
    for face in chosen:
        if face.size < framing.least:
            words = f"{name}: a face's square is {face.size:.0f} pixels wide, the engine takes {framing.least}"
            warnings.warn(words, stacklevel=2)
    return chosen


def cut(photo: Image.Image, face: Face, framing: Framing) -> Crop:
    """Cut out a face. A picture that is aligned already is taken as it is: the reference would blur its edges."""
    frame = _frame(photo)
    if np.abs(face.quad + 0.5 - frame).max() > ALIGNED * max(photo.size):
        return crop(photo, face, framing.size, framing.transform_size)
    whole = photo.resize((framing.size, framing.size), Image.Resampling.BILINEAR)
    return Crop(whole, frame, face.outline + 0.5)


def _frame(photo: Image.Image) -> Points:
    """Give the corners of a whole picture, in the order of a quad."""
    width, height = photo.size
    return np.array([(0, 0), (0, height), (width, height), (width, 0)], np.float64)
