"""The files a run reads and writes: found, named and checked before any engine opens."""

import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psp_runtime.disk import delete_unfinished
from psp_runtime.errors import PspError
from psp_runtime.pictures.encoding import FORMATS, picture_format

#: Output names end so, before a number or INPUT_ENDING; a folder is never read back through them.
OUTPUT_ENDING = "_out"
#: What a changed input is saved as, beside its output.
INPUT_ENDING = "_input"

_OUTPUT_STEM = re.compile(rf"(.+){OUTPUT_ENDING}(_\d+|{INPUT_ENDING})?")


@dataclass(frozen=True)
class Job:
    """One input and its outputs.

    `source` is the picture, or names the file that `latents` [L,S] came from. `outputs` are the N pictures made of it,
    or none where only a contact sheet or an animation is asked for. `changed` is where a changed input goes.
    """

    source: Path
    outputs: tuple[Path, ...]
    changed: Path | None = None
    latents: NDArray[np.float32] | None = None

    @property
    def written(self) -> tuple[Path, ...]:
        """Every file of this job."""
        return (*self.outputs, *([self.changed] if self.changed else []))


def make_job(source: Path, base: Path, count: int, changed: bool, latents: NDArray[np.float32] | None = None) -> Job:
    """The job that writes `base` itself if it makes one picture, BASE_1 to BASE_N if it makes several."""
    width = len(str(count))
    numbered = [base.with_name(f"{base.stem}_{n:0{width}}{base.suffix}") for n in range(1, count + 1)]
    with_input = base.with_name(f"{base.stem}{INPUT_ENDING}{base.suffix}") if changed else None
    return Job(source, tuple(numbered if count > 1 else [base]), with_input, latents)


def find_pictures(inputs: Iterable[Path]) -> list[Path]:
    """The pictures named, and those in the folders named, in that order; without outputs of earlier runs."""
    pictures: list[Path] = []
    for path in inputs:
        found = list_pictures(path) if path.is_dir() else [path]
        if not found:
            raise PspError(f"no pictures in {path}: expected files named {', '.join(FORMATS)}")
        pictures += found
    return without_outputs(pictures)


def list_pictures(folder: Path) -> list[Path]:
    """The picture files directly in a folder, sorted, without hidden files and without our own outputs."""
    return without_outputs(
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in FORMATS and not path.name.startswith(".") and path.is_file()
    )


def without_outputs(pictures: Iterable[Path]) -> list[Path]:
    """Leave out each X_out, X_out_NUMBER and X_out_input whose picture X is among the others of the same folder."""
    pictures = list(pictures)
    known = {path.with_suffix("") for path in pictures}

    def is_output(path: Path) -> bool:
        match = _OUTPUT_STEM.fullmatch(path.stem)
        return match is not None and path.with_name(match[1]) in known

    return [path for path in pictures if not is_output(path)]


def output_bases(sources: list[Path], out: str | None, single: bool, ending: str | None) -> list[Path]:
    """What the output of each source is called, before it is numbered: X_out.png, or another `ending` such as "jpg".

    Raises `PspError` for an `out` that is no picture's name, or contradicts the ending asked for.
    """
    if out and not names_folder(out):
        if single:
            kind = picture_format(Path(out))
            if ending and kind != FORMATS[f".{ending}"]:
                raise PspError(f"--out {out} and --format {ending} contradict each other: leave one of them out")
            return [Path(out)]
        if Path(out).suffix.lower() in FORMATS:
            raise PspError(f"--out {out} names one picture, but the input is a folder or several: give a folder")
    return [Path(out or ".") / f"{source.stem}{OUTPUT_ENDING}.{ending or 'png'}" for source in sources]


def names_folder(name: str) -> bool:
    """Whether a name on the command line is that of a folder, there or to be made."""
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
    """What the names of one file have in common, however they are spelled, there or not."""
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
