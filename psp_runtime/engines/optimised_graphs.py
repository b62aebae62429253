"""The user's cache folder, and in it every ONNX engine as ONNX Runtime optimises it for this CPU.

Optimising a gigabyte of graph takes seconds and a second copy of the weights in memory, each time an engine opens.
ONNX Runtime can write the result with the weights in a file of their own, which later sessions map into memory.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from psp_runtime.disk import cache_folder, replacing, sha256_of
from psp_runtime.errors import PspError

#: Smaller engines open in a blink: they are not worth a copy on disk.
SMALLEST = 64 * 2**20
#: Entries that were not used for this long are deleted when a new one is written.
DAYS = 30

GRAPH, WEIGHTS = "graph.onnx", "weights.bin"


def optimised_graph(path: Path, version: str, write: Callable[[Path, str], None]) -> Path | None:
    """The optimised form of an engine for this CPU and `version` of ONNX Runtime; None where none is kept.

    `write(graph, weights)` makes one: a file, and the name of another beside it for the weights. It is called at
    most once for an engine. A folder that cannot be written, or is full, costs a warning, never the run.
    """
    folder = cache_folder()
    if folder is None or path.stat().st_size < SMALLEST:
        return None
    entries = folder / "onnxruntime"
    try:
        entry = entries / _key(path, version, entries)
        if not (entry / GRAPH).is_file():
            _forget_old(entries)
            _write_entry(entry, path.stat().st_size, write)
        with contextlib.suppress(OSError):  # another user's may be used, if not marked as used
            os.utime(entry)
    except (OSError, PspError) as error:
        warnings.warn(f"{path.name} is optimised anew at every start, it cannot be kept: {error}", stacklevel=2)
        return None
    return entry / GRAPH


def forget(graph: Path) -> None:
    """Delete the entry a graph is of: the next start makes another."""
    shutil.rmtree(graph.parent, ignore_errors=True)


def _write_entry(entry: Path, size: int, write: Callable[[Path, str], None]) -> None:
    """Whole or not at all, also with another process at the same work."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    # An FP16 engine is kept in FP32, which is what a CPU computes.
    if shutil.disk_usage(entry.parent).free < 3 * size:
        raise OSError(f"less than {3 * size / 1e9:.1f} GB free in {entry.parent}; PSP_CACHE names another folder")
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=entry.parent))
    try:
        write(temporary / GRAPH, WEIGHTS)
        with contextlib.suppress(FileExistsError):  # another process was first: theirs is as good
            _rename(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if (target / GRAPH).is_file():
            raise FileExistsError(target) from error
        raise


def _key(path: Path, version: str, entries: Path) -> str:
    """Name of an entry: hash of the engine's bytes, version of ONNX Runtime, kind of CPU."""
    return hashlib.sha256(f"{_file_hash(path, entries)} {version} {_cpu()}".encode()).hexdigest()[:32]


def _file_hash(path: Path, entries: Path) -> str:
    """SHA-256 of a file. Noted under its place, size and time, because reading a gigabyte takes a second."""
    stat = path.stat()
    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    note = entries / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.sha256"
    if note.is_file():
        return note.read_text()
    digest = sha256_of(path)
    entries.mkdir(parents=True, exist_ok=True)
    with replacing(note) as file:
        file.write(digest.encode())
    return digest


def _cpu() -> str:
    """The instruction sets of this CPU: they decide the layout of the weights."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _forget_old(entries: Path) -> None:
    oldest = time.time() - DAYS * 86400
    for entry in entries.glob("*"):
        if entry.stat().st_mtime < oldest:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
