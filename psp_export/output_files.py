"""Name the files of an export, make them in a staging folder, and move them into place all together.

The staging folder is beside the output, and files are moved at the very end, so that a failed verification, a full disk
or Ctrl-C leaves earlier files as they were and nothing half-written.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from psp_runtime.disk import delete_unfinished, exchange, scratch_folder, sync
from psp_runtime.engines.fields import PARTS, WHOLE
from psp_runtime.engines.info import read_info
from psp_runtime.errors import EngineError, PspError

ENGINE_SUFFIXES = (".onnx", ".trt", ".plan", ".engine")
#: No space, or none of the user's own.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
#: What may lie beside a full engine: NAME.encoder.onnx and so on.
BESIDE = [part for part in PARTS if part not in WHOLE]
#: Digits of a checkpoint's hash that tell it from others.
SHOWN_DIGITS = 12
#: A folder of this name is no mistake: `psp-export` without --output may well run beside one.
DEFAULT_OUTPUT = Path("psp")


@dataclass(frozen=True)
class Written:
    """One finished file: the part of the engine in it, the precision found in it, and its parity in words, if any.

    `part` is "full", "step", "encoder", "generator" or "mapping"; `precision` is "fp32", "fp16" or "int8", and `note`
    says how the latter was reached.
    """

    path: Path
    part: str
    precision: str
    parity: str
    note: str = ""


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


def models_of(base: Path) -> dict[Path, str]:
    """Say of each file of a stem that is there whose engine it is; two exports of one checkpoint say the same."""
    return {path: _model_of(path) for path in files_of(base) if path.is_file()}


def _model_of(path: Path) -> str:
    try:
        info = read_info(path)
    except EngineError:
        return "no engine"
    return f"task {info.task}, {info.precision}, checkpoint {info.checkpoint[:SHOWN_DIGITS]}"


@contextmanager
def staging(home: Path) -> Iterator[Path]:
    """Provide a temporary folder in `home`, so on its file system, gone at the end whatever happens.

    What killed exports left in `home` is deleted first. Raises `PspError` where the folder cannot be made, and when the
    disk is full during the work in it.
    """
    delete_unfinished(home)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder(home, "export"))
        except OSError as error:
            raise PspError(f"cannot write into {home}: {error.strerror}; choose another folder") from error
        try:
            yield folder
        except OSError as error:
            if error.errno in DISK_FULL:
                raise PspError(
                    f"cannot write into {home}: {error.strerror}; make room or choose another folder"
                ) from error
            raise


def put_in_place(drafts: list[Path], home: Path) -> list[Path]:
    """Move finished files or folders into the folder `home`, over older ones of their names: all of them or none.

    Each name holds the older or the new one at any time, whole: also where the process is killed, or the power fails.
    What stops the moves in another way, Ctrl-C too, takes all of them back; for that the older ones are kept in a
    folder beside their places until the last move is done. `drafts` are on the file system of `home`. Returns the
    places; raises `PspError` where the system refuses.
    """
    try:
        sync(*(path for draft in drafts for path in (*draft.rglob("*"), draft)))
        moves = [_Move(draft, home / draft.name) for draft in drafts]
        with scratch_folder(home, "earlier") as earlier:
            try:
                for move in moves:
                    move.make(earlier)
                sync(home)
            except BaseException:
                _take_back(moves, home, earlier)
                raise
    except OSError as error:
        raise PspError(f"cannot write into {home}: {error.strerror}; nothing was changed") from error
    return [home / draft.name for draft in drafts]


class _Move:
    """The move of a draft to its place. Whether it was made is seen from what is there, which an interrupt leaves."""

    def __init__(self, draft: Path, place: Path) -> None:
        self.draft, self.place = draft, place
        self._new = os.lstat(draft).st_ino

    def make(self, earlier: Path) -> None:
        """Replace what is there by the draft; the older file is kept in `earlier`, an older folder at the draft's."""
        try:
            if not os.path.lexists(self.place):
                os.replace(self.draft, self.place)
            elif self.draft.is_dir():
                exchange(self.draft, self.place)
            else:
                _keep(self.place, earlier / self.place.name)
                os.replace(self.draft, self.place)
        except OSError as error:
            raise PspError(
                f"cannot write {self.place}: {error.strerror}; nothing was changed: give another name or folder"
            ) from error

    def take_back(self, earlier: Path) -> None:
        """Bring back what was there, if the move was made. Raises `OSError`."""
        older = earlier / self.place.name
        made = os.path.lexists(self.place) and os.lstat(self.place).st_ino == self._new
        if made and os.path.lexists(older):
            os.replace(older, self.place)
        elif made and os.path.lexists(self.draft):
            exchange(self.draft, self.place)
        elif made:
            os.replace(self.place, self.draft)


def _keep(place: Path, copy: Path) -> None:
    """Give a file, or a link, a second name; where the file system has no such names, a copy."""
    try:
        os.link(place, copy, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(place, copy, follow_symlinks=False)


def _take_back(moves: list[_Move], home: Path, earlier: Path) -> None:
    try:
        for move in moves:
            move.take_back(earlier)
    except OSError as error:
        kept = home / earlier.name.removeprefix(".")  # under this name no later run deletes it
        earlier.rename(kept)
        raise PspError(
            f"{home} holds a part of this export: {error.strerror}; move the earlier files back from {kept}"
        ) from error
