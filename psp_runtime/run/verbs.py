"""The verbs of `psp` that make pictures: the options of each, and what it makes of an input.

Everything that can be wrong is found while an `Application` is made, before an engine opens.
"""

import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from psp_runtime.arrays.directions import read_direction
from psp_runtime.console import INPUT, MAKE, SAVE, option
from psp_runtime.engines import parts
from psp_runtime.engines.info import EngineInfo
from psp_runtime.latents import as_strengths, check_psi, check_seed, edit_alpha, layer_alpha
from psp_runtime.pictures import transforms
from psp_runtime.pipeline import Pipeline, Source
from psp_runtime.run.applications import Application, Made, Pixels, Reader, every_step, translate, where, with_other
from psp_runtime.run.options import (
    Animations,
    Changes,
    Cluster,
    Layers,
    Options,
    Photos,
    Sheets,
    Steps,
    Storable,
    inputs_of,
)
from psp_runtime.run.values import MOST, parse_classes, parse_layers, parse_strengths


@dataclass(frozen=True, kw_only=True)
class Translate(Changes, Photos, Sheets, Steps, Cluster, Options):
    """Translate pictures: photo.png becomes photo_out.png in the working folder.

    X_out.png beside a picture X is an earlier output: it is overwritten, never read. Among several pictures, one that
    cannot be read is reported and skipped (exit 1 at the end); alone, it is an error (exit 2).
    """

    verb: ClassVar[str] = "run"

    first: Annotated[Path | None, option(MAKE, "ReStyle: begin with a step of this one.", metavar="ENGINE")] = None

    save_latents: Annotated[
        str | None, option(SAVE, "W+ latents: LATENTS.npy [N,L,S] in input order, or a folder.", metavar="LATENTS")
    ] = None

    def application(self, info: EngineInfo, read: Reader) -> Application:
        """Make one picture of each; on a contact sheet of a ReStyle engine, the picture after every step."""
        if info.iterations and self.grid and not self.url:  # a server gives the last one alone
            return every_step(self, info)
        return Application("translate", translate, [{}])


@dataclass(frozen=True, kw_only=True)
class Mix(Storable, Changes, Photos, Sheets, Layers, Steps, Cluster, Options):
    """Make several faces of each input by mixing in random styles; a seed makes the same faces again.
    sketch.png becomes sketch_out_1.png and so on; with --grid alone, a contact sheet.
    """

    verb: ClassVar[str] = "mix"

    count: Annotated[int, option(MAKE, "How many faces of each input.", "--count", "-n", min=1, max=MOST)] = 5
    seed: Annotated[int, option(MAKE, "Which styles.")] = 0
    psi: Annotated[float, option(MAKE, "Truncation: 1 (none) to 0 (the average face).")] = 1.0

    def application(self, info: EngineInfo, read: Reader) -> Application:
        """Raises `PspError` for values out of range, and without a mapping network beside the engine."""
        layers, alpha = _layers(self, info), self.alpha
        amount = layer_alpha(info, layers, alpha)
        check_seed(self.seed)
        check_psi(self.psi)
        if not 0 <= self.psi <= 1:
            words = f"psi {self.psi:g} is outside 0 (average face) to 1 (no truncation): faces may look odd"
            warnings.warn(words, stacklevel=2)
        if not self.url:  # a server says for itself whether it has one
            parts.check_mapping(self.engine, info)

        @cache
        def styles(pipeline: Pipeline) -> NDArray[np.float32]:
            return pipeline.styles(self.count, self.seed, self.psi)

        def make(pipeline: Pipeline, source: Source) -> Made:
            return pipeline.mix(source, styles(pipeline), layers, alpha), None

        how = {"seed": self.seed, "psi": self.psi, **where(amount)}
        return Application("mix", make, [how | {"style": number} for number in range(1, self.count + 1)])


@dataclass(frozen=True, kw_only=True)
class Morph(Storable, Changes, Photos, Sheets, Animations, Steps, Cluster, Options):
    """Make the pictures on the way from each input to another picture, in W+: both ends and what is between."""

    verb: ClassVar[str] = "morph"

    to: Annotated[
        Path, option(INPUT, "The other end: a picture, or its saved latents.", metavar="PICTURE", show_default=False)
    ]
    steps: Annotated[int, option(MAKE, "Pictures, both ends included.", min=2, max=MOST)] = 9

    def application(self, info: EngineInfo, read: Reader) -> Application:
        """Raises `PspError` for another picture that cannot be used."""
        other = read(self.to)

        def make(pipeline: Pipeline, source: Source) -> Made:
            return pipeline.interpolate(source, other[None], self.steps), None

        shares = [round(float(share), 6) for share in np.linspace(0, 1, self.steps)]
        notes = [{"to": self.to.name, "share": share} for share in shares]
        return Application("interpolate", make, notes, with_other(other))


@dataclass(frozen=True, kw_only=True)
class Transfer(Storable, Changes, Photos, Sheets, Layers, Steps, Cluster, Options):
    """Give each input the colours of another picture: its layers of style are mixed in."""

    verb: ClassVar[str] = "transfer"

    style_of: Annotated[
        Path, option(INPUT, "Whose colours: a picture, or its saved latents.", metavar="PICTURE", show_default=False)
    ]

    def application(self, info: EngineInfo, read: Reader) -> Application:
        """Raises `PspError` for another picture that cannot be used, and for layers the engine does not have."""
        other, layers, alpha = read(self.style_of), _layers(self, info), self.alpha
        amount = layer_alpha(info, layers, alpha)

        @cache
        def style(pipeline: Pipeline) -> NDArray[np.float32]:
            return pipeline.encode(other[None])

        def make(pipeline: Pipeline, source: Source) -> Made:
            return pipeline.transfer(source, style(pipeline), layers, alpha)[:, None], None

        note = {"style_of": self.style_of.name, **where(amount)}
        return Application("transfer", make, [note], with_other(other))


@dataclass(frozen=True, kw_only=True)
class Edit(Storable, Changes, Photos, Sheets, Animations, Layers, Steps, Cluster, Options):
    """Move each input along a direction in W+, such as one that psp direction has learned."""

    verb: ClassVar[str] = "edit"

    direction: Annotated[
        Path, option(INPUT, "Of psp direction, or .pt.", "--direction", "-d", metavar="NAME.npy", show_default=False)
    ]
    component: Annotated[str | None, option(INPUT, "Which one of a file of several.", metavar="NUMBER or NAME")] = None
    strength: Annotated[str, option(MAKE, "How far: 1.5, or -1,0,2, or FROM:TO:STEPS.")] = "1"

    def application(self, info: EngineInfo, read: Reader) -> Application:
        """Raises `PspError` for a direction of another size, and for values out of range."""
        layers, alpha = _layers(self, info), self.alpha
        direction = read_direction(self.direction, info, self.component)
        strengths = parse_strengths(self.strength)
        as_strengths(strengths, "--strength")
        amount = edit_alpha(info, layers, alpha)

        def make(pipeline: Pipeline, source: Source) -> Made:
            return pipeline.edit(source, direction, strengths, layers, alpha), None

        chosen = {"component": self.component} if self.component is not None else {}
        how = {"direction": self.direction.name, **chosen, **where(amount)}
        return Application("edit", make, [how | {"strength": round(value, 6)} for value in strengths])


@dataclass(frozen=True, kw_only=True)
class Swap(Sheets, Cluster, Options):
    """Render label maps before and after some of their classes are replaced by others."""

    verb: ClassVar[str] = "swap"
    task: ClassVar[str] = "segmentation"

    classes: Annotated[str, option(INPUT, "Ids OLD=NEW, several with commas.", metavar="OLD=NEW", show_default=False)]

    def application(self, info: EngineInfo, read: Reader) -> Application:
        """Raises `PspError` for classes the engine does not know."""
        classes = parse_classes(self.classes, info.classes)

        def both(one: Pixels) -> list[Pixels]:
            return [one, transforms.swap(one, classes)]

        def make(pipeline: Pipeline, source: Source) -> Made:
            pictures = [both(one) for one in np.asarray(source, np.uint8)]
            done = pipeline.translate(np.concatenate(pictures))
            return done.output.reshape(len(source), 2, *done.output.shape[1:]), None

        words = {str(old): new for old, new in classes.items()}
        return Application("swap", make, [{"swap": {}}, {"swap": words}], both, both)


@dataclass(frozen=True, kw_only=True)
class Decode(Options):
    """Make the pictures of saved latents, as psp run --save-latents writes them."""

    verb: ClassVar[str] = "decode"
    pictures: ClassVar[bool] = False
    stored: ClassVar[bool] = True

    inputs: Annotated[list[str], inputs_of("Saved latents (.npy, .npz, .pt), and folders of them.")] = field(
        default_factory=list
    )
    grid: Annotated[Path | None, option(SAVE, "A contact sheet of everything.", metavar="PICTURE")] = None

    def application(self, info: EngineInfo, read: Reader) -> Application:
        """Make one picture of each."""
        return Application("translate", translate, [{}])


Verb = Translate | Mix | Morph | Transfer | Edit | Swap | Decode
VERBS: tuple[type[Verb], ...] = (Translate, Mix, Morph, Transfer, Edit, Swap, Decode)


def _layers(options: Mix | Transfer | Edit, info: EngineInfo) -> tuple[int, ...] | None:
    return None if options.layers is None else parse_layers(options.layers, info.styles)
