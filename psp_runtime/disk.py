"""Files: written whole or not at all, told apart by their hash, and the folder of this toolkit's caches.

What is not finished has a name of its own, and is locked by its process. A killed process loses its locks: so the next
run can tell what nobody works on any more, also in another container or on another machine, and deletes it.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from psp_runtime.errors import PspError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and so nothing of others deleted
    fcntl = None  # type: ignore[assignment]

# AT_FDCWD and RENAME_EXCHANGE of Linux.
_HERE, _EXCHANGE = -100, 2
#: Names of unfinished files and folders.
_UNFINISHED = re.compile(r"\.\d+-\d+\.tmp|\.psp-[a-z]+-\d+-\w+")


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Provide a binary file to write; it takes the name `path` at the end of the block, or vanishes if the block fails.

    `durable`: after a power failure too it is there whole, or the earlier one is. That costs the wait for the disk.
    """
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with _open_locked(temporary) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if fcntl is not None:  # as long as it is locked
                os.replace(temporary, path)
        if fcntl is None:  # Windows moves no open file
            os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise PspError(f"cannot write {path}: {error.strerror or error}") from error
    finally:  # nothing is left under this name once it was replaced
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def noticing(path: Path, replaced: list[Path]) -> Iterator[None]:
    """Add a file to `replaced` if it was there before the block, and holds something else after it."""
    before = sha256_of(path) if path.is_file() else None
    yield
    if before and sha256_of(path) != before:
        replaced.append(path)


@contextmanager
def scratch_folder(home: Path, what: str) -> Iterator[Path]:
    """Provide a temporary folder in `home`, for `what` (a word of small letters); gone at the end, whatever happens."""
    folder, lock = _make_locked(home, f".psp-{what}-{os.getpid()}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def delete_unfinished(folder: Path) -> None:
    """Delete what killed processes left unfinished in a folder. What cannot be deleted stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry) for entry in entries if _UNFINISHED.fullmatch(entry.name) and not entry.is_symlink()]:
            with contextlib.suppress(OSError):
                _delete_if_free(path)


def sync(*paths: Path) -> None:
    """Wait until files, and the names in folders, are on the disk. Raises `OSError`."""
    for path in paths:
        if sys.platform == "win32" and path.is_dir():
            continue  # a folder cannot be opened there
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def exchange(first: Path, second: Path) -> None:
    """Have two folders change their names, at once where the system can (Linux); else for a moment one is missing.

    Raises `OSError`.
    """
    if _exchange_at_once(first, second):
        return
    aside = second.with_name(f".psp-aside-{os.getpid()}-{threading.get_ident()}")
    os.replace(second, aside)
    try:
        os.replace(first, second)
    except BaseException:
        os.replace(aside, second)
        raise
    os.replace(aside, first)


def _exchange_at_once(first: Path, second: Path) -> bool:
    """Call renameat2 of Linux, which Python does not have. False where the system, or the file system, cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28, musl 1.2
    names = (os.fsencode(path.absolute()) for path in (first, second))
    if rename is None or rename(_HERE, next(names), _HERE, next(names), _EXCHANGE) == 0:
        return rename is not None
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _open_locked(path: Path) -> BinaryIO:
    while True:
        file = path.open("wb")
        _lock(file.fileno())
        if os.fstat(file.fileno()).st_nlink:  # else another process deleted it before it was locked
            return file
        file.close()


def _make_locked(home: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        try:
            lock = os.open(os.devnull if fcntl is None else folder, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for one that nobody works on
            continue
        _lock(lock)
        if folder.is_dir():
            return folder, lock
        os.close(lock)


def _lock(place: int) -> None:
    """Lock an open file as long as it is open. Some file systems cannot: then it is left alone by others too."""
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(place, fcntl.LOCK_EX)


def _delete_if_free(path: Path) -> None:
    if fcntl is None:
        return
    place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError while its process lives
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(place)


def sha256_of(*paths: Path) -> str:
    """SHA-256 of the content of some files, one after the other, as hexadecimal digits. Raises `OSError`."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path | None:
    """Say where things are kept between runs, `psp-toolkit` in the user's cache folder; PSP_CACHE names another place.

    None with PSP_CACHE=off, and where the machine knows no home: then nothing is kept.
    """
    asked = os.environ.get("PSP_CACHE", "")
    if asked:
        return None if asked == "off" else Path(asked)
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "psp-toolkit"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "psp-toolkit"
    except RuntimeError:  # no home
        return None
