"""The files a run reads besides its pictures - the engine, a mask, a direction - on their way to other machines."""

import glob
import hashlib
import json
import platform
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from psp_runtime.cluster.storage import import_extra
from psp_runtime.disk import sha256_of
from psp_runtime.errors import EngineError
from psp_runtime.run.applications import TRIANGLE
from psp_runtime.run.options import Options
from psp_runtime.run.plan import READ

Asked = TypeVar("Asked", bound=Options)

#: Options that say where and how fast, not what: their values change no output.
_HOW = ("inputs", "engine", "out", "device", "precision", "batch", "threads", "quiet", "verbose", "ray", "actors")


@dataclass(frozen=True)
class Artifact:
    """One file: the option it belongs to, where it lies here, its SHA-256, and its bytes in Ray's object store."""

    option: str
    path: Path
    digest: str
    content: Any = None


@dataclass(frozen=True)
class Artifacts:
    """All of them, and the hashes of the engine and of what else shapes an output."""

    files: list[Artifact]

    def sent(self) -> "Artifacts":
        """Add the content of its files, for machines that do not have them (Ray must be connected)."""
        put = import_extra("ray").put
        # As an array the bytes stay in the shared memory of each machine, once for all its workers.
        return Artifacts([replace(one, content=put(np.fromfile(one.path, np.uint8))) for one in self.files])

    def unpack(self, options: Asked, folder: Path) -> Asked:
        """Give the same options paths of this machine: the files as they are here, else copies in the folder."""
        there = {artifact.option: artifact.path for artifact in reversed(self.files)}  # of an engine, itself comes last
        if all(_is_here(artifact) for artifact in self.files):
            return replace(options, **_as_given(there))
        for artifact in self.files:
            _write(artifact, folder / artifact.option)
        return replace(options, **_as_given({name: folder / name / path.name for name, path in there.items()}))

    def key(self, options: Options) -> tuple[str, str]:
        """SHA-256 of the engine, and of the options and files beside it that shape an output."""
        shaping = {f.name: str(getattr(options, f.name)) for f in fields(options) if f.name not in (*_HOW, *READ)}
        beside = [(artifact.option, artifact.path.name, artifact.digest) for artifact in self.files[1:]]
        words = json.dumps([options.verb, shaping, options.mask == TRIANGLE, beside])
        return self.files[0].digest, hashlib.sha256(words.encode()).hexdigest()


def pack(options: Options) -> Artifacts:
    """List what a run reads, the engine first."""
    found = [("engine", path) for path in _engine_files(options.engine)]
    for name in READ:
        value = getattr(options, name, None)
        if value and name != "engine" and value != TRIANGLE:
            found.append((name, Path(value)))
    return Artifacts([Artifact(name, path.absolute(), sha256_of(path)) for name, path in found])


def _engine_files(engine: Path) -> list[Path]:
    """List the engine and what belongs to it by its name: mapping network, parts, the ONNX file beside a plan."""
    found = engine.parent.glob(f"{glob.escape(engine.stem)}.*")
    beside = sorted(path for path in found if path.suffix in (".onnx", ".trt"))
    return [engine, *(path for path in beside if path.name != engine.name)]


def _is_here(artifact: Artifact) -> bool:
    return artifact.path.is_file() and sha256_of(artifact.path) == artifact.digest


def _write(artifact: Artifact, folder: Path) -> None:
    if artifact.content is None:
        raise EngineError(f"{artifact.path} is not on {platform.node()}, or another file there")
    folder.mkdir(exist_ok=True)
    import_extra("ray").get(artifact.content).tofile(folder / artifact.path.name)


def _as_given(options: dict[str, Path]) -> dict[str, Any]:
    """Paths as `Options` has them: that of a mask may be a word instead."""
    return {name: str(path) if name == "mask" else path for name, path in options.items()}
