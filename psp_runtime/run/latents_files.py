"""W+ latents in .npy files: read as inputs, written with --save-latents."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.disk import replacing
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.latents import as_latents
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
        if self.file and self.file.suffix != ".npy":
            raise PspError(f"--save-latents {name}: expected a name that ends in .npy, or a folder")

    def path(self, source: Path) -> Path:
        """The file that gets the latents of a picture."""
        return self.file or self.folder / sub_folder(source, self._inputs) / f"{source.stem}.npy"

    def add(self, source: Path, latents: NDArray[np.float32]) -> None:
        """Take the latents [L,S] of the next picture."""
        if self.file:
            self._kept.append(latents)
        else:
            save_array(self.path(source), latents)

    def finish(self) -> None:
        """Write the one file [N,L,S], if there is something to write."""
        if self.file and self._kept:
            save_array(self.file, np.stack(self._kept))


def read_latents(path: Path, info: EngineInfo) -> list[tuple[Path, NDArray[np.float32]]]:
    """The latents [L,S] in a .npy file or in each of a folder of them, each with the file its output is named after.

    Raises `PspError` for files that are none, and for latents of another shape.
    """
    if not path.is_dir():
        read = as_latents(read_array(path), info, str(path))
        if not len(read):
            raise PspError(f"{path}: the latents of no picture at all, {list(read.shape)}")
        width = len(str(len(read)))
        names = [path.with_stem(f"{path.stem}_{n:0{width}}") for n in range(1, len(read) + 1)]
        return list(zip(names if len(read) > 1 else [path], read, strict=True))
    files = sorted(file for file in path.glob("*.npy") if not file.name.startswith("."))
    if not files:
        raise PspError(f"{path}: no latents in this folder, expected .npy files that --save-latents wrote")
    every = [as_latents(read_array(file), info, str(file)) for file in files]
    several = [file for file, read in zip(files, every, strict=True) if len(read) != 1]
    if several:
        raise PspError(f"{several[0]}: expected the latents of one picture per file of a folder")
    return [(file, read[0]) for file, read in zip(files, every, strict=True)]


def read_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file. Raises `PspError` for a file that is none."""
    try:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except OSError as error:
        raise PspError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged header is parsed as Python, and fails as it likes
        raise PspError(f"cannot read {path}: not a .npy file of numbers, or a damaged one") from error
