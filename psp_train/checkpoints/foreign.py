"""What stands where a file of weights should be, and the plain data of other libraries that such a file may hold."""

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

_LONGEST_START = 1024


def what_it_is(path: Path) -> str:
    """Say what a file is that is certainly none of weights, and what to do; empty for anything else."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_START)
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the file it stands for: run `git lfs pull` in its clone, or download it"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        return (
            "is a saved web page, not the file it is about (Google Drive gives such a page for large files): "
            "open the link in a browser and save the file itself"
        )
    return ""


def plain_types() -> list[Any]:
    """List what `torch.load` may make besides tensors: NumPy's scalars and arrays, and paths.

    What an array of objects holds is made by the same rules. With some goes the name that files know it by: NumPy 1 and
    2 keep the same function in different modules, and a path of another system becomes one that only names a file.
    """
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    found: list[Any] = [np.dtype, np.ndarray, *_number_types()]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        found += [(scalar, f"{module}.scalar"), (reconstruct, f"{module}._reconstruct")]
    for module in ("pathlib", "pathlib._local"):  # of Python 3.13
        for kind, pure in (("Posix", PurePosixPath), ("Windows", PureWindowsPath)):
            found += [(pure, f"{module}.{kind}Path"), (pure, f"{module}.Pure{kind}Path")]
    return found


def _number_types() -> list[type]:
    names = "Bool Int8 UInt8 Int16 UInt16 Int32 UInt32 Int64 UInt64 Float16 Float32 Float64 Str Object"
    return [type(np.dtype(name.lower())) for name in names.split()]
