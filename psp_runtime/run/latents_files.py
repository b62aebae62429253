"""W+ latents in files: read as inputs, written as .npy with --save-latents."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psp_runtime.arrays.files import ENDINGS, read_arrays
from psp_runtime.disk import noticing, replacing
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.latents import as_latents
from psp_runtime.pictures.folders import list_files
from psp_runtime.run.files import names_folder, sub_folder


def save_array(path: Path, array: NDArray[np.float32]) -> None:
    """Write one .npy file, replacing an earlier one only when complete."""
    with replacing(path) as file:
        np.save(file, array)


class LatentsWriter:
    """Where W+ latents go: `name` is one .npy file for all pictures, or a folder of one per picture.

    There they keep the sub-folders of the `inputs` that are folders.
    """

    def __init__(self, name: str, inputs: Iterable[str] = ()) -> None:
        path = Path(name)
        self.file = None if names_folder(name) else path
        self.folder = path.parent if self.file else path
        self._inputs = [Path(name) for name in inputs]
        self._kept: list[NDArray[np.float32]] = []
        self.replaced: list[Path] = []
        if self.file and self.file.suffix != ".npy":
            raise PspError(f"--save-latents {name}: expected a name that ends in .npy, or a folder")

    def path(self, source: Path) -> Path:
        """Name the file that gets the latents of a picture."""
        return self.file or self.folder / sub_folder(source, self._inputs) / f"{source.stem}.npy"

    def add(self, source: Path, latents: NDArray[np.float32]) -> None:
        """Take the latents [L,S] of the next picture."""
        if self.file:
            self._kept.append(latents)
        else:
            self._save(self.path(source), latents)

    def finish(self) -> None:
        """Write the one file [N,L,S], if there is something to write."""
        if self.file and self._kept:
            self._save(self.file, np.stack(self._kept))

    def _save(self, path: Path, latents: NDArray[np.float32]) -> None:
        with noticing(path, self.replaced):
            save_array(path, latents)


def read_latents(path: Path, info: EngineInfo) -> list[tuple[Path, NDArray[np.float32]]]:
    """Read the latents [L,S] in a file, or in each of a folder and below it, each with what its output is named after.

    That is the name of a file. Files are .npy, .npz or .pt. Raises `PspError` for files that are none, and for latents
    of another shape.
    """
    if not path.is_dir():
        return [(path.with_stem(path.stem + ending), one) for ending, one in _codes(path, info)]
    files = list_files(path, ENDINGS)
    if not files:
        raise PspError(f"{path}: no latents in this folder, expected .npy files that --save-latents wrote")
    every = [_codes(file, info) for file in files]
    several = [file for file, read in zip(files, every, strict=True) if len(read) != 1]
    if several:
        raise PspError(f"{several[0]}: expected the latents of one picture per file of a folder")
    return [(file, read[0][1]) for file, read in zip(files, every, strict=True)]


def _codes(path: Path, info: EngineInfo) -> list[tuple[str, NDArray[np.float32]]]:
    """Read the latents [L,S] in a file, each with what the name of its output gets: the name it has there, a number."""
    found = read_arrays(path)
    named = {"": found} if isinstance(found, np.ndarray) else {f"_{Path(key).stem}": one for key, one in found.items()}
    codes = {name: as_latents(one, info, f"{path}{name.replace('_', ', ', 1)}") for name, one in named.items()}
    empty = [code for code in codes.values() if not len(code)]
    if empty:
        raise PspError(f"{path}: the latents of no picture at all, {list(empty[0].shape)}")
    return [one for name, several in codes.items() for one in _numbered(several, name)]


def _numbered(codes: NDArray[np.float32], name: str) -> list[tuple[str, NDArray[np.float32]]]:
    width = len(str(len(codes)))
    numbers = [f"_{number:0{width}}" for number in range(1, len(codes) + 1)] if len(codes) > 1 else [""]
    return [(name + number, code) for number, code in zip(numbers, codes)]
