"""Files of arrays: .npy, .npz, PyTorch's .pt, told apart by what they hold rather than by their names."""

import io
import mmap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.arrays import torch_files
from psp_runtime.arrays.numpy_pickles import OBJECT_GLOBALS, PickledArray
from psp_runtime.arrays.pickles import ForbiddenError, load
from psp_runtime.errors import PspError

#: Endings of files that hold arrays.
ENDINGS = (".npy", ".npz", ".pt", ".pth")
#: What a file holds: an array, or several by their names.
Arrays = NDArray[Any] | dict[str, NDArray[Any]]


def read_arrays(path: Path) -> Arrays:
    """Read the array of a .npy file or a tensor saved by PyTorch, or the arrays of a .npz file or of a saved dict.

    Tensors may be of any device, and need no PyTorch. Raises `PspError` for a file that is missing, damaged, or holds
    no numbers, and for one that would have to run code.
    """
    try:
        with path.open("rb") as file:
            return _numbers(_read(file), path)
    except PspError:
        raise
    except ForbiddenError as error:
        raise PspError(f"{path} holds more than numbers and was not read: {error}") from None
    except OSError as error:
        raise PspError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file fails as it likes, in a parser of Python, pickle, zip or NumPy
        raise PspError(f"cannot read {path}: not a .npy, .npz or .pt file of numbers, or a damaged one") from error


def read_array(path: Path) -> NDArray[Any]:
    """Read the one array of a file. Raises `PspError` for one of several, and as `read_arrays`."""
    found = read_arrays(path)
    if isinstance(found, np.ndarray):
        return found
    names = ", ".join(f"{name} {list(one.shape)}" for name, one in list(found.items())[:5])
    raise PspError(f"{path} holds {len(found)} arrays by their names, {names}: expected one array")


def _read(file: Any) -> Any:
    start = file.read(len(torch_files.OLDER))
    file.seek(0)
    if start.startswith(np.lib.format.MAGIC_PREFIX):
        return _read_npy(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return torch_files.read_zip(archive) if torch_files.is_torch_zip(archive) else _read_npz(archive)
    if start != torch_files.OLDER:
        raise ValueError("none of these kinds")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return torch_files.read_older(data)


def _read_npy(file: Any) -> Any:
    """Read the array of a .npy file, or the dict that was saved as one."""
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version in read_header and read_header[version](file)[2].hasobject:
        objects = load(io.BytesIO(file.read()), OBJECT_GLOBALS).value
        return objects[0] if len(objects) == 1 else objects
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(archive: zipfile.ZipFile) -> Any:
    found = {}
    for name in archive.namelist():
        with archive.open(name) as file:
            found[name.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return next(iter(found.values())) if len(found) == 1 else found


def _numbers(value: Any, path: Path) -> Arrays:
    """Keep the value, if it is an array or a dict that has some; other entries of a dict are left out."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, dict):
        raise PspError(f"{path} holds a {type(value).__name__}: expected an array or tensor, or a dict of them")
    arrays = {str(name): _plain(one) for name, one in value.items()}
    found = {name: one for name, one in arrays.items() if isinstance(one, np.ndarray)}
    if not found:
        names = ", ".join(list(arrays)[:5]) or "nothing"
        raise PspError(f"{path} holds a dict without arrays ({names}): expected an array or tensor, or a dict of them")
    return found


def _plain(value: Any) -> Any:
    """Take an array out of its pickle, or another value as it is."""
    return value.value if isinstance(value, PickledArray) else value
