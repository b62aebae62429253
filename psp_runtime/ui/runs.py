"""What the page does when it is asked for pictures: a run of a verb of `psp`, with its files and its command.

The page itself is in `page`; nothing in here needs Gradio.
"""

import itertools
import os
import re
import shlex
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from psp_runtime.alignment.finding import find
from psp_runtime.alignment.pasting import MASKS
from psp_runtime.console import Device, counted
from psp_runtime.engines.info import read_info
from psp_runtime.engines.precision import Precision
from psp_runtime.engines.session import open_session
from psp_runtime.errors import PspError
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.folders import INPUT_ENDING
from psp_runtime.pictures.photos import open_photo
from psp_runtime.pipeline import Pipeline
from psp_runtime.run.applications import TRIANGLE
from psp_runtime.run.execution import Run
from psp_runtime.run.options import Options, flag
from psp_runtime.run.plan import make_plan
from psp_runtime.run.verbs import Mix, Morph, Transfer, Translate, Verb
from psp_runtime.ui.canvas import Pixels, class_ids


class Make(NamedTuple):
    """What can be made of a picture: the verb of `psp`, and the options of it that the page has."""

    verb: type[Verb]
    options: tuple[str, ...]


MAKES = {
    "one picture": Make(Translate, ()),
    "random styles": Make(Mix, ("count", "seed", "psi", "layers", "alpha")),
    "the way to another picture": Make(Morph, ("to", "steps")),
    "the colours of another picture": Make(Transfer, ("style_of", "layers", "alpha")),
}
#: Options that change the input; a page has that of its engine's task.
CHANGES = ("downsample", "mask")
#: Options of whole photos, which mean nothing without the first of them.
PHOTOS = ("align", "faces", "paste_back")
#: That of an engine which makes its pictures in steps, whatever is made.
STEPS = ("iterations",)
#: Values of the page, where sliders give any kind of number, as the verbs have them.
_AS: dict[str, Callable[[Any], Any]] = {
    "count": int, "seed": int, "steps": int, "iterations": int, "downsample": int, "psi": float, "alpha": float,
    "layers": str, "to": Path, "style_of": Path, "mask": lambda _: TRIANGLE,
    "align": bool, "faces": str, "paste_back": lambda _: MASKS[0],
}  # fmt: skip

#: Runs whose files are kept for downloads.
KEPT = 50


class Shown(NamedTuple):
    """What a page shows of a run: PNG files with captions, how long the engine took, the command, and warnings.

    `compared` are a photo before and after, where something was put back into it.
    """

    pictures: list[tuple[str, str]]
    timing: str
    command: str
    warnings: list[str]
    compared: tuple[str, str] | None = None


def obstacle(values: Mapping[str, Any]) -> str:
    """Say which picture is still missing for what `make` says, in words; empty when all are there."""
    others = [name for name in ("to", "style_of") if name in MAKES[values["make"]].options]
    if all(values.get(name) for name in ("picture", *others)):
        return ""
    return f"{values['make']}: give {'both pictures' if others else 'a picture'} first"


def as_options(engine: Path, values: Mapping[str, Any], device: Device = "auto", precision: Precision = "auto") -> Verb:
    """Make the options of a verb for the values of a page: `picture` (a file), `make` of MAKES, and theirs.

    Raises `PspError` where a picture is missing.
    """
    if missing := obstacle(values):
        raise PspError(missing)
    make = MAKES[values["make"]]
    names = (*CHANGES, *STEPS, *(PHOTOS if values.get("align") else ()), *make.options)
    given = {name: values[name] for name in names if values.get(name) not in (None, "")}
    chosen: dict[str, Any] = {name: _AS[name](value) for name, value in given.items() if value is not False}
    return make.verb(inputs=[str(values["picture"])], engine=engine, device=device, precision=precision, **chosen)


def command(options: Verb) -> str:
    """Spell the command line of these options, in the folder where the pictures are."""
    words = ["psp", options.verb, *(Path(name).name for name in options.inputs), "--engine", str(options.engine)]
    for field in sorted(fields(options), key=lambda one: one.name in Options.__dataclass_fields__):  # its own first
        value = getattr(options, field.name)
        if field.name not in ("inputs", "engine", "out") and value != field.default:
            words.append(flag(field.name))
            if value is not True:
                words.append(value.name if isinstance(value, Path) else str(value))
    return shlex.join(words)


class Runs:
    """Runs of `psp` on engines that stay open, each in a folder of its own in `folder`; the last KEPT are kept.

    One at a time: whoever calls sees to that.
    """

    def __init__(self, folder: Path, device: Device = "auto", precision: Precision = "auto") -> None:
        self.folder, self.device, self.precision = folder, device, precision
        self._opened: dict[Path, Pipeline] = {}
        self._folders: deque[Path] = deque()
        self._count = 0

    def run(self, engine: Path, values: Mapping[str, Any]) -> Shown:
        """Make what the values of a page ask for. Raises `PspError`, as `psp` does, for what cannot be made."""
        asked = as_options(engine, values, self.device, self.precision)
        options = replace(asked, out=f"{self.new_folder()}{os.sep}", quiet=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline = self.pipeline(engine)
            pipeline.repeat(options.iterations)
            run = Run(make_plan(options, read_info(engine)), pipeline)
            run.execute()
        told = {self.worded(one.message) for one in caught if issubclass(one.category, UserWarning)}
        compared = self._compared(run) if asked.paste_back else None
        return Shown(_pictures(run), _timing(run), command(asked), sorted(told), compared)

    def count_faces(self, picture: str) -> int:
        """Count the faces of a photo."""
        return len(find(open_photo(picture).picture))

    def _compared(self, run: Run) -> tuple[str, str]:
        """Make PNG files of the photo before and, as it is at last, after: browsers show these the same way."""
        paths = []
        for name, source in (("before", run.plan.jobs[0].source), ("after", run.plan.jobs[0].outputs[-1])):
            paths.append(self._folders[-1] / f"{name}.png")
            photo = open_photo(source)
            save(photo.picture, paths[-1], profile=photo.profile)
        return str(paths[0]), str(paths[1])

    def worded(self, message: object) -> str:
        """Reword a message about files in `folder` with their names alone: where they lie is nobody's business."""
        return re.sub(rf"{re.escape(str(self.folder))}/(\S*/)?", "", str(message))

    def random_face(self, engine: Path, seed: int) -> Path:
        """Make a picture of nobody, as the engine's own generator makes them: something to try an engine with.

        Raises `EngineError` without the mapping network beside the engine.
        """
        pipeline = self.pipeline(engine)
        face = pipeline.decode(pipeline.styles(1, seed, psi=0.7))[0]
        path = self.new_folder() / f"face_{seed}.png"
        save(face, path)
        return path

    def save_drawing(self, picture: Pixels, kind: str) -> Path:
        """Save what is on a canvas [H,W,3] as a file `psp` reads: a sketch, or a label map of the painted colours."""
        path = self.new_folder() / ("labels.png" if kind == "labels" else "sketch.png")
        save(class_ids(picture) if kind == "labels" else np.ascontiguousarray(picture), path)
        return path

    def pipeline(self, engine: Path) -> Pipeline:
        """Return the open engine; it opens when it is first needed."""
        if engine not in self._opened:
            self._opened[engine] = Pipeline(open_session(engine, self.device, precision=self.precision))
        return self._opened[engine]

    def new_folder(self) -> Path:
        """Make an empty folder for the files of a run."""
        self._count += 1
        self._folders.append(self.folder / str(self._count))
        self._folders[-1].mkdir()
        if len(self._folders) > KEPT:
            shutil.rmtree(self._folders.popleft())
        return self._folders[-1]

    def close(self) -> None:
        """Close every engine."""
        for pipeline in self._opened.values():
            pipeline.close()
        self._opened.clear()


def _pictures(run: Run) -> list[tuple[str, str]]:
    """List the files of a run of one input and their captions: a changed input first."""
    captions = itertools.cycle(_caption(how) for how in run.application.notes)
    changed = [path for path in run.written if path.stem.endswith(INPUT_ENDING)]
    made = [path for path in run.written if path not in changed]
    return [*((str(path), "input") for path in changed), *((str(path), text) for path, text in zip(made, captions))]


def _caption(how: Mapping[str, Any]) -> str:
    """Say what tells one picture of a run from the others."""
    return next((f"{name} {how[name]:.2g}" for name in ("style", "share") if name in how), "")


def _timing(run: Run) -> str:
    pipeline, seconds = run.pipeline, run.engine.seconds
    rate = f"{run.made / seconds:.1f} pictures/s, {pipeline.precision}, {pipeline.device}"
    return f"{counted(run.made, 'picture')} in {seconds:.2f} s of engine time ({rate})"
