"""What a run makes of each input, as functions from prepared pictures to pictures. Shapes as in `pipeline`."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.refinement import AFTER_ANOTHER
from psp_runtime.pictures import transforms
from psp_runtime.pictures.decoding import Picture
from psp_runtime.pictures.loading import load, load_input
from psp_runtime.pictures.sketching import sketch
from psp_runtime.pipeline import Pipeline, Source
from psp_runtime.run.options import Options
from psp_runtime.run.values import parse_classes

Pixels = NDArray[np.uint8]
Made = tuple[Pixels, NDArray[np.float32] | None]
#: Reads what an option such as --to names, a prepared picture or latents [L,S]; prepares any picture.
Reader = Callable[[Path], Source]
Preparer = Callable[[Picture], Pixels]

#: The mask the inpainting task is trained with, as a value of --mask.
TRIANGLE = "triangle"


@dataclass(frozen=True)
class Application:
    """`make` turns inputs [B,...] into pictures uint8 [B,N,H,W,3] and, where they are known, latents [B,L,S].

    `notes` say of each of the N pictures how it was made. `sources` are the inputs a contact sheet shows, of one input
    [...]; `lefts` what stands beside each of its N pictures.
    """

    name: str
    make: Callable[[Pipeline, Source], Made]
    notes: list[dict[str, Any]]
    sources: Callable[[Pixels], list[Pixels]] = field(default=lambda one: [one])
    lefts: Callable[[Pixels], list[Pixels]] | None = None

    @property
    def count(self) -> int:
        """Pictures made of each input, N."""
        return len(self.notes)

    def beside(self, one: Pixels) -> list[Pixels]:
        """List the inputs that stand beside the N pictures."""
        return self.lefts(one) if self.lefts else [one] * self.count


def with_other(other: Source) -> Callable[[Pixels], list[Pixels]]:
    """Give the inputs a contact sheet shows: each, and the other one where that is a picture."""
    return lambda one: [one] if other.dtype == np.float32 else [one, np.asarray(other, np.uint8)]


def translate(pipeline: Pipeline, source: Source) -> Made:
    """Pictures as the engine translates them, or stored latents decoded."""
    if source.dtype == np.float32:
        return pipeline.decode(pipeline.encode(source))[:, None], None
    done = pipeline.translate(np.asarray(source, np.uint8))
    return done.output[:, None], done.latents


def every_step(options: Options, info: EngineInfo) -> Application:
    """Make the pictures after every step of a ReStyle engine; with --first, that of the other engine before them."""
    count = options.iterations or (AFTER_ANOTHER if options.first else info.iterations)
    names = [*([options.first.name] if options.first else []), *range(1, count + 1)]

    def make(pipeline: Pipeline, source: Source) -> Made:
        done = pipeline.refine(np.asarray(source, np.uint8))
        return done.output, done.latents[:, -1]

    return Application("translate", make, [{"step": name} for name in names])


def make_preparer(options: Options, info: EngineInfo) -> Preparer:
    """Make a function that reads one picture as the engine eats it, changed as the options ask.

    It raises `PictureError` for a picture that cannot be used; making it raises `PspError` for options that cannot.
    """
    size, factor = info.input_size, options.downsample
    if factor is not None:
        transforms.check_factor(factor)
        return lambda path: transforms.degrade(load(path, "rgb", size), factor)
    if options.mask is not None:
        mask = transforms.triangle(size) if options.mask == TRIANGLE else transforms.read_mask(options.mask, size)
        return lambda path: transforms.hide(load(path, "rgb", size), mask)
    if options.sketch_from_photo:
        return lambda path: sketch(load(path, "rgb", size))[..., None]
    classes = getattr(options, "classes", None)  # of psp swap alone
    if classes is not None:
        ids = parse_classes(classes, info.classes)
        return lambda path: _with_classes(load(path, info.input, size, info.classes), path, ids)
    return lambda path: load_input(path, info)


def _with_classes(labels: Pixels, path: Picture, classes: Iterable[int]) -> Pixels:
    """Return the same label map; with a warning where a class to be replaced is not on it."""
    missing = set(classes) - set(np.unique(labels).tolist())
    if missing:
        warnings.warn(f"{path} has no pixel of class {min(missing)}: nothing is replaced there", stacklevel=2)
    return labels


def where(alpha: NDArray[np.float32]) -> dict[str, Any]:
    """Layers and amount in a note, of how much goes into each layer [L]."""
    layers = np.flatnonzero(alpha)
    return {"layers": layers.tolist(), "alpha": round(float(alpha[layers[0]]), 6) if len(layers) else 0.0}
