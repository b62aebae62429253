"""Every ONNX engine as ONNX Runtime optimises it for this CPU, or as OpenVINO reads it, in the user's cache folder.

Optimising a gigabyte of graph takes seconds and a second copy of the weights in memory, each time an engine opens; so
does reading it as ONNX. Both libraries can write the result with the weights in a file of their own, which later
sessions map into memory.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from psp_runtime.disk import cache_folder, delete_unfinished, replacing, scratch_folder, sha256_of, sync
from psp_runtime.errors import PspError

#: Smaller engines open in a blink: they are not worth a copy on disk.
SMALLEST = 64 * 2**20
#: Entries that were not used for this long are deleted when a new one is written.
DAYS = 30
#: Bytes that the entries of a library may take: those used longest ago make room for a new one.
LARGEST = 16 * 2**30
#: Seconds after which an entry is read and compared again although nothing seems to have touched it.
CHECK_AFTER = 86400

GRAPH, WEIGHTS = "graph.onnx", "weights.bin"
#: The graph in OpenVINO's own format.
MODEL = "model.xml"
#: The hashes of an entry's files, and what they looked like when they were last compared.
DIGESTS, SEEN = "digests.json", "seen.json"


def optimised_graph(
    engine: Path,
    version: str,
    write: Callable[[Path, str], None],
    beside: Iterable[Path] = (),
    library: str = "onnxruntime",
    graph: str = GRAPH,
) -> Path | None:
    """Find or make the optimised form of an engine for this CPU and `version` of a library; None where none is kept.

    `beside` are the files that hold weights of it. `write(graph, weights)` makes one: a file, and the name of another
    beside it for the weights. It is called where none is kept yet, or what is kept is damaged; a warning says so. A
    folder that cannot be written, or is full, costs a warning, never the run. The forms of a `library` have a folder of
    their own; `graph` is GRAPH or MODEL.
    """
    folder, files = cache_folder(), [engine, *beside]
    size = sum(file.stat().st_size for file in files)
    if folder is None or size < SMALLEST:
        return None
    entries = folder / library
    try:
        entry = entries / _key(files, version, entries)
        if os.path.lexists(entry) and not _is_whole(entry):
            warnings.warn(f"the optimised form kept of {engine.name} was damaged and is made anew", stacklevel=4)
            forget(entry / graph)
        if not entry.is_dir():
            _forget_old(entries, size)
            _write_entry(entry, size, write, graph)
        with contextlib.suppress(OSError):  # another user's may be used, if not marked as used
            os.utime(entry)
    except (OSError, PspError) as error:
        warnings.warn(f"{engine.name} is optimised anew at every start, it cannot be kept: {error}", stacklevel=2)
        return None
    return entry / graph


def forget(graph: Path) -> None:
    """Delete the entry a graph is of: the next start makes another."""
    entry = graph.parent
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _is_whole(entry: Path) -> bool:
    """Tell whether an entry holds what was written into it: its files are hashed where they changed, and once a day."""
    kept = _read_json(entry / DIGESTS)
    names = [name for name in (GRAPH, MODEL, WEIGHTS) if name in kept]
    if kept.get("entry") != entry.name or names in ([], [WEIGHTS]):
        return False
    if not all((entry / name).is_file() for name in names):
        return False
    looks = {name: _looks(entry / name) for name in (*names, DIGESTS)}
    seen = _read_json(entry / SEEN)
    if seen.get("files") == looks and time.time() - CHECK_AFTER < seen.get("time", 0) <= time.time():
        return True
    if any(sha256_of(entry / name) != kept[name] for name in names):
        return False
    with contextlib.suppress(PspError):  # of another user
        _write_json(entry / SEEN, {"files": looks, "time": time.time()})
    return True


def _looks(path: Path) -> list[int]:
    """List what changes with a file; nobody can set the time of its last change (ctime)."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read_json(path: Path) -> dict[str, Any]:
    """Read an object of JSON; empty for a file that is not there, or damaged."""
    try:
        found = json.loads(path.read_bytes()[: 1 << 16])
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(values).encode())


def _write_entry(entry: Path, size: int, write: Callable[[Path, str], None], graph: str = GRAPH) -> None:
    """Write an entry whole or not at all, also with another process at the same work, and after a power failure."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    # An FP16 engine is kept in FP32, which is what a CPU computes.
    if shutil.disk_usage(entry.parent).free < 3 * size:
        raise OSError(f"less than {3 * size / 1e9:.1f} GB free in {entry.parent}; PSP_CACHE names another folder")
    with scratch_folder(entry.parent, "graph") as temporary:
        write(temporary / graph, WEIGHTS)
        files = sorted(temporary.iterdir())
        digests = {file.name: sha256_of(file) for file in files} | {"entry": entry.name}
        _write_json(temporary / DIGESTS, digests)
        looks = {file.name: _looks(file) for file in (*files, temporary / DIGESTS)}
        _write_json(temporary / SEEN, {"files": looks, "time": time.time()})
        sync(*temporary.iterdir(), temporary)
        with contextlib.suppress(FileExistsError):  # another process was first: theirs is as good
            _rename(temporary, entry)
        sync(entry.parent)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if (target / DIGESTS).is_file():
            raise FileExistsError(target) from error
        raise


def _key(files: Iterable[Path], version: str, entries: Path) -> str:
    """Name of an entry: hash of the engine's bytes, version of the library, kind of CPU."""
    hashes = " ".join(_file_hash(file, entries) for file in files)
    return _short_hash(f"{hashes} {version} {_cpu()}")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _file_hash(path: Path, entries: Path) -> str:
    """Hash a file with SHA-256. Noted under its place, size and times, because reading a gigabyte takes a second.

    A note ends with a hash of itself and the file's place: one that is damaged, or of another file, does not count.
    """
    identity = f"{path.resolve()} {_looks(path)}"
    note = entries / f"{_short_hash(identity)}.sha256"
    with contextlib.suppress(OSError):
        digest, _, check = note.read_bytes()[:200].decode("ascii", "replace").partition(" ")
        if re.fullmatch("[0-9a-f]{64}", digest) and check == _short_hash(f"{digest} {identity}"):
            return digest
    digest = sha256_of(path)
    entries.mkdir(parents=True, exist_ok=True)
    with replacing(note, durable=True) as file:
        file.write(f"{digest} {_short_hash(f'{digest} {identity}')}".encode())
    return digest


def _cpu() -> str:
    """Name the instruction sets of this CPU: they decide the layout of the weights."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _forget_old(entries: Path, size: int) -> None:
    """Delete what was not used for long, and as much of the rest as leaves room for a new entry of `size` bytes."""
    delete_unfinished(entries)
    oldest, room = time.time() - DAYS * 86400, LARGEST - size
    for entry in sorted(entries.glob("[!.]*"), key=lambda entry: -entry.stat().st_mtime):
        room -= sum(file.stat().st_size for file in entry.iterdir()) if entry.is_dir() else 0
        if room < 0 or entry.stat().st_mtime < oldest:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
