"""Tensors in PyTorch's files (`torch.save`) read as NumPy arrays, without PyTorch. Both of its layouts are known.

zip       NAME/data.pkl, a pickle that refers to its numbers by id, and NAME/data/0, NAME/data/1, ... with them
before    since 1.6: five pickles in a row (a magic number, a version, the machine, the value, the ids of its
          numbers), then the numbers of each id behind their count
"""

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psp_runtime.arrays.numpy_pickles import NUMPY_GLOBALS, PickledArray
from psp_runtime.arrays.pickles import File, ForbiddenError, StandIn, Table, load

#: What a file of the layout before begins with: a pickle of a number.
MAGIC = 0x1950A86A20F9469CFC6C
OLDER = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little")
#: Names of storages, and the type of their numbers. NumPy has no bfloat16: it is the upper half of an FP32 number.
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


class _Storage(NamedTuple):
    """The id of the numbers of a tensor, the name of their type and how many there are."""

    key: str
    name: str
    size: int


class TensorView(NamedTuple):
    """A tensor that is not made yet: a view of the numbers of a storage, counted in numbers."""

    storage: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def check(self, count: int) -> None:
        """Raise `ForbiddenError` unless it views some of `count` numbers, and makes no more of them."""
        last = sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        size: int = math.prod(self.shape)
        least = min(self.offset, *self.shape, *self.strides, 0)
        if least < 0 or max(size, self.offset + last + 1 if size else 0) > count:
            raise ForbiddenError(f"it holds a tensor {list(self.shape)} of {count} numbers")


def views_of(kind: type) -> StandIn:
    """Stand in for the functions of torch that rebuild a tensor, of storages of this kind."""

    def make(storage: Any, offset: int, shape: Any, strides: Any, *_: object) -> TensorView:
        if not isinstance(storage, kind):
            raise ForbiddenError("it holds a tensor without numbers")
        return TensorView(storage, offset, tuple(shape), tuple(strides))

    return StandIn(make)


GLOBALS: dict[str, Any] = {
    **NUMPY_GLOBALS,
    "collections.OrderedDict": Table,
    "torch._utils._rebuild_tensor": views_of(_Storage),
    "torch._utils._rebuild_tensor_v2": views_of(_Storage),
    "torch._utils._rebuild_parameter": StandIn(lambda tensor, *_: tensor),
    **{f"torch.{name}": name for name in STORAGES},
    **{f"torch.cuda.{name}": name for name in STORAGES},
}


def is_torch_zip(archive: zipfile.ZipFile) -> bool:
    """Tell PyTorch's zip files from NumPy's."""
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def read_zip(archive: zipfile.ZipFile) -> Any:
    """Read the value of a file in the zip layout; its tensors are arrays.

    Raises `ForbiddenError` for more than data, and errors of nearly any type for a damaged file.
    """
    names = set(archive.namelist())
    folder = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in names else b"little"
    if order != b"little":
        raise ForbiddenError("its numbers are of a big-endian machine")
    value = load(io.BytesIO(archive.read(f"{folder}data.pkl")), GLOBALS, _storage)
    return _made(value, _ZipNumbers(archive, f"{folder}data/"))


def read_older(file: File) -> Any:
    """Read the value of a file in the layout before; its tensors are arrays. Raises as `read_zip`."""
    magic, _, machine = (load(file, {}) for _ in range(3))
    if magic != MAGIC or not machine.get("little_endian", True):
        raise ForbiddenError("it is a pickle of no PyTorch file, or of a big-endian machine")
    found: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        *known, view = pid
        if view is not None:
            raise ForbiddenError("it holds a view of numbers, as only the first versions of PyTorch wrote them")
        one = _storage(known)
        return found.setdefault(one.key, one)

    value = load(file, GLOBALS, storage)
    keys = load(file, {})
    return _made(value, {key: _counted(file, found[key]) for key in keys})


class _ZipNumbers(dict[str, NDArray[Any]]):
    """Numbers by the ids of storages, read when they are asked for; zipfile compares their checksum."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__()
        self.archive, self.folder = archive, folder

    def __missing__(self, key: str) -> NDArray[Any]:
        self[key] = np.frombuffer(self.archive.read(self.folder + key), np.uint8)
        return self[key]


def _counted(file: File, storage: _Storage) -> NDArray[Any]:
    """Take the bytes of a storage behind their count."""
    count = int.from_bytes(file.read(8), "little")
    if count != storage.size:
        raise ForbiddenError(f"it holds {count} numbers where it says {storage.size}")
    return np.frombuffer(file.read(count * np.dtype(STORAGES[storage.name]).itemsize), np.uint8)


def _storage(pid: Any) -> _Storage:
    """Read what ("storage", type, id, device, count) means; the device is where it was saved, which does not matter."""
    word, name, key, _, count = pid
    if word != "storage" or name not in STORAGES or not isinstance(count, int):
        raise ForbiddenError(f"it refers to {pid!r:.60}")
    return _Storage(str(key), name, count)


def _made(value: Any, numbers: Mapping[str, NDArray[Any]]) -> Any:
    """Give the same value with arrays in the place of tensors, also in a dict of them."""
    if isinstance(value, dict):
        return {key: _one(each, numbers) for key, each in value.items()}
    return _one(value, numbers)


def _one(value: Any, numbers: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, TensorView):
        return _array(value, numbers[value.storage.key])
    return value.value if isinstance(value, PickledArray) else value


def _array(tensor: TensorView, raw: NDArray[Any]) -> NDArray[Any]:
    """Copy the numbers that a tensor views."""
    flat = raw.view(STORAGES[tensor.storage.name])
    tensor.check(len(flat))
    steps = [stride * flat.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps, writeable=False)
    return _widened(view) if tensor.storage.name == "BFloat16Storage" else view.astype(view.dtype.newbyteorder("="))


def _widened(bfloats: NDArray[Any]) -> NDArray[Any]:
    return (bfloats.astype(np.uint32) << 16).view(np.float32)
