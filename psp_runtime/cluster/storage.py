"""Where pictures lie and outputs go: folders on any filesystem pyarrow knows, local or in an object store."""

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

from psp_runtime.disk import replacing
from psp_runtime.errors import PspError
from psp_runtime.pictures.encoding import FORMATS
from psp_runtime.pictures.folders import OUTPUT_ENDING, Listing, list_pictures, no_pictures, sort_out
from psp_runtime.run.options import Options

#: Filesystems without folders, by pyarrow's names: a key may have slashes, and the first part of a path is a bucket.
OBJECT_STORES = ("s3", "gcs", "abfs")


def import_extra(module: str) -> Any:
    """Import a module the extra `ray` brings. Raises `PspError` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PspError(f"--ray needs Ray Data and pyarrow ({error}): pip install '.[ray]'") from None


@dataclass(frozen=True)
class Place:
    """A folder: `name` as people call it, `root` its path on its pyarrow `filesystem`.

    The name of a local one is its absolute path, of others their URI without keys and settings: it gets into manifests.
    """

    name: str
    filesystem: Any
    root: str

    @property
    def local(self) -> bool:
        """Whether its files have paths this process can open: also those of a mounted network folder."""
        return bool(self.filesystem.type_name == "local")

    @property
    def bucket(self) -> str:
        """The bucket (or container) it is in, "" where there are none."""
        return self.root.partition("/")[0] if self.filesystem.type_name in OBJECT_STORES else ""

    def full_name(self, file: str) -> str:
        """Say what a file is called in messages and manifests."""
        return f"{self.name}/{file}"

    def path(self, file: str) -> str:
        """Give the path of a file on the filesystem."""
        return f"{self.root}/{file}"

    def read(self, file: str) -> bytes:
        """Read the content of a file. Raises `OSError`."""
        with self.filesystem.open_input_stream(self.path(file)) as stream:
            return bytes(stream.read())

    def write(self, file: str, data: bytes) -> None:
        """Write a file whole or not at all. Raises `PspError` for what the filesystem refuses.

        A local one gets its name when it is complete; an object store, which cannot rename, shows it when it is closed.
        """
        path = self.path(file)
        try:
            if not self.bucket:  # there, a folder would be an object of its own: more requests than the file itself
                self.filesystem.create_dir(os.path.dirname(path), recursive=True)
            if self.local:
                with replacing(Path(path)) as local:
                    local.write(data)
            else:
                with self.filesystem.open_output_stream(path) as stream:
                    stream.write(data)
        except OSError as error:
            raise PspError(f"cannot write {self.full_name(file)}: {error}") from error

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Every file in it and its sub-folders: name relative to it, bytes, time of the last change in ns."""
        fs = import_extra("pyarrow.fs")
        for info in self.filesystem.get_file_info(fs.FileSelector(self.root, recursive=True, allow_not_found=True)):
            if info.type == fs.FileType.File:
                yield info.path[len(self.root) :].lstrip("/"), info.size, info.mtime_ns or 0


@dataclass(frozen=True)
class Picture:
    """One input: the file `name` in the place called `folder`, its bytes and its time of the last change in ns."""

    folder: str
    name: str
    size: int
    modified: int

    @property
    def path(self) -> str:
        """The whole name, as a manifest has it."""
        return f"{self.folder}/{self.name}"

    def output(self, options: Options) -> str:
        """Name its output: X_out.png in the same sub-folder, or another `--format`."""
        name = Path(self.name)
        return str(name.with_name(f"{name.stem}{OUTPUT_ENDING}{options.suffix(name)}"))

    @property
    def crop(self) -> str:
        """What its aligned crop is called: X.png in the same sub-folder."""
        return str(Path(self.name).with_suffix(".png"))


def open_place(name: str) -> Place:
    """Open a folder by its path or URI (s3://bucket/photos), there or not. Raises `PspError` for unknown ones."""
    fs = import_extra("pyarrow.fs")
    if "://" not in name:
        root = os.path.abspath(name)
        return Place(root, fs.LocalFileSystem(), root)
    try:
        filesystem, root = fs.FileSystem.from_uri(_as_uri(name))
    except (OSError, ValueError) as error:
        raise PspError(f"cannot use {name}: {error}") from error
    root = root.rstrip("/")
    if not root and filesystem.type_name in OBJECT_STORES:
        raise PspError(f"cannot use {name}: expected the name of a bucket after {name.partition('://')[0]}://")
    return Place(_public_name(name, filesystem, root), filesystem, root)


def _public_name(uri: str, filesystem: Any, root: str) -> str:
    """Strip a URI of what may be secret: keys before an @, and settings after the question mark."""
    if filesystem.type_name in OBJECT_STORES:
        return f"{uri.partition('://')[0]}://{root}"
    return re.sub("//[^/@]*@", "//", uri.partition("?")[0]).rstrip("/")


def _as_uri(name: str) -> str:
    """Quote a URI as people type it, for pyarrow: it takes neither spaces nor letters outside ASCII."""
    if name.startswith("fsspec+"):  # no URI for pyarrow: names are taken as they are
        return name
    return _with_single_puts(quote(name, safe="%:/?#[]@!$&'()*+,;=~"))


def _with_single_puts(uri: str) -> str:
    """pyarrow sends a file to S3 as a multi-part upload of three requests, unless it may wait for the first bytes."""
    if not uri.startswith("s3://") or "allow_delayed_open" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def check_output(out: Place, option: str = "--out") -> None:
    """Raise `PspError` where the folder of an option cannot be: a file has its name, or its bucket is not there."""
    fs = import_extra("pyarrow.fs")
    try:
        if out.bucket and out.filesystem.get_file_info(out.bucket).type == fs.FileType.NotFound:
            raise PspError(f"cannot write into {out.name}: there is no bucket {out.bucket}, make it first")
        is_file = out.filesystem.get_file_info(out.root).is_file
    except OSError as error:
        raise PspError(f"cannot write into {out.name}: {error}") from error
    if is_file or Path(out.name).suffix.lower() in FORMATS:
        raise PspError(f"{option} {out.name} is a file, expected a folder")


class Found(NamedTuple):
    """The pictures of a run, their places by name, and why which files were left out."""

    places: dict[str, Place]
    pictures: list[Picture]
    left_out: str


def find_pictures(inputs: Iterable[str], written: Sequence[Place]) -> Found:
    """Find the pictures named and those in the folders named, as `psp_runtime.pictures.folders` does.

    Those in the folders that are written into are left out where these lie in an input. Raises `PspError` for inputs
    that are not there or hold no picture.
    """
    places: dict[str, Place] = {}
    pictures: list[Picture] = []
    left_out: list[tuple[str, str]] = []
    for name in inputs:
        place, found, left = _pictures_of(name, written)
        places[place.name] = place
        pictures += found
        left_out += left
    return Found(places, pictures, Listing([], left_out).words())


def _pictures_of(name: str, written: Sequence[Place]) -> tuple[Place, list[Picture], list[tuple[str, str]]]:
    fs, place = import_extra("pyarrow.fs"), open_place(name)
    try:
        info = place.filesystem.get_file_info(place.root)
        if info.type == fs.FileType.NotFound:
            raise PspError(f"cannot read {place.name if '://' in name else name}: no such file or folder")
        if info.type == fs.FileType.File:
            parent, _, file = place.name.rpartition("/")
            folder = Place(parent, place.filesystem, os.path.dirname(place.root))
            return folder, [Picture(parent, file, info.size, info.mtime_ns or 0)], []
        found, pictures = _here(place, written) if place.local else _elsewhere(place, written)
    except OSError as error:
        raise PspError(f"cannot read {place.name}: {error}") from error
    except UnicodeError as error:  # names in manifests are text; those of Linux are bytes
        raise PspError(f"cannot read {name}: rename {_as_bytes(error)!r} in it, which is not UTF-8") from error
    if not pictures:
        raise no_pictures(name, found)
    return place, sorted(pictures, key=lambda picture: picture.name), found.left_out


def _here(place: Place, written: Sequence[Place]) -> tuple[Listing, list[Picture]]:
    """Find the pictures of a folder on this machine."""
    found = list_pictures(Path(place.root), [Path(one.root) for one in written if one.local])
    return found, [_picture(place, path) for path in found.pictures]


def _picture(place: Place, path: Path) -> Picture:
    name, stat = path.relative_to(place.root).as_posix(), path.stat()
    name.encode()  # raises `UnicodeEncodeError`
    return Picture(place.name, name, stat.st_size, stat.st_mtime_ns)


def _elsewhere(place: Place, written: Sequence[Place]) -> tuple[Listing, list[Picture]]:
    """Find the pictures of an object store, or of another filesystem of pyarrow."""
    within = [one for one in written if one.filesystem.type_name == place.filesystem.type_name]
    ours = tuple(f"{one.root}/" for one in within if one.root.startswith(f"{place.root}/"))
    every = [facts for facts in place.files() if not place.path(facts[0]).startswith(ours)]
    found = sort_out(PurePosixPath(name) for name, _, _ in every)
    kept = {path.as_posix() for path in found.pictures}
    return found, [Picture(place.name, *facts) for facts in every if facts[0] in kept]


def _as_bytes(error: UnicodeError) -> bytes:
    name = getattr(error, "object", b"")
    return name if isinstance(name, bytes) else os.fsencode(name)
