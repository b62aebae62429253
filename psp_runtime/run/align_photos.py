"""`psp align`: the faces of photos, cut out as FFHQ was."""

import csv
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import numpy as np
import typer

from psp_runtime import console
from psp_runtime.alignment.faces import Face
from psp_runtime.alignment.photos import Choice, Framing, NoFaceError, choose, cut
from psp_runtime.console import INPUT, SAVE, WHERE, Talk, counted, option
from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.photos import open_photo
from psp_runtime.prefetch import MOST_THREADS, THREADS, parallel_map
from psp_runtime.run import files
from psp_runtime.run.execution import with_progress
from psp_runtime.run.values import parse_faces

#: The table of what was found, beside the crops, and its columns. `face` counts from 1, from the largest; a photo that
#: gave none has one row with 0. `x0` to `y3` are the corners of the square in the photo: top left, bottom left, bottom
#: right, top right, a pixel's centre at whole numbers; `size` is its side in pixels. `how` has the options that shape
#: crops, `modified` when the photo was changed last (Unix, ns): where one differs, the photo is done again.
TABLE = "faces.csv"
CORNERS = tuple(f"{axis}{corner}" for corner in range(4) for axis in "xy")
COLUMNS = ("file", "face", "crop", "score", "size", *CORNERS, "how", "modified")
#: FFHQ was drawn so many times larger and shrunk.
DRAWN = 4
#: Of --size, where drawing takes 200 MB, and of --scale.
LARGEST, SCALES = 2048, (0.2, 5.0)


@dataclass(frozen=True, kw_only=True)
class Align(Talk):
    """Cut the faces of photos out as FFHQ was: photos/a.jpg becomes aligned/a.png and a row of aligned/faces.csv.

    Run again, it goes on where it ended. A photo without a face is reported and skipped (exit 1 at the end).
    """

    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="A folder of photos, or one.", show_default=False)]
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the crops go.", show_default=False)]
    faces: Annotated[str, option(INPUT, "largest, all, 3 (the three largest) or 2nd (that one).")] = "largest"
    scale: Annotated[float, option(INPUT, "How wide the squares are: FFHQ 1, the demo models 1.28.")] = 1.0
    size: Annotated[int, option(SAVE, "Width and height of the crops.", min=16, max=LARGEST)] = 1024
    threads: Annotated[int, option(WHERE, f"Threads ({THREADS}).", min=1, max=MOST_THREADS, show_default=False)] = (
        THREADS
    )

    @property
    def how(self) -> str:
        """Say what shapes the crops, as the table has it."""
        return f"size {self.size}, faces {self.faces}, scale {self.scale:g}"

    def crop(self, photo: Path, number: int) -> Path:
        """Name the file of a face of a photo, `number` from 1."""
        ending = "" if parse_faces(self.faces).single else f"_face{number}"
        return self.folder / files.sub_folder(photo, [self.photos]) / f"{photo.stem}{ending}.png"


def align_photos(options: Align) -> None:
    """Cut out the faces of every photo that is not done. Raises `PspError` for mistakes, before anything is written."""
    started, which = time.perf_counter(), parse_faces(options.faces)
    if not SCALES[0] <= options.scale <= SCALES[1]:
        raise PspError(f"--scale {options.scale:g}: expected {SCALES[0]:g} to {SCALES[1]:g}")
    listing = files.find_pictures([options.photos], f"{options.folder}{os.sep}")
    photos = listing.pictures
    files.check_clashes([(str(photo), options.crop(photo, 1)) for photo in photos], photos)
    for folder in {options.folder, *(options.crop(photo, 1).parent for photo in photos)}:
        files.make_writable(folder)
    table = _Table(options)
    waiting = [photo for photo in photos if not table.has(photo)]
    made = failed = 0
    found = parallel_map(partial(_cut_out, options, which), waiting, options.threads, 2 * options.threads)
    with table.appending() as add, closing(found):
        for photo, faces in zip(waiting, with_progress(found, len(waiting))):
            if isinstance(faces, PictureError):
                if photo == options.photos:
                    raise faces
                console.error(faces)
                failed += 1
            if not isinstance(faces, PictureError):
                made += len(faces)
                add(photo, faces)
            elif isinstance(faces, NoFaceError):  # not to be looked at again
                add(photo, [])
    before = f", {len(photos) - len(waiting)} done before" if len(waiting) < len(photos) else ""
    seconds = time.perf_counter() - started
    words = f"{counted(made, 'face')} of {counted(len(waiting), 'photo')} in {seconds:.2f} s{before}"
    print("\n".join([f"{words}: {options.folder}{os.sep}, {table.path}", *filter(None, [listing.words()])]))
    if failed:
        console.error(console.skipped(failed, len(waiting), "photo"))
        raise typer.Exit(1)


def _cut_out(options: Align, which: Choice, path: Path) -> list[Face] | PictureError:
    """Write the crops of a photo (in a thread), and give its faces."""
    framing = Framing(options.size, options.scale, DRAWN * options.size, least=0)
    try:
        photo = open_photo(path)
        faces = choose(photo.picture, str(path), framing, which)
    except PictureError as error:
        return error
    for number, face in enumerate(faces, start=1):
        picture = np.asarray(cut(photo.picture, face, framing).picture)
        save(picture, options.crop(path, number), profile=photo.profile)
    return faces


class _Table:
    """The table of a folder of crops, as an earlier run left it."""

    def __init__(self, options: Align) -> None:
        self.options, self.path = options, options.folder / TABLE
        self._rows: dict[str, list[dict[str, str]]] = {}
        for row in self._read():
            if row.get("how") == options.how:
                self._rows.setdefault(row["file"], []).append(row)

    def has(self, photo: Path) -> bool:
        """Tell whether a photo is done: it is as it was, and all its crops are there."""
        rows = self._rows.get(str(photo), [])
        crops = [self.options.folder / row["crop"] for row in rows if row["crop"]]
        return bool(rows) and rows[-1]["modified"] == _modified(photo) and all(crop.is_file() for crop in crops)

    @contextmanager
    def appending(self) -> Iterator[Any]:
        """Give a function that adds the faces of a photo; each photo is on the disk before the next."""
        new = not self._read()
        try:
            with self._open("w" if new else "a") as file:
                if new:
                    csv.writer(file).writerow(COLUMNS)
                elif not self.path.read_bytes().endswith(b"\n"):  # the last row of a run that was killed
                    file.write("\n")
                yield partial(self._write, file)
        except PictureError:  # of the only photo: there is nothing to tell of it
            if new:
                self.path.unlink()
            raise
        except OSError as error:
            raise PspError(f"cannot write {self.path}: {error.strerror}") from error

    def _open(self, mode: Literal["r", "w", "a"]) -> TextIO:
        # Names of files are bytes: those that are no UTF-8 are written as they are.
        return self.path.open(mode, newline="", encoding="utf-8", errors="surrogateescape")

    def _write(self, file: TextIO, photo: Path, faces: list[Face]) -> None:
        found = [
            (number, self.options.crop(photo, number).relative_to(self.options.folder).as_posix(),
             f"{face.score:.4f}", f"{face.size:.2f}",
             *face.quad.round(3).ravel().tolist())
            for number, face in enumerate(faces, parse_faces(self.options.faces).first + 1)
        ]  # fmt: skip
        rows = found or [(0, *[""] * (3 + len(CORNERS)))]
        csv.writer(file).writerows((photo, *row, self.options.how, _modified(photo)) for row in rows)
        file.flush()

    def _read(self) -> list[dict[str, str]]:
        """Read the whole rows of the table; one that a killed run left unfinished is not among them."""
        try:
            with self._open("r") as file:
                rows = list(csv.DictReader(file))
        except FileNotFoundError:
            return []
        except (OSError, csv.Error) as error:
            raise PspError(f"cannot read {self.path} ({error}): delete it to begin again") from error
        return [row for row in rows if None not in row.values()]


def _modified(photo: Path) -> str:
    return str(photo.stat().st_mtime_ns) if photo.exists() else ""
