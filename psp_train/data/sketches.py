"""Pencil sketches made of photos: inputs of the sketch task, for those who have only photos.

The sketches are 256x256 and made from what a model sees of a photo, so they are those of a photo given at run time.
"""

from contextlib import closing
from pathlib import Path

from psp_runtime import console
from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.loading import load
from psp_runtime.pictures.sketching import sketch
from psp_runtime.prefetch import THREADS, parallel_map
from psp_train.data.folders import pictures
from psp_train.progress import Progress

PhotoAndSketch = tuple[Path, Path]


def make_sketches(source: Path, target: Path) -> list[Path]:
    """Sketch every picture in and below `source` into the same place below `target`, as PNG.

    Sketches newer than their photo are kept. Photos that cannot be read are reported at the end, and returned.
    Raises `PspError` when there is no photo at all, or where names clash, before anything is written.
    """
    pairs = _pairs(source, target)
    due = [pair for pair in pairs if not _is_newer(pair)]
    unread: dict[Path, PictureError] = {}
    with (
        Progress("sketching", len(due), unit="pictures") as progress,
        closing(parallel_map(_make, due, THREADS, prefetch=4 * THREADS)) as results,
    ):
        for (photo, _), error in zip(due, results, strict=True):
            progress.advance()
            if error:
                unread[photo] = error
    for error in unread.values():
        console.error(error)
    print(f"sketches made: {len(due) - len(unread)}, already there: {len(pairs) - len(due)}, in {target}")
    needed = "--generator GENERATOR.pt --weights WEIGHTS --out RUN"
    print(f"next: psp train --task sketch --data {target} --target {source} {needed}")
    return list(unread)


def _pairs(source: Path, target: Path) -> list[PhotoAndSketch]:
    """List photo and sketch of each picture."""
    if target.exists() and not target.is_dir():
        raise PspError(f"{target} is a file, expected a folder for the sketches")
    pairs = [(path, (target / path.relative_to(source)).with_suffix(".png")) for path in _photos(source, target)]
    _check_clashes(pairs)
    return pairs


def _photos(source: Path, target: Path) -> list[Path]:
    """List the pictures of `source`, without the sketches where `target` lies below it."""
    ours, theirs = target.resolve(), source.resolve()
    if ours == theirs:
        raise PspError(f"the sketches would go among the photos in {source}: give another folder")
    found = pictures(source)
    if not ours.is_relative_to(theirs):
        return found
    photos = [path for path in found if not path.resolve().is_relative_to(ours)]
    if not photos:
        raise PspError(f"no pictures in {source} besides those in {target}, where the sketches go")
    return photos


def _check_clashes(pairs: list[PhotoAndSketch]) -> None:
    photos, owners = {photo.resolve() for photo, _ in pairs}, {}
    for photo, drawn in pairs:
        other = owners.setdefault(drawn, photo)
        if other != photo:
            raise PspError(f"{other} and {photo} would both become {drawn}: rename one")
        if drawn.resolve() in photos:
            raise PspError(f"the sketch of {photo} would replace the photo {drawn}: give another folder")


def _is_newer(pair: PhotoAndSketch) -> bool:
    photo, drawn = pair
    return drawn.exists() and drawn.stat().st_mtime_ns > photo.stat().st_mtime_ns


def _make(pair: PhotoAndSketch) -> PictureError | None:
    photo, drawn = pair
    try:
        pixels = load(photo, "rgb")
    except PictureError as error:
        return error
    drawn.parent.mkdir(parents=True, exist_ok=True)
    save(sketch(pixels), drawn)
    return None
