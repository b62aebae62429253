"""The files a run reads besides its pictures - the engine, a mask, a direction - on their way to other machines."""

import glob
import hashlib
import json
import platform
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from psp_runtime.cluster.storage import import_extra
from psp_runtime.errors import EngineError
from psp_runtime.run.applications import TRIANGLE
from psp_runtime.run.options import Options
from psp_runtime.run.plan import READ

#: Options that say where and how fast, not what: their values change no output.
_HOW = ("inputs", "engine", "out", "device", "batch", "threads", "ray", "actors")


@dataclass(frozen=True)
class Parcel:
    """One file: the option it belongs to, where it lies here, its SHA-256, and its bytes in Ray's object store."""

    option: str
    path: Path
    digest: str
    content: Any = None


@dataclass(frozen=True)
class Luggage:
    """All of them, and the hashes of the engine and of what else shapes an output."""

    parcels: list[Parcel]

    def sent(self) -> "Luggage":
        """The same with the content of its files, for machines that do not have them (Ray must be connected)."""
        put = import_extra("ray").put
        # As an array the bytes stay in the shared memory of each machine, once for all its workers.
        return Luggage([replace(one, content=put(np.fromfile(one.path, np.uint8))) for one in self.parcels])

    def unpack(self, options: Options, folder: Path) -> Options:
        """The same options with paths of this machine: the files as they are here, else copies in the folder."""
        there = {parcel.option: parcel.path for parcel in reversed(self.parcels)}  # of an engine, itself comes last
        if all(_is_here(parcel) for parcel in self.parcels):
            return replace(options, **_as_given(there))
        for parcel in self.parcels:
            _write(parcel, folder / parcel.option)
        return replace(options, **_as_given({name: folder / name / path.name for name, path in there.items()}))

    def key(self, options: Options) -> tuple[str, str]:
        """SHA-256 of the engine, and of the options and files beside it that shape an output."""
        shaping = {f.name: str(getattr(options, f.name)) for f in fields(options) if f.name not in (*_HOW, *READ)}
        beside = [(parcel.option, parcel.path.name, parcel.digest) for parcel in self.parcels[1:]]
        words = json.dumps([shaping, options.mask == TRIANGLE, beside])
        return self.parcels[0].digest, hashlib.sha256(words.encode()).hexdigest()


def pack(options: Options) -> Luggage:
    """What a run reads, the engine first."""
    found = [("engine", path) for path in _engine_files(options.engine)]
    for name in READ:
        value = getattr(options, name)
        if value and name != "engine" and value != TRIANGLE:
            found.append((name, Path(value)))
    return Luggage([Parcel(name, path.absolute(), _digest(path)) for name, path in found])


def _engine_files(engine: Path) -> list[Path]:
    """The engine, and what belongs to it by its name: mapping network, parts, the ONNX file beside a plan."""
    found = engine.parent.glob(f"{glob.escape(engine.stem)}.*")
    beside = sorted(path for path in found if path.suffix in (".onnx", ".trt"))
    return [engine, *(path for path in beside if path.name != engine.name)]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _is_here(parcel: Parcel) -> bool:
    return parcel.path.is_file() and _digest(parcel.path) == parcel.digest


def _write(parcel: Parcel, folder: Path) -> None:
    if parcel.content is None:
        raise EngineError(f"{parcel.path} is not on {platform.node()}, or another file there")
    folder.mkdir(exist_ok=True)
    import_extra("ray").get(parcel.content).tofile(folder / parcel.path.name)


def _as_given(options: dict[str, Path]) -> dict[str, Any]:
    """Paths as `Options` has them: that of a mask may be a word instead."""
    return {name: str(path) if name == "mask" else path for name, path in options.items()}
