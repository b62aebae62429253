"""What the page shows of a run: pictures with captions, one before and after, files to take home, times."""

import itertools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from psp_runtime.console import counted
from psp_runtime.pictures.decoding import open_upright
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.folders import INPUT_ENDING
from psp_runtime.pictures.photos import open_photo
from psp_runtime.run.execution import Run
from psp_runtime.run.verbs import Swap, Translate, Verb


class Shown(NamedTuple):
    """What a page shows of a run: files with captions, how long the engine took, the command, and warnings.

    `files` is a ZIP of everything the command reads, but the engine, and writes. `compared` are two pictures of one
    size, before and after, where there is one of each; `animation` is a GIF, where one was asked for.
    """

    pictures: list[tuple[str, str]]
    timing: str
    command: str
    warnings: list[str]
    files: str
    compared: tuple[str, str] | None = None
    animation: str | None = None


def collect(run: Run, asked: Verb, command: str, warnings: list[str]) -> Shown:
    """Gather what is shown of a run that is done, and write its ZIP. `asked` has the files as the visitor gave them."""
    animation = str(run.options.gif) if run.options.gif else None
    pictures = _pictures(run)
    return Shown(
        pictures, _timing(run), command, warnings, _zip(run, asked, command), _compared(run, pictures), animation
    )


def _pictures(run: Run) -> list[tuple[str, str]]:
    """List the files of a run and their captions: a changed input first."""
    captions = itertools.cycle(_caption(how) for how in run.application.notes)
    changed = [path for path in run.written if path.stem.endswith(INPUT_ENDING)]
    made = [path for path in run.written if path not in changed]
    several = len(run.plan.jobs) > 1
    named = [(str(path), f"{path.stem} {text}".strip() if several else text) for path, text in zip(made, captions)]
    return [*((str(path), "input") for path in changed), *named]


def _caption(how: Mapping[str, Any]) -> str:
    """Say what tells one picture of a run from the others."""
    if "swap" in how:
        return "after" if how["swap"] else "before"
    return next((f"{name} {how[name]:.2g}" for name in ("style", "share", "strength") if name in how), "")


def _compared(run: Run, pictures: list[tuple[str, str]]) -> tuple[str, str] | None:
    """Make two pictures of one size, before and after, where one input became one picture: PNG files.

    Of a photo with a face put back it is the photo; of a label map with a class swapped, the faces of both.
    """
    made = [path for path, text in pictures if text != "input"]
    if isinstance(run.options, Swap) and len(made) == 2:
        return made[0], made[1]
    if len(run.plan.jobs) > 1 or run.application.count > 1 or len(made) != 1:
        return None
    if not (run.options.paste_back or isinstance(run.options, Translate)):
        return None
    before, after = (Path(made[0]).with_name(f"{name}.png") for name in ("before", "after"))
    if run.options.paste_back:
        for source, path in ((run.plan.jobs[0].source, before), (Path(made[0]), after)):
            photo = open_photo(source)
            save(photo.picture, path, profile=photo.profile)
        return str(before), str(after)
    source = run.plan.read(run.plan.jobs[0].source).sources[0]
    with open_upright(Path(made[0]), made[0]).image as picture:
        save(run.saver.shown(np.asarray(source), (picture.height, picture.width, 3)), before)
    return str(before), made[0]


def _timing(run: Run) -> str:
    pipeline, seconds = run.pipeline, run.engine.seconds
    rate = f"{run.made / seconds:.1f} pictures/s, {pipeline.precision}, {pipeline.device}"
    return f"{counted(run.made, 'picture')} in {seconds:.2f} s of engine time ({rate})"


def _zip(run: Run, asked: Verb, command: str) -> str:
    """Pack inputs, outputs and the command: in the folder it is unpacked into, that makes the same."""
    others = [getattr(asked, name, None) for name in ("to", "style_of", "direction")]
    files = [*map(Path, asked.inputs), *filter(None, others), *map(Path, run.files())]
    path = Path(run.options.out or ".") / f"{Path(asked.inputs[0]).stem}_{asked.verb}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("command.txt", f"{command}\n")
        for file in dict.fromkeys(files):
            archive.write(file, file.name)
    return str(path)
