"""What is read of an input: one prepared picture, or one of each face of a photo."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from psp_runtime.alignment.cropping import Crop
from psp_runtime.alignment.photos import Framing, align
from psp_runtime.engines.info import EngineInfo
from psp_runtime.pictures.decoding import Picture
from psp_runtime.pictures.loading import picture_name
from psp_runtime.pictures.photos import open_photo
from psp_runtime.pipeline import Source
from psp_runtime.run.applications import Preparer
from psp_runtime.run.options import Options


class Inputs(NamedTuple):
    """K prepared pictures [K,...], or latents [K,L,S]; with --align, of each the crop of a photo that it is."""

    sources: Source
    crops: tuple[Crop, ...] = ()


#: Reads an input of a run, and any picture, which need not be a file.
InputReader = Callable[[Path], Inputs]
PictureReader = Callable[[Picture], Inputs]


def make_input_reader(options: Options, info: EngineInfo, prepare: Preparer) -> PictureReader:
    """Make the function that reads an input. It raises `PictureError` for one that cannot be used, or shows no face."""
    if not options.align:
        return lambda picture: Inputs(prepare(picture)[None])
    least = 0 if info.task == "super_resolution" else info.input_size  # which is for small ones
    framing, which = Framing(info.input_size, info.crop_scale, least=least), options.which

    def faces(picture: Picture) -> Inputs:
        crops = align(open_photo(picture).picture, picture_name(picture), framing, which)
        return Inputs(np.stack([prepare(crop.picture) for crop in crops]), tuple(crops))

    return faces
