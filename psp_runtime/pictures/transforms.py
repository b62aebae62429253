"""What applications change in an input before it is translated: hide a part, degrade it, swap classes.

All take and give arrays as `Pipeline.prepare` makes them, for one picture or several: the leading axes are free.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.loading import downsample, load
from psp_runtime.tasks import INPUT_SIZE

#: Factors super-resolution can be asked to undo: a 256x256 picture keeps at least 4x4 pixels.
MAX_FACTOR = 64


def triangle(size: int = INPUT_SIZE) -> NDArray[np.bool_]:
    """Make the symmetric triangular mask of inpainting, bool [S,S]: base on the lower edge, apex at the centre.

    The paper (appendix B.2) shows a symmetric triangle without giving its corners; these are ours.
    """
    y, x = np.mgrid[:size, :size] + 0.5
    return np.asarray(np.abs(x - size / 2) <= y - size / 2)


def read_mask(path: str | Path, size: int = INPUT_SIZE) -> NDArray[np.bool_]:
    """Read a mask, bool [S,S], from a picture: white (and transparent) is what is missing, black is kept.

    Raises `PictureError` for a picture that cannot be read or marks nothing.
    """
    mask = np.asarray(load(path, "rgb", size).mean(-1) >= 128)
    if not mask.any() or mask.all():
        raise PictureError(
            f"{path} is {'white' if mask.all() else 'black'} all over: expected white where the picture is missing, "
            "black where it is kept"
        )
    return mask


def hide(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pictures uint8 [...,S,S,3] with black where `mask` [S,S] is set, the inputs of inpainting."""
    return pixels * ~mask[..., None]


def check_factor(factor: int) -> None:
    """Raise `PspError` for a factor super-resolution inputs cannot be shrunk by."""
    if not 1 <= factor <= MAX_FACTOR:
        raise PspError(f"downsample {factor}: expected a factor of 1 to {MAX_FACTOR}")


def degrade(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrink one picture uint8 [S,S,3] by `factor` (1..MAX_FACTOR), as the reference does it, and bilinearly back.

    That is an input of super-resolution.
    """
    check_factor(factor)
    small = Image.fromarray(downsample(pixels, factor))
    return np.array(small.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))


def swap(labels: NDArray[np.uint8], classes: Mapping[int, int]) -> NDArray[np.uint8]:
    """Label maps uint8 [...,S,S] with each class of `classes` turned into another, all at once."""
    table = np.arange(256, dtype=np.uint8)
    for old, new in classes.items():
        table[old] = new
    return table[labels]
