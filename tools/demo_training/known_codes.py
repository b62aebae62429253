"""What the encoders of the demo learn from: for each task an input, and the face vector that it should lead to."""

from dataclasses import dataclass

import numpy as np
import torch
from drawings import Drawings
from torch import Tensor

from psp_runtime.tasks import Task
from psp_train.data.samples import degrade
from psp_train.drawn import faces
from psp_train.networks.psp import to_input

#: Super-resolution shrinks by one of these.
FACTORS = (1, 2, 4, 8, 16, 32)
RGB, LABEL, SKETCH = np.s_[..., :3], np.s_[..., 3], np.s_[..., 4:]


@dataclass(frozen=True)
class Examples:
    """A task on drawn faces; everything random follows from the seed given with the rows."""

    task: Task
    drawings: Drawings

    def inputs(self, rows: np.ndarray, seed: list[int]) -> Tensor:
        """The encoder's inputs [B,C,256,256]."""
        drawn = self.drawings.everything(rows)
        kinds = {"rgb": RGB, "labels": LABEL, "sketch": SKETCH}
        pixels = np.ascontiguousarray(drawn[kinds[self.task.input]])
        if self.task.name in ("super_resolution", "inpainting"):
            rng = np.random.default_rng(seed)
            pixels = np.stack([degrade(self.task, picture, rng, FACTORS) for picture in pixels])
        x = to_input(torch.from_numpy(pixels), self.task.input, self.task.channels)
        return x.contiguous(memory_format=torch.channels_last)

    def vectors(self, rows: np.ndarray) -> Tensor:
        """The face vectors [B,64] of what should come out."""
        z = self.drawings.vectors[rows]
        if self.task.name == "frontalization":
            z = np.stack([faces.with_parameters(row, yaw=0) for row in z])
        return torch.from_numpy(z)
