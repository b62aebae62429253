"""Which files of a folder are pictures: one rule for every command, on disks and in object stores.

Every ending that Pillow reads counts, in sub-folders too. Hidden files and what systems put among pictures (thumbnails
of a NAS, halves of macOS files) are never seen; outputs of ours, and everything else, are left out and counted.
"""

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import NamedTuple

from PIL import Image

from psp_runtime.errors import PspError
from psp_runtime.pictures import heif
from psp_runtime.pictures.encoding import FORMATS

#: Output names end so, before a number or INPUT_ENDING.
OUTPUT_ENDING = "_out"
#: What a changed input is saved as, beside its output.
INPUT_ENDING = "_input"
_OUTPUT_STEM = re.compile(rf"(.+?)(_face\d+)?{OUTPUT_ENDING}(_\d+|{INPUT_ENDING})?", re.DOTALL)

#: What Synology, macOS and Windows put into folders, in small letters.
_OF_SYSTEMS = frozenset(
    ("@eadir", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information", "lost+found")
    + ("thumbs.db", "ehthumbs.db", "desktop.ini")
)
#: Formats of Pillow that are programs or films, or that it reads with another library's help only.
_NO_PICTURES = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5")

#: Why a file is left out.
NO_PICTURE, OUTPUT = "no pictures", "outputs of ours"
BROKEN, CLOSED = "links to nothing", "folders that may not be read"
HEIC = f"HEIC, for {heif.HOW}"


class Listing(NamedTuple):
    """The pictures of a folder, or of several, and of each file that was left out the reason and its ending."""

    pictures: list[Path]
    left_out: list[tuple[str, str]]

    def words(self) -> str:
        """Say what was left out and why; empty where nothing was."""
        if not self.left_out:
            return ""
        counts = Counter(reason for reason, _ in self.left_out)
        endings = Counter(ending or "without an ending" for reason, ending in self.left_out if reason == NO_PICTURE)
        numbers: dict[str, object] = {**counts}
        if endings:
            numbers[NO_PICTURE] = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
        files = "1 file" if len(self.left_out) == 1 else f"{len(self.left_out)} files"
        return f"left out: {files} ({'; '.join(f'{reason}: {number}' for reason, number in numbers.items())})"


def list_pictures(folder: Path, without: Iterable[Path] = ()) -> Listing:
    """List the pictures in a folder and below it, sorted; not those in the folders `without`, where these lie there.

    A linked folder is read once, by its real path, and never where it contains the link. Raises `PspError` for a folder
    that is not there, and `OSError` for one that may not be read.
    """
    if not folder.is_dir():
        raise PspError(f"no folder {folder}: expected a folder of pictures")
    walk = _Walk(folder, without)
    found = sort_out(walk.names)
    return Listing([folder / name for name in found.pictures], walk.left_out + found.left_out)


def list_files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """List the files in a folder and below it whose names end so, in any case, sorted; as `list_pictures` walks."""
    return [folder / name for name in sorted(_Walk(folder, ()).names) if name.suffix.lower() in endings]


def sort_out(names: Iterable[PurePath]) -> Listing:
    """Find the pictures among files, by their names below a folder."""
    pictures: list[Path] = []
    left_out: list[tuple[str, str]] = []
    for name in names:
        if any(_is_hidden(part) for part in name.parts):
            continue
        if reason := _obstacle(name):
            left_out.append((reason, name.suffix.lower()))
        else:
            pictures.append(Path(name))
    kept = without_outputs(sorted(pictures), deep=True)
    return Listing(kept, left_out + [(OUTPUT, "")] * (len(pictures) - len(kept)))


def without_outputs(pictures: Iterable[Path], deep: bool = False) -> list[Path]:
    """Leave out each X_out, X_out_NUMBER and X_out_input whose picture X is among the others of the same folder.

    So too X_faceN_out and so on, of the faces of a photo. `deep`: also FOLDER/SUB/X_out of a picture SUB/X, as an
    earlier run with --out FOLDER writes it.
    """
    pictures = list(pictures)
    known = {path.with_suffix("") for path in pictures}

    def is_known(source: Path) -> bool:
        return source in known or (deep and any(Path(*source.parts[n:]) in known for n in range(1, len(source.parts))))

    def is_output(path: Path) -> bool:
        match = _OUTPUT_STEM.fullmatch(path.stem)
        stems = {match[1], f"{match[1]}{match[2] or ''}"} if match else set()
        return any(is_known(path.with_name(stem)) for stem in stems)

    return [path for path in pictures if not is_output(path)]


def same_name(name: PurePath | str) -> str:
    """Spell a name as it is compared: macOS and Linux write accents in different ways (Unicode NFD, NFC)."""
    return unicodedata.normalize("NFC", str(name))


def spelled(path: Path) -> Path:
    """Find the file or folder of a name, also in another Unicode form; give the name itself where there is none."""
    if path.exists() or path == path.parent:
        return path
    folder = spelled(path.parent)
    alike = (one for one in folder.iterdir() if same_name(one.name) == same_name(path.name)) if folder.is_dir() else ()
    return next(iter(alike), path)


def no_pictures(where: object, found: Listing) -> PspError:
    """Make the error of a folder without any."""
    words = found.words()
    return PspError(
        f"no pictures in {where}: expected files named {', '.join(FORMATS)}, or another ending that Pillow reads"
        + (f"; {words}" if words else "")
    )


class _Walk:
    """The files below a folder, by their names there, and what could not be followed. Real folders come first."""

    def __init__(self, folder: Path, without: Iterable[Path]) -> None:
        self.names: list[Path] = []
        self.left_out: list[tuple[str, str]] = []
        self._top, self._folders, self._links = str(folder), [str(folder)], list[str]()
        self._seen = {os.path.realpath(one) for one in without} - {os.path.realpath(folder)}
        while self._folders or self._links:
            self._enter(self._folders.pop() if self._folders else self._links.pop(0))

    def _enter(self, path: str) -> None:
        real = os.path.realpath(path)
        if real in self._seen or (path != self._top and _contains(real, os.path.realpath(os.path.dirname(path)))):
            return
        self._seen.add(real)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except PermissionError:
            if path == self._top:
                raise
            self.left_out.append((CLOSED, ""))
            return
        for entry in entries:
            if not _is_hidden(entry.name):
                self._take(entry)

    def _take(self, entry: os.DirEntry[str]) -> None:
        link = entry.is_symlink()
        if os.path.isdir(entry) if link else entry.is_dir():
            (self._links if link else self._folders).append(entry.path)
        elif os.path.isfile(entry) if link else entry.is_file():
            self.names.append(Path(os.path.relpath(entry, self._top)))
        elif link:
            self.left_out.append((BROKEN, ""))


def _contains(folder: str, other: str) -> bool:
    return f"{other}{os.sep}".startswith(f"{folder.rstrip(os.sep)}{os.sep}")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _obstacle(name: PurePath) -> str:
    """Say why a file is no picture for us; empty for one that is."""
    ending = name.suffix.lower()
    if ending in heif.ENDINGS:
        return "" if heif.is_readable() else HEIC
    return "" if ending in FORMATS or ending in _endings() else NO_PICTURE


@functools.cache
def _endings() -> frozenset[str]:
    """List the endings that Pillow reads; asking for all takes a moment."""
    Image.init()
    kinds = Image.OPEN.keys() - _NO_PICTURES
    return frozenset(ending for ending, kind in Image.EXTENSION.items() if kind in kinds)
