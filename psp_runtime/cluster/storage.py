"""Where pictures lie and outputs go: folders on any filesystem pyarrow knows, local or in an object store."""

import importlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psp_runtime import images
from psp_runtime.errors import PspError
from psp_runtime.files import OUTPUT_ENDING, without_outputs


def import_extra(module: str) -> Any:
    """A module the extra `ray` brings. Raises `PspError` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PspError(f"--ray needs Ray Data and pyarrow ({error}): pip install 'psp-toolkit[ray]'") from None


@dataclass(frozen=True)
class Place:
    """A folder: `name` as it was given (a local one absolute), `root` its path on its pyarrow `filesystem`."""

    name: str
    filesystem: Any
    root: str

    @property
    def local(self) -> bool:
        """Whether its files have paths this process can open: also those of a mounted network folder."""
        return bool(self.filesystem.type_name == "local")

    def full_name(self, file: str) -> str:
        """What a file is called in messages and manifests."""
        return f"{self.name}/{file}"

    def path(self, file: str) -> str:
        """The path of a file on the filesystem."""
        return f"{self.root}/{file}"

    def read(self, file: str) -> bytes:
        """The content of a file. Raises `OSError`."""
        with self.filesystem.open_input_stream(self.path(file)) as stream:
            return bytes(stream.read())

    def write(self, file: str, data: bytes) -> None:
        """Write a file whole or not at all. Raises `PspError` for what the filesystem refuses.

        A local one gets its name when it is complete; an object store, which cannot rename, shows it when it is closed.
        """
        path = self.path(file)
        try:
            self.filesystem.create_dir(os.path.dirname(path), recursive=True)
            if self.local:
                with images.replacing(Path(path)) as local:
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

    def output(self, ending: str | None) -> str:
        """What its output is called: X_out.png in the same sub-folder, or another `ending` such as "jpg"."""
        name = Path(self.name)
        return str(name.with_name(f"{name.stem}{OUTPUT_ENDING}.{ending or 'png'}"))


def open_place(name: str) -> Place:
    """A folder by its path, or a URI such as s3://bucket/photos, there or not. Raises `PspError` for unknown ones."""
    fs = import_extra("pyarrow.fs")
    if "://" not in name:
        root = os.path.abspath(name)
        return Place(root, fs.LocalFileSystem(), root)
    try:
        filesystem, root = fs.FileSystem.from_uri(_with_single_puts(name))
    except (OSError, ValueError) as error:
        raise PspError(f"cannot use {name}: {error}") from error
    return Place(name.partition("?")[0].rstrip("/"), filesystem, root.rstrip("/"))


def _with_single_puts(uri: str) -> str:
    """pyarrow sends a file to S3 as a multi-part upload of three requests, unless it may wait for the first bytes."""
    if not uri.startswith("s3://") or "allow_delayed_open" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def find_pictures(inputs: Iterable[str], out: Place) -> tuple[dict[str, Place], list[Picture]]:
    """The pictures named and those in the folders named, sub-folders too, and their places by name.

    Left out are hidden files, outputs beside their pictures, and the output folder where it lies in an input.
    Raises `PspError` for inputs that are not there, hold no picture, or have outputs of one name.
    """
    places: dict[str, Place] = {}
    pictures: list[Picture] = []
    for name in inputs:
        place, found = _pictures_of(name, out)
        places[place.name] = place
        pictures += found
    return places, pictures


def _pictures_of(name: str, out: Place) -> tuple[Place, list[Picture]]:
    fs, place = import_extra("pyarrow.fs"), open_place(name)
    try:
        info = place.filesystem.get_file_info(place.root)
        if info.type == fs.FileType.NotFound:
            raise PspError(f"cannot read {name}: no such file or folder")
        if info.type == fs.FileType.File:
            parent, _, file = place.name.rpartition("/")
            folder = Place(parent, place.filesystem, os.path.dirname(place.root))
            return folder, [Picture(parent, file, info.size, info.mtime_ns or 0)]
        found = [Picture(place.name, *facts) for facts in place.files() if _is_picture(place, facts[0], out)]
    except OSError as error:
        raise PspError(f"cannot read {name}: {error}") from error
    inputs = {str(path) for path in without_outputs(Path(picture.name) for picture in found)}
    kept = sorted((picture for picture in found if picture.name in inputs), key=lambda picture: picture.name)
    if not kept:
        raise PspError(f"no pictures in {name}: expected files named {', '.join(images.FORMATS)}")
    return place, kept


def _is_picture(place: Place, file: str, out: Place) -> bool:
    path = Path(file)
    within_out = out.root.startswith(f"{place.root}/") and f"{place.root}/{file}".startswith(f"{out.root}/")
    return path.suffix.lower() in images.FORMATS and not within_out and not any(p.startswith(".") for p in path.parts)
