"""The files a run reads and writes: found, named and checked before any engine opens."""

import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psp_runtime.disk import delete_unfinished
from psp_runtime.errors import PspError
from psp_runtime.pictures.encoding import FORMATS, picture_format
from psp_runtime.pictures.folders import (
    INPUT_ENDING,
    OUTPUT,
    OUTPUT_ENDING,
    Listing,
    list_pictures,
    no_pictures,
    without_outputs,
)
from psp_runtime.run.options import Options

#: Bytes of a file's name at most, where the system does not say it.
LONGEST_NAME = 255
#: The last face for which there is room in a name where --faces sets no end.
LAST_FACE = 999
_STEM = re.compile(rf"(.*?)({OUTPUT_ENDING}(?:_\d+|{INPUT_ENDING})?)?", re.DOTALL)


@dataclass(frozen=True)
class Job:
    """One input and its outputs.

    `source` is the picture, or names the file that `latents` [L,S] came from. `outputs` are the N pictures made of it,
    or none where only a contact sheet or an animation is asked for. `changed` is where a changed input goes, `aligned`
    an aligned crop.
    """

    source: Path
    outputs: tuple[Path, ...]
    changed: Path | None = None
    latents: NDArray[np.float32] | None = None
    aligned: Path | None = None

    @property
    def written(self) -> tuple[Path, ...]:
        """Every file of this job."""
        return (*self.outputs, *(path for path in (self.changed, self.aligned) if path))

    def of_face(self, number: int, options: Options) -> "Job":
        """Give the same for one of several faces of a photo, `number` from 1: its files have that in their names.

        Whole photos have all faces, and keep their names.
        """
        if not options.several:
            return self
        outputs = self.outputs if options.paste_back else tuple(_of_face(path, number) for path in self.outputs)
        changed, aligned = (path and _of_face(path, number) for path in (self.changed, self.aligned))
        return replace(self, source=_of_face(self.source, number), outputs=outputs, changed=changed, aligned=aligned)

    def of_last_face(self, options: Options) -> "Job":
        """Give the same for the last face that a photo may give, whose names are the longest."""
        which = options.which
        return self.of_face(which.end or LAST_FACE if which else 1, options)


def _of_face(path: Path, number: int) -> Path:
    """photo_face2.jpg, or photo_face2_out.png."""
    match = _STEM.fullmatch(path.stem)
    assert match is not None
    return path.with_stem(f"{match[1]}_face{number}{match[2] or ''}")


def make_job(source: Path, base: Path, count: int, changed: bool, latents: NDArray[np.float32] | None = None) -> Job:
    """Make the job that writes `base` itself if it makes one picture, BASE_1 to BASE_N if it makes several."""
    width = len(str(count))
    numbered = [base.with_name(f"{base.stem}_{n:0{width}}{base.suffix}") for n in range(1, count + 1)]
    with_input = base.with_name(f"{base.stem}{INPUT_ENDING}{base.suffix}") if changed else None
    return Job(source, tuple(numbered if count > 1 else [base]), with_input, latents)


def find_pictures(inputs: Iterable[Path], out: str | None = None, crops: str | None = None) -> Listing:
    """Find the pictures named, and those in the folders named and below them, in order; without outputs of ours.

    Nor those in the folders `out` and `crops`, where these lie in one of the others. Raises `PspError` for a folder
    without pictures.
    """
    written = [*([Path(out or ".")] if names_folder(out or ".") else []), *([Path(crops)] if crops else [])]
    found = Listing([], [])
    for path in inputs:
        one = list_pictures(path, written) if path.is_dir() else Listing([path], [])
        if not one.pictures:
            raise no_pictures(path, one)
        found = Listing(found.pictures + one.pictures, found.left_out + one.left_out)
    kept = without_outputs(found.pictures)
    return Listing(kept, found.left_out + [(OUTPUT, "")] * (len(found.pictures) - len(kept)))


def sub_folder(path: Path, inputs: Iterable[Path]) -> Path:
    """Tell where a picture lies below the input it was found in: its outputs go there too."""
    above = [folder for folder in inputs if path != folder and path.is_relative_to(folder)]
    return path.relative_to(above[0]).parent if above else Path()


def output_bases(sources: list[Path], options: Options, single: bool) -> list[Path]:
    """Name the output of each source, before it is numbered: X_out.png, or another `--format` such as "jpg".

    Outputs keep the sub-folders of an input folder. Raises `PspError` for an `--out` that is no picture's name, or
    contradicts the format asked for.
    """
    out, ending = options.out, options.format
    if out and not names_folder(out):
        if single:
            kind = picture_format(Path(out))
            if ending not in (None, "auto") and kind != FORMATS[f".{ending}"]:
                raise PspError(f"--out {out} and --format {ending} contradict each other: leave one of them out")
            return [Path(out)]
        if Path(out).suffix.lower() in FORMATS:
            raise PspError(f"--out {out} names one picture, but the input is a folder or several: give a folder")
    folders, inputs = Path(out or "."), [Path(name) for name in options.inputs]
    return [
        folders / sub_folder(source, inputs) / f"{source.stem}{OUTPUT_ENDING}{options.suffix(source)}"
        for source in sources
    ]


def longest_name(folder: Path) -> int:
    """Ask how many bytes the name of a file in a folder, there or not, may have."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows, or a system that does not say
        return LONGEST_NAME


def check_name(path: Path, source: object) -> str:
    """Say what is wrong with the name of an output made of `source`; empty where the file system takes it."""
    taken, most = len(os.fsencode(path.name)), longest_name(path.parent)
    if taken <= most:
        return ""
    return f"{source}: the name of its output would take {taken} bytes, this file system allows {most}: rename it"


def names_folder(name: str) -> bool:
    """Tell whether a name on the command line is that of a folder, there or to be made."""
    return name.endswith(("/", os.sep)) or Path(name).is_dir() or not Path(name).suffix


def check_clashes(outputs: Iterable[tuple[str, Path]], read: Iterable[Path]) -> None:
    """Raise `PspError` when two outputs have one name, or an output that of a file which is read.

    `outputs` come with what they are made of: a picture, or the option that asks for them.
    """
    sources = {identity(path) for path in read}
    writers: dict[str, str] = {}
    for source, output in outputs:
        place = identity(output)
        if place in writers:
            raise PspError(f"{writers[place]} and {source} would both become {output}: rename one, or run them apart")
        if place in sources:
            raise PspError(f"{output}, the output of {source}, is an input too: choose another name or folder for it")
        writers[place] = source


def identity(path: str | Path) -> str:
    """Give what the names of one file have in common, however they are spelled, there or not."""
    # realpath: Path.resolve raises on links that lead to themselves, before Python 3.13.
    name = os.path.normcase(os.path.realpath(path))
    return unicodedata.normalize("NFC", name).casefold() if sys.platform == "darwin" else name


def make_writable(folder: Path) -> None:
    """Make a folder where there is none. Raises `PspError` unless files can be written into it."""
    if folder.exists() and not folder.is_dir():
        raise PspError(f"cannot write into {folder}: it is a file, expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        delete_unfinished(folder)
    except OSError as error:
        raise PspError(f"cannot write into {folder}: {error.strerror}") from error
