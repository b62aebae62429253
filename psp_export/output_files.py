"""Name the files of an export, make them in a staging folder, and move them into place all together.

The staging folder is beside the output, and files are moved at the very end, so that a failed verification, a full disk
or Ctrl-C leaves earlier files as they were and nothing half-written.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psp_runtime.engines.fields import PARTS
from psp_runtime.errors import PspError

ENGINE_SUFFIXES = (".onnx", ".trt", ".plan", ".engine")
#: No space, or none of the user's own.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
#: What may lie beside a full engine: NAME.encoder.onnx and so on.
BESIDE = [part for part in PARTS if part != "full"]
#: A folder of this name is no mistake: `psp-export` without --output may well run beside one.
DEFAULT_OUTPUT = Path("psp")


@dataclass(frozen=True)
class Written:
    """One finished file: the part of the engine in it, the precision found in it, and its parity in words, if any.

    `part` is "full", "encoder", "generator" or "mapping"; `precision` is "fp32" or "fp16".
    """

    path: Path
    part: str
    precision: str
    parity: str


def stem(output: Path) -> Path:
    """Take the ending of an engine off `--output`: what remains is what the names of all files begin with."""
    return output.with_suffix("") if output.suffix.lower() in ENGINE_SUFFIXES else output


def check_output(output: Path) -> None:
    """Raise `PspError` for an `--output` under which no files can be written."""
    base = stem(output)
    if not output.name or (output.is_dir() and output != DEFAULT_OUTPUT):
        raise PspError(f"--output {output} is a folder: give the name of a file in it, such as {output / 'psp'}")
    if not base.parent.is_dir():
        raise PspError(f"--output {output}: there is no folder {base.parent}; create it first")
    if base.suffix.removeprefix(".") in BESIDE:
        raise PspError(f"--output {output}: that is the name of the {base.suffix[1:]} of {base.stem}; give another")
    for path in files_of(base):
        if path.is_dir():
            raise PspError(f"{path} is a folder: give another --output")


def files_of(base: Path) -> list[Path]:
    """List every file that an export of this stem may write."""
    names = [base.name, *(f"{base.name}.{part}" for part in BESIDE)]
    return [base.parent / f"{name}{suffix}" for name in names for suffix in (".onnx", ".trt")]


@contextmanager
def staging(home: Path, name: str) -> Iterator[Path]:
    """Provide a temporary folder in `home`, so on its file system, gone at the end whatever happens.

    Raises `PspError` where it cannot be made, and when the disk is full during the work in it.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=home))
    except OSError as error:
        raise PspError(f"cannot write into {home}: {error.strerror}; choose another folder") from error
    try:
        yield folder
    except OSError as error:
        if error.errno in DISK_FULL:
            raise PspError(f"cannot write into {home}: {error.strerror}; make room or choose another folder") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(drafts: list[Path], home: Path) -> list[Path]:
    """Move finished files or folders into the folder `home`, over older ones of their names: all of them or none.

    No file system replaces several at once, so the older ones wait in a folder beside their places until the last move
    is done. Whatever stops the moves, Ctrl-C too, takes the new ones out again and puts the older ones back. `drafts`
    are on the file system of `home`. Returns the places; raises `PspError` where the system refuses.
    """
    earlier = Path(tempfile.mkdtemp(prefix=".earlier-", dir=home))
    try:
        for draft in drafts:
            _replace(draft, home / draft.name, earlier)
    except BaseException:
        _put_back(drafts, home, earlier)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
    return [home / draft.name for draft in drafts]


def _replace(draft: Path, place: Path, earlier: Path) -> None:
    try:
        if os.path.lexists(place):
            os.replace(place, earlier / place.name)
        os.replace(draft, place)
    except OSError as error:
        raise PspError(
            f"cannot write {place}: {error.strerror}; nothing was changed: give another name or folder"
        ) from error


def _put_back(drafts: list[Path], home: Path, earlier: Path) -> None:
    """Undo the moves. Which were made is seen from what is where: an interrupt may come between a move and any note."""
    try:
        for draft in drafts:
            place, older = home / draft.name, earlier / draft.name
            if not os.path.lexists(draft):
                os.replace(place, draft)
            if os.path.lexists(older):
                os.replace(older, place)
        earlier.rmdir()
    except OSError as error:
        raise PspError(
            f"{home} holds a part of this export: {error.strerror}; move the earlier files back from {earlier}"
        ) from error
