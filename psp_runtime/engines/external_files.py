"""The files beside an ONNX engine that hold weights of it: they may not lead out of its folder.

`psp-export` writes one file. Other tools move weights out of it, and a name such as ../../etc/passwd in a file from
elsewhere would have ONNX Runtime open that.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from psp_runtime.engines.protobuf import Bytes, entry, walk
from psp_runtime.errors import EngineError

_LOCATION, _KEY = "entry", b"location"
#: Messages that are walked without a look for the key in their bytes, which may be a gigabyte.
_LARGE = ("graph", "tensor")
#: Which fields of a message (onnx.proto) lead to names of external files, and the message each of them holds.
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: _LOCATION},
}
#: Graphs within graphs; ours have none.
_DEEPEST = 50


def external_files(engine: Path) -> list[Path]:
    """List the files that hold weights of an ONNX engine beside itself, in order.

    Raises `EngineError` where one of them is outside of the engine's folder, and for a damaged file.
    """
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            names = sorted(set(_locations(data, 0, len(data), "model", 0)))
        except EOFError:
            raise EngineError(f"{engine} is damaged: export it again") from None
    return [_inside(engine, name.decode("utf-8", "surrogateescape")) for name in names]


def _locations(data: Bytes, start: int, end: int, message: str, depth: int) -> Iterator[bytes]:
    if depth > _DEEPEST:
        raise EOFError
    for number, begin, stop in walk(data, start, end):
        inner = _MESSAGES[message].get(number)
        if inner == _LOCATION:
            key, value = entry(data, begin, stop)
            if key == _KEY:
                yield value
        elif inner and (inner in _LARGE or data.find(_KEY, begin, stop) >= 0):
            yield from _locations(data, begin, stop, inner, depth + 1)


def _inside(engine: Path, name: str) -> Path:
    """Find the file of that name. A folder of links to files in another folder, as downloads are kept, is one place."""
    path, homes = engine.parent / name, (engine.parent.resolve(), engine.resolve().parent)
    leaves = "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts
    if leaves or not any(path.resolve().is_relative_to(home) for home in homes):
        raise EngineError(
            f"{engine} keeps weights in {name!r}, outside of its folder: it is not opened, export it again"
        )
    if not path.is_file():
        raise EngineError(f"{engine} keeps weights in {name!r}, which is not beside it: copy both")
    return path
