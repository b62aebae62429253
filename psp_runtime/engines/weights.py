"""Weights in an ONNX engine, read without onnx and without opening the engine: those of the generator's styles."""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.protobuf import Bytes, walk
from psp_runtime.errors import EngineError

#: Fields in onnx.proto: the graph of a model, the initializers of a graph, name and numbers of an initializer.
_GRAPH, _INITIALIZER, _NAME, _RAW = 7, 5, 8, 9
#: The affine layers that make the style of each convolution: `psp export` names and counts them so. In FP16 engines
#: they are stored rounded.
_STYLE = re.compile(r"generator\.convs\.(\d+)\.style\.weight(\.half)?")


def style_weights(engine: Path, info: EngineInfo) -> dict[int, NDArray[np.float32]]:
    """Read the weights [I,S] that make styles of convolutions, by the row of W+ that each reads: 0 … L-2.

    ToRGB layers are not among them. Each is scaled by a constant. Raises `EngineError` for a plan, and for an ONNX file
    that other tools have changed.
    """
    if info.backend != "onnx":
        raise EngineError(
            f"{engine} is a TensorRT plan, whose weights cannot be read: give the .onnx file of that export"
        )
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            found = dict(_styles(data, info.style_dim))
        except (EOFError, ValueError):
            raise EngineError(f"{engine} is damaged: export it again") from None
    if sorted(found) != list(range(info.styles - 1)):
        raise EngineError(
            f"{engine} has {len(found)} of the {info.styles - 1} style weights under the names of psp export: another "
            "tool has changed it, or it is no whole engine; give the file as it was exported"
        )
    return found


def _styles(data: Bytes, style_dim: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for _, start, end in _inside(data, 0, len(data), _GRAPH):
        for _, begin, stop in _inside(data, start, end, _INITIALIZER):
            parts = {number: (first, last) for number, first, last in walk(data, begin, stop)}
            name = _STYLE.fullmatch(_text(data, *parts.get(_NAME, (0, 0))))
            if name and _RAW in parts:
                raw = np.frombuffer(data[slice(*parts[_RAW])], "<f2" if name[2] else "<f4")
                yield int(name[1]), raw.astype(np.float32).reshape(-1, style_dim)


def _inside(data: Bytes, start: int, end: int, wanted: int) -> Iterator[Any]:
    return (field for field in walk(data, start, end) if field[0] == wanted)


def _text(data: Bytes, start: int, end: int) -> str:
    return data[start:end].decode("utf-8", "replace")
