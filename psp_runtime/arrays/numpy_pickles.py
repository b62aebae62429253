"""Stand-ins for what pickles of NumPy arrays and numbers name. Arrays are made at the end, of plain bytes alone."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.arrays.pickles import ForbiddenError, StandIn

#: Types whose bytes are numbers: a pickle may name no other, above all not "O", which holds any object.
NUMBERS = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))


class PickledType:
    """A type of numbers, as pickles write it: its name first, its byte order as a state."""

    __slots__ = ("name", "order")

    def __init__(self, name: object = "", *_: object) -> None:
        self.name, self.order = str(name).lstrip("<=|"), "<"
        if self.name not in NUMBERS:
            raise ForbiddenError(f"it holds an array of type {name!r:.40}")

    def __setstate__(self, state: Any) -> None:
        """Take the byte order out of the state (version, order, …)."""
        self.order = ">" if state[1] == ">" else "<"

    def numbers(self, data: object) -> NDArray[Any]:
        """Read the numbers in bytes, or in a string of Latin-1 as protocol 2 stores them, flat."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(raw, bytes):
            raise ForbiddenError(f"it holds an array of {type(data).__name__}")
        found = np.frombuffer(raw, np.dtype(self.order + self.name))
        return found.astype(found.dtype.newbyteorder("="))


class ObjectType:
    """The type of arrays that hold objects: where a reader knows it, their value is the list of the objects."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Leave the byte order out, which objects have none of."""


class PickledArray:
    """An array, as pickles write it: empty first, everything else as a state."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: NDArray[Any] | list[Any] = []

    def __setstate__(self, state: Any) -> None:
        """Take the state (version, shape, type, whether in Fortran's order, bytes)."""
        _, shape, kind, fortran, data = state
        if isinstance(kind, ObjectType) and isinstance(data, list):
            self.value = data
            return
        if not isinstance(kind, PickledType):
            raise ForbiddenError("it holds an array without a type")
        flat = kind.numbers(data)
        if math.prod(shape) != flat.size:
            raise ForbiddenError(f"it holds an array {list(shape)} of {flat.size} numbers")
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _scalar(kind: PickledType, data: object) -> float:
    found = kind.numbers(data)
    if found.size != 1:
        raise ForbiddenError(f"it holds a number of {found.size} values")
    return found.item()  # type: ignore[no-any-return]


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    """Bytes as protocol 2 writes them: `_codecs.encode(text, "latin1")`."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ForbiddenError(f"it encodes text as {encoding!r:.40}")
    return text.encode("latin1")


def _any_type(name: object = "", *_: object) -> PickledType | ObjectType:
    return ObjectType() if name in ("O8", "|O8", "O") else PickledType(name)


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.dtype": StandIn(PickledType),
    "numpy.ndarray": StandIn(PickledArray),
    "_codecs.encode": StandIn(_latin1),
    **{f"{core}._reconstruct": StandIn(PickledArray) for core in _CORES},
    **{f"{core}.scalar": StandIn(_scalar) for core in _CORES},
}
#: The same for a saved object, which NumPy wraps in an array of it.
OBJECT_GLOBALS = {**NUMPY_GLOBALS, "numpy.dtype": StandIn(_any_type)}
