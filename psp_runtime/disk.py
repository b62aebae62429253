"""Files: written whole or not at all, told apart by their hash, and the folder of this toolkit's caches."""

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from psp_runtime.errors import PspError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write; it takes the name `path` at the end of the block, or vanishes if the block fails."""
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise PspError(f"cannot write {path}: {error.strerror or error}") from error
    finally:  # nothing is left under this name once it was replaced
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256_of(*paths: Path) -> str:
    """SHA-256 of the content of some files, one after the other, as hexadecimal digits. Raises `OSError`."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path | None:
    """Where things are kept between runs, `psp-toolkit` in the user's cache folder; PSP_CACHE names another place.

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
