"""Drawn faces as training data: a folder of PNGs like anybody's, drawn once and shared by all tasks."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from psp_runtime.disk import delete_unfinished, scratch_folder
from psp_runtime.errors import PspError
from psp_runtime.tasks import Task
from psp_train.data.folders import SampleFiles
from psp_train.drawn.faces import draw, sample
from psp_train.progress import Progress
from psp_train.workers import worker_pool

#: Faces of a training folder, and the seeds of training and of evaluation on other faces.
FACES, TRAIN_SEED, HELD_OUT_SEED = 4000, 1, 2
KINDS = ("faces", "labels", "sketches")


def sample_files(
    task: Task, folder: Path, masks: bool = False, count: int = FACES, seed: int = TRAIN_SEED
) -> list[SampleFiles]:
    """List the samples of a task in a folder of drawn faces, which are drawn first where they are not there."""
    draw_folder(folder, count, seed)
    source = {"rgb": "faces", "sketch": "sketches", "labels": "labels"}[task.input]
    names = [f"{index:05}.png" for index in range(count)]
    return [
        SampleFiles(folder / source / name, folder / "faces" / name, folder / "labels" / name if masks else None)
        for name in names
    ]


def draw_folder(folder: Path, count: int = FACES, seed: int = TRAIN_SEED) -> None:
    """Write faces/, labels/ and sketches/ of the face vectors 0 .. count - 1 of a seed, 256x256 PNG, unless there.

    More of them may be there: a face depends on its number alone. Raises `PspError` for a folder of anything else.
    """
    mark, asked = folder / "drawn.json", {"count": count, "seed": seed}
    if _holds(mark, asked):
        return
    if folder.exists() and not (folder.is_dir() and (mark.exists() or not any(folder.iterdir()))):
        raise PspError(f"{folder} holds other files: faces are drawn into a new or empty folder, give another --data")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("{}")  # ours from now on, and not done
    # Apart first: another run may be drawing the same, and be done and read it before this one is.
    delete_unfinished(folder)
    with scratch_folder(folder, "drawing") as workshop:
        _draw_all(workshop, count, seed)
        if _holds(mark, asked):
            return
        for kind in KINDS:
            shutil.rmtree(folder / kind, ignore_errors=True)  # other faces
            os.replace(workshop / kind, folder / kind)
        mark.write_text(json.dumps(asked))


def _holds(mark: Path, asked: dict[str, int]) -> bool:
    """Tell whether a folder has the faces asked for, by its mark."""
    drawn = json.loads(mark.read_text()) if mark.exists() else {}
    return drawn.get("seed") == asked["seed"] and drawn.get("count", 0) >= asked["count"]


def _draw_all(folder: Path, count: int, seed: int) -> None:
    for kind in KINDS:
        (folder / kind).mkdir()
    vectors = sample(count, seed)
    with worker_pool() as pool, Progress("drawing faces", count) as progress:
        for _ in pool.map(_draw, vectors, [folder] * count, range(count), chunksize=16):
            progress.advance()


def _draw(vector: np.ndarray, folder: Path, index: int) -> None:
    for kind, pixels in zip(KINDS, draw(vector)):
        Image.fromarray(pixels).save(folder / kind / f"{index:05}.png", compress_level=1)
