"""Samples of a training and their batches: what each task does to the pictures, and in which order they come.

Every sample is uint8, loaded by `psp_runtime.pictures.loading` as at run time, and is a function of (seed, epoch,
index) alone: neither the number of workers nor a restart changes it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from psp_runtime.errors import PictureError
from psp_runtime.pictures import transforms
from psp_runtime.pictures.label_classes import MIRRORED, NOT_FACE
from psp_runtime.pictures.loading import load
from psp_runtime.tasks import INPUT_SIZE, Task
from psp_train.data.folders import SampleFiles
from psp_train.recipes import Flip

Array = np.ndarray


class Batch(NamedTuple):
    """uint8 `source` [B,256,256,C] or class ids [B,256,256], `target` [B,256,256,3], `mask` [B,256,256] 0 or 1.

    `mask` is where the face is, for losses limited to it; `names` are the source files.
    """

    source: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    names: list[str]

    def to(self, device: torch.device) -> "Batch":
        """Move the tensors to a device; a GPU copies them while the CPU goes on."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self[:3]), self.names)


class Samples(Dataset):
    """Samples by (epoch, index). `train` draws flips and degradations from the seed; else they are fixed.

    `factors` are those by which super-resolution shrinks good pictures.
    """

    def __init__(
        self, task: Task, files: Sequence[SampleFiles], flip: Flip, factors: tuple[int, ...], seed: int, train: bool
    ) -> None:
        self.task, self.files, self.flip, self.factors = task, files, flip, factors
        self.seed, self.train = seed, train

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Array, Array, Array, str]:
        """Load a sample, uint8: source, target [256,256,3], mask [256,256] (see `Batch`), and the source's path."""
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        files = self.files[index]
        target = load(files.target, "rgb", height=self.task.input_height)
        mask = face_mask(files.mask)
        if files.paired:
            source = load(files.source, self.task.input, height=self.task.input_height)
        else:
            source = degrade(self.task, target, rng, self.factors if self.train else _middle(self.factors))
        source, target, mask = self._mirror(rng, source, target, mask)
        return source, target, mask, str(files.source)

    def _mirror(self, rng: np.random.Generator, source: Array, target: Array, mask: Array) -> tuple[Array, ...]:
        first, second = rng.random(2) < 0.5
        if not self.train or self.flip == "none":
            first = second = False
        elif self.flip == "both":
            second = first
        flipped = mirrored(source, self.task) if first else source
        return flipped, *((target[:, ::-1], mask[:, ::-1]) if second else (target, mask))


def mirrored(source: Array, task: Task) -> Array:
    """Mirror a source, [256,256] or [256,256,C]; in a label map, left and right classes change places."""
    return MIRRORED[source[:, ::-1]] if task.input == "labels" else source[:, ::-1]


def _middle(factors: tuple[int, ...]) -> tuple[int, ...]:
    return (sorted(factors)[len(factors) // 2],)


def degrade(task: Task, pixels: Array, rng: np.random.Generator, factors: tuple[int, ...]) -> Array:
    """Do to a good picture, uint8 [256,256,3], what the task has to undo.

    Super-resolution: shrink by one of `factors`, and bilinearly back. Inpainting: blacken the triangle.
    """
    if task.name == "super_resolution":
        return transforms.degrade(pixels, int(rng.choice(factors)))
    if task.name == "inpainting":
        return transforms.hide(pixels, transforms.triangle())
    return pixels


def face_mask(labels: Path | None) -> Array:
    """Mark the face by 1, uint8 [256,256]: all but background and clothes of a label map, or everything without one."""
    if labels is None:
        return np.ones((INPUT_SIZE, INPUT_SIZE), np.uint8)
    return ~np.isin(load(labels, "labels"), NOT_FACE).astype(bool) * np.uint8(1)


class BatchOrder(Sampler):
    """Batches of (epoch, index), each a function of its number: the same for every restart.

    `numbers` are those of the batches, counted from 0. Each of `world` processes takes `batch_size` samples of a batch,
    process `rank` (from 0) its slice of them.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, numbers: range, rank: int = 0, world: int = 1) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.numbers, self.rank, self.world = numbers, rank, world

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in self.numbers:
            start = (number * self.world + self.rank) * self.batch_size
            yield [self._key(position) for position in range(start, start + self.batch_size)]

    def _key(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.samples)
        return epoch, int(self._permutation(epoch)[place])

    def _permutation(self, epoch: int) -> Array:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch, 11]).permutation(self.samples)
        return self._order


def collate(samples: Sequence[tuple[Array, Array, Array, str]]) -> Batch:
    """Stack samples into one `Batch`."""
    source, target, mask, names = zip(*samples, strict=True)
    tensors = (torch.from_numpy(np.stack(arrays)) for arrays in (source, target, mask))
    return Batch(*tensors, list(names))


def training_batches(samples: Samples, order: BatchOrder, workers: int) -> Iterator[Batch]:
    """Yield batches in the given order, decoded by `workers` processes (0: in this one).

    Raises `PictureError` for a picture that cannot be read.
    """
    try:
        yield from DataLoader(samples, batch_sampler=order, num_workers=workers, collate_fn=collate)
    except PictureError as error:  # a worker's has its whole traceback for a message
        raise PictureError(str(error).strip().rpartition("PictureError: ")[2]) from None


def validation_batches(samples: Samples, batch_size: int) -> Iterator[Batch]:
    """Yield the held-out samples once, in order."""
    for start in range(0, len(samples), batch_size):
        yield collate([samples[0, i] for i in range(start, min(start + batch_size, len(samples)))])
