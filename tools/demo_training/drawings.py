"""Drawn faces as arrays on disk: drawn once, in files of CHUNK faces, and read by every training of the demo models.

    python tools/demo_training/drawings.py --work runs/demo --count 20000

A seed's folder `drawn_SEED` grows: a larger count adds files and keeps those there. Each size has files of its own:
at 256 uint8 [CHUNK,256,256,5] (RGB, label, sketch), below [CHUNK,size,size,3], the means of the pixels above.
"""

import os
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import command
import numpy as np

from psp_train.drawn import faces
from psp_train.workers import worker_pool

CHUNK = 500
SIZES = (256, 128, 64, 32, 16)
#: Seeds of the faces that are trained on, of those that are not, and of those that settings are chosen by.
TRAIN_SEED, HELD_OUT_SEED = 1, 2

Array = np.ndarray


class Drawings:
    """The first `count` faces of a seed (a multiple of CHUNK): `vectors` [N,64], and their pictures by row."""

    def __init__(self, work: Path, count: int, seed: int = TRAIN_SEED) -> None:
        draw_missing(work, count, seed)
        self.vectors = faces.sample(count, seed)
        files = {size: [chunk_file(work, seed, size, n) for n in range(chunks(count))] for size in SIZES}
        self.maps = {size: [np.load(path, mmap_mode="r") for path in paths] for size, paths in files.items()}

    def __len__(self) -> int:
        return len(self.vectors)

    def pictures(self, rows: Array, size: int) -> Array:
        """uint8 [B,size,size,3]."""
        return self._read(rows, size)[..., :3]

    def everything(self, rows: Array) -> Array:
        """uint8 [B,256,256,5]: RGB, label, sketch."""
        return self._read(rows, 256)

    def _read(self, rows: Array, size: int) -> Array:
        return np.stack([self.maps[size][row // CHUNK][row % CHUNK] for row in rows])


def chunks(count: int) -> int:
    return -(-count // CHUNK)


def chunk_file(work: Path, seed: int, size: int, number: int) -> Path:
    return work / f"drawn_{seed}" / f"{size}_{number:04}.npy"


def draw_missing(work: Path, count: int, seed: int, jobs: int = 1) -> None:
    """Draw the chunks that are not there; the smallest size is written last and marks a chunk as done."""
    missing = [n for n in range(chunks(count)) if not chunk_file(work, seed, SIZES[-1], n).exists()]
    if jobs == 1 or not missing:
        for number in missing:
            draw_chunk(work, seed, number)
        return
    with worker_pool(jobs) as pool:
        list(pool.map(draw_chunk, repeat(work), repeat(seed), missing))


def draw_chunk(work: Path, seed: int, number: int) -> None:
    """Draw faces [CHUNK,256,256,5] and store them at all sizes."""
    drawn = (faces.draw(z) for z in faces.sample(CHUNK, seed, number * CHUNK))
    chunk = np.stack([np.dstack([face.image, face.labels, face.sketch]) for face in drawn])
    for size, array in pyramid(chunk):
        write(chunk_file(work, seed, size, number), array)
    print(f"drawn: faces {number * CHUNK} to {(number + 1) * CHUNK - 1} of seed {seed}", flush=True)


def pyramid(chunk: Array) -> Iterator[tuple[int, Array]]:
    """A chunk at each size, the largest first."""
    yield SIZES[0], chunk
    pictures = chunk[..., :3]
    for size in SIZES[1:]:
        pictures = halve(pictures)
        yield size, pictures


def halve(pictures: Array) -> Array:
    """Mean of every 2x2 pixels, rounded: uint8 [N,H,W,3] -> [N,H/2,W/2,3]."""
    wide = pictures.astype(np.uint16)
    rows = wide[:, ::2] + wide[:, 1::2]
    return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) // 4).astype(np.uint8)


def write(path: Path, array: Array) -> None:
    """Store an array under a temporary name and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--count", type=command.count, default=20_000, help=f"faces to draw, rounded up to {CHUNK}s")
    parser.add_argument("--seed", type=command.at_least(0), default=TRAIN_SEED, help="whose faces")
    parser.add_argument("--jobs", type=command.count, default=1, help="processes that draw")
    options = parser.parse_args()
    draw_missing(options.work, options.count, options.seed, options.jobs)


if __name__ == "__main__":
    main()
