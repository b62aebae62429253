"""Which files belong together: pictures of a folder, pairs by name, what is held out."""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from psp_runtime.console import counted
from psp_runtime.errors import PspError
from psp_runtime.pictures.folders import list_pictures, no_pictures, same_name
from psp_runtime.pictures.loading import CHANNELS, load
from psp_runtime.prefetch import THREADS, parallel_map
from psp_runtime.tasks import Task
from psp_train.progress import Progress

#: What a fingerprint begins with; earlier ones, of file names alone, do not.
FINGERPRINT_VERSION = "2:"


@dataclass(frozen=True)
class SampleFiles:
    """The files of one sample; `mask` is a label map of the target, where losses need one."""

    source: Path
    target: Path
    mask: Path | None = None

    @property
    def paired(self) -> bool:
        """Whether the source was made beforehand; a picture that is its own target is degraded when it is loaded."""
        return self.source != self.target


def pictures(folder: Path) -> list[Path]:
    """List all picture files in a folder and below it, sorted, and warn of what is left out.

    The rules are those of `psp_runtime.pictures.folders`. Raises `PspError` when there are none.
    """
    found = list_pictures(folder)
    if not found.pictures:
        raise no_pictures(folder, found)
    if found.left_out:
        warnings.warn(f"{folder}: {found.words()}", stacklevel=2)
    return found.pictures


def pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Pair the pictures of two folders that share sub-folder and stem, sorted by source.

    Names that differ in their Unicode form alone are the same.

    Raises `PspError` for sources without a target and for two files of one stem.
    """
    inputs, outputs = _by_stem(source), _by_stem(target)
    missing = [stem for stem in inputs if stem not in outputs]
    if missing:
        raise PspError(
            f"{len(missing)} of {counted(len(inputs), 'picture')} in {source} without one of the same name in "
            f"{target}: the first is {inputs[missing[0]]}"
        )
    return [(path, outputs[stem]) for stem, path in inputs.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in pictures(folder):
        stem = _stem(path, folder)
        if stem in stems:
            raise PspError(f"{stems[stem]} and {path} have the same name: pairs are found by name, remove one of them")
        stems[stem] = path
    return stems


def _stem(path: Path, folder: Path) -> str:
    return same_name(path.relative_to(folder).with_suffix("").as_posix())


def find_samples(task: Task, data: Path, target: Path | None, masks: Path | None) -> list[SampleFiles]:
    """List the samples of a data folder, with label maps from `masks`.

    Raises `PspError` for sketches and label maps without `target`, the faces they belong to, and for files missing.
    """
    if task.input != "rgb" and target is None:
        raise PspError(f"task {task.name} translates {task.input} pictures: give --target, the folder of their faces")
    if target is not None and target.resolve() == data.resolve():
        raise PspError(f"--data and --target are both {data}: expected the inputs in one folder, the faces in another")
    found = [(path, path) for path in pictures(data)] if target is None else pairs(data, target)
    if masks is None:
        return [SampleFiles(a, b) for a, b in found]
    maps = _by_stem(masks)
    root = data if target is None else target
    lacking = [b for _, b in found if _stem(b, root) not in maps]
    if lacking:
        raise PspError(f"{counted(len(lacking), 'picture')} without a label map in {masks}: the first is {lacking[0]}")
    return [SampleFiles(a, b, maps[_stem(b, root)]) for a, b in found]


def check_label_maps(samples: Sequence[SampleFiles], task: Task) -> None:
    """Read every label map once, in threads: `PictureError` names the first bad file and id before hours are spent."""
    maps = [files.source for files in samples] if task.input == "labels" else []
    maps += [files.mask for files in samples if files.mask]
    if not maps:
        return
    read = partial(load, kind="labels", classes=CHANNELS["labels"])
    with (
        Progress("checking label maps", len(maps), unit="maps") as progress,
        closing(parallel_map(read, maps, THREADS, prefetch=4 * THREADS)) as results,
    ):
        for _ in results:
            progress.advance()


def split(samples: list[SampleFiles], held_out: int, seed: int) -> tuple[list[SampleFiles], list[SampleFiles]]:
    """Split into training and held-out samples, a fixed choice per seed. Raises `PspError` when none are left."""
    if held_out >= len(samples):
        raise PspError(f"--held-out {held_out} leaves none of {len(samples)} samples to train on: give fewer")
    chosen = set(np.random.default_rng([seed, 7]).permutation(len(samples))[:held_out].tolist())
    return [x for i, x in enumerate(samples) if i not in chosen], [x for i, x in enumerate(samples) if i in chosen]


def fingerprint(*parts: Sequence[SampleFiles]) -> str:
    """Hash names and order of samples by sha256: where it changes, the same position means another sample.

    Names within their folders, which may have moved.
    """
    columns = [[[getattr(files, kind) for files in part] for part in parts] for kind in ("source", "target", "mask")]
    return FINGERPRINT_VERSION + hashlib.sha256(json.dumps([_names(column) for column in columns]).encode()).hexdigest()


def _names(parts: list[list[Path | None]]) -> list[list[str]]:
    files = [path for part in parts for path in part if path]
    root = os.path.commonpath([path.parent for path in files]) if files else ""
    return [[os.path.relpath(path, root) if path else "" for path in part] for part in parts]
