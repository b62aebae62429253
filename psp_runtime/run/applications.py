"""What `psp-run` makes of each input: its options as one function from prepared pictures to pictures.

Everything that can be wrong is found while an `Application` is made, before an engine opens. Shapes as in `pipeline`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines import parts
from psp_runtime.engines.info import EngineInfo
from psp_runtime.latents import as_direction, as_strengths, check_psi, check_seed, edit_alpha, layer_alpha
from psp_runtime.pictures import transforms
from psp_runtime.pictures.loading import load
from psp_runtime.pictures.sketching import sketch
from psp_runtime.pipeline import Pipeline, Source
from psp_runtime.run.latents_files import read_array
from psp_runtime.run.options import Options, parse_layers, parse_strengths, parse_swap

Pixels = NDArray[np.uint8]
Made = tuple[Pixels, NDArray[np.float32] | None]

#: The mask the inpainting task is trained with, as a value of --mask.
TRIANGLE = "triangle"
#: Pictures of --to and values of --strength where none are given.
STEPS, STRENGTHS = 9, (1.0,)


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
        """The inputs that stand beside the N pictures."""
        return self.lefts(one) if self.lefts else [one] * self.count


def make_application(options: Options, info: EngineInfo, read: Callable[[Path], Pixels]) -> Application:
    """What the options ask for. `read` prepares another picture as the inputs are."""
    if options.mix is not None:
        return _mixing(options, info)
    if options.to:
        return _morphing(options, read(options.to))
    if options.style_of:
        return _transferring(options, info, read(options.style_of))
    if options.edit:
        return _editing(options, info)
    if options.swap is not None:
        return _swapping(parse_swap(options.swap, info.classes))
    return Application("translate", _translate, [{}])


def _translate(pipeline: Pipeline, source: Source) -> Made:
    if source.dtype == np.float32:
        return pipeline.decode(pipeline.encode(source))[:, None], None
    done = pipeline.translate(np.asarray(source, np.uint8))
    return done.output[:, None], done.latents


def _mixing(options: Options, info: EngineInfo) -> Application:
    count, seed, psi = options.mix or 0, options.seed or 0, 1.0 if options.psi is None else options.psi
    layers, alpha = _layers(options, info), options.mix_alpha
    amount = layer_alpha(info, layers, alpha)
    check_seed(seed)
    check_psi(psi)
    if not 0 <= psi <= 1:
        warnings.warn(f"psi {psi:g} is outside 0 (average face) to 1 (no truncation): faces may look odd", stacklevel=2)
    if not options.url:  # a server says for itself whether it has one
        parts.check_mapping(options.engine, info)

    @cache
    def styles(pipeline: Pipeline) -> NDArray[np.float32]:
        return pipeline.styles(count, seed, psi)

    def make(pipeline: Pipeline, source: Source) -> Made:
        return pipeline.mix(source, styles(pipeline), layers, alpha), None

    how = {"seed": seed, "psi": psi, **_where(amount)}
    return Application("mix", make, [how | {"style": number} for number in range(1, count + 1)])


def _morphing(options: Options, other: Pixels) -> Application:
    steps = STEPS if options.steps is None else options.steps

    def make(pipeline: Pipeline, source: Source) -> Made:
        return pipeline.interpolate(source, other[None], steps), None

    shares = [round(float(share), 6) for share in np.linspace(0, 1, steps)]
    notes = [{"to": options.to.name if options.to else "", "share": share} for share in shares]
    return Application("interpolate", make, notes, lambda one: [one, other])


def _transferring(options: Options, info: EngineInfo, other: Pixels) -> Application:
    layers, alpha = _layers(options, info), options.mix_alpha
    amount = layer_alpha(info, layers, alpha)

    @cache
    def style(pipeline: Pipeline) -> NDArray[np.float32]:
        return pipeline.encode(other[None])

    def make(pipeline: Pipeline, source: Source) -> Made:
        return pipeline.transfer(source, style(pipeline), layers, alpha)[:, None], None

    note = {"style_of": options.style_of.name if options.style_of else "", **_where(amount)}
    return Application("transfer", make, [note], lambda one: [one, other])


def _editing(options: Options, info: EngineInfo) -> Application:
    path, layers, alpha = options.edit or Path(), _layers(options, info), options.mix_alpha
    direction = as_direction(read_array(path), info, f"--edit {path}")
    strengths = STRENGTHS if options.strength is None else parse_strengths(options.strength)
    as_strengths(strengths, "--strength")
    amount = edit_alpha(info, layers, alpha)

    def make(pipeline: Pipeline, source: Source) -> Made:
        return pipeline.edit(source, direction, strengths, layers, alpha), None

    how = {"direction": path.name, **_where(amount)}
    return Application("edit", make, [how | {"strength": round(value, 6)} for value in strengths])


def _swapping(classes: dict[int, int]) -> Application:
    def both(one: Pixels) -> list[Pixels]:
        return [one, transforms.swap(one, classes)]

    def make(pipeline: Pipeline, source: Source) -> Made:
        pictures = [both(one) for one in np.asarray(source, np.uint8)]
        done = pipeline.translate(np.concatenate(pictures))
        return done.output.reshape(len(source), 2, *done.output.shape[1:]), None

    words = {str(old): new for old, new in classes.items()}
    return Application("swap", make, [{"swap": {}}, {"swap": words}], both, both)


def make_reader(options: Options, info: EngineInfo) -> Callable[[Path], Pixels]:
    """A function that reads one picture as the engine eats it, changed as the options ask.

    It raises `PictureError` for a picture that cannot be used; making it raises `PspError` for options that cannot.
    """
    size, factor, swap = info.input_size, options.downsample, options.swap
    if factor is not None:
        transforms.check_factor(factor)
        return lambda path: transforms.degrade(load(path, "rgb", size), factor)
    if options.mask is not None:
        mask = transforms.triangle(size) if options.mask == TRIANGLE else transforms.read_mask(options.mask, size)
        return lambda path: transforms.hide(load(path, "rgb", size), mask)
    if options.sketch_from_photo:
        return lambda path: sketch(load(path, "rgb", size))[..., None]
    if swap is not None:
        return lambda path: _with_classes(load(path, info.input, size, info.classes), path, swap)
    return lambda path: load(path, info.input, size, info.classes)


def _with_classes(labels: Pixels, path: Path, swap: str) -> Pixels:
    """The same label map; a warning where a class to be swapped is not on it."""
    missing = set(parse_swap(swap, 256)) - set(np.unique(labels).tolist())
    if missing:
        warnings.warn(f"{path} has no pixel of class {min(missing)}: --swap {swap} changes nothing there", stacklevel=2)
    return labels


def _layers(options: Options, info: EngineInfo) -> tuple[int, ...] | None:
    return None if options.mix_layers is None else parse_layers(options.mix_layers, info.styles)


def _where(alpha: NDArray[np.float32]) -> dict[str, Any]:
    """Layers and amount in a note."""
    layers = np.flatnonzero(alpha)
    return {"layers": layers.tolist(), "alpha": round(float(alpha[layers[0]]), 6) if len(layers) else 0.0}
