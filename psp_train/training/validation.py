"""Held-out losses, and what training looks like: picture grids, and TensorBoard where it is installed."""

from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.previews import preview
from psp_train.data.samples import Batch, validation_batches
from psp_train.networks import PSP
from psp_train.networks.psp import fed_back, to_input, to_picture
from psp_train.training.build import Setup
from psp_train.training.objective import Objective
from psp_train.training.renderer import Renderer

#: Samples in a grid.
SHOWN = 8


@torch.no_grad()
def validate(
    renderer: Renderer, objective: Objective, setup: Setup, model: PSP, device: torch.device
) -> tuple[dict[str, float], np.ndarray]:
    """Average loss and terms over the held-out samples, and make a grid of the first ones (uint8 [H,W,3]).

    The encoder must be in eval mode. Terms are in FP32; the mixing regulariser is not evaluated.
    """
    sums: dict[str, float] = {}
    count, picture = 0, None
    for batch in validation_batches(setup.validation, setup.recipe.batch_size):
        batch = batch.to(device)
        loss, terms = objective(renderer(batch))
        for name, value in ({"loss": loss} | terms).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(batch.names)
        count += len(batch.names)
        picture = grid(model, batch, setup) if picture is None else picture
    return {name: value / count for name, value in sums.items()}, picture


def grid(model: PSP, batch: Batch, setup: Setup) -> np.ndarray:
    """Make a grid of a batch, uint8 [3*256,B*256,3]: its inputs, targets and outputs, a row each."""
    task = setup.training.task
    x = to_input(batch.source[:SHOWN], task.input, model.encoder.config.input_channels)
    if model.encoder.config.refines:
        *_, (_, picture) = model.refine(x, setup.recipe.iterations)
    else:
        picture, _ = model(x)
    output = to_picture(fed_back(picture.float(), x))
    rows = preview(batch.source[:SHOWN].cpu().numpy(), task.input), batch.target[:SHOWN].cpu().numpy()
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (*rows, output.cpu().numpy())])


class Board:
    """TensorBoard scalars and pictures, and the pictures as files; does nothing where `active` is false."""

    def __init__(self, run: Path, first: int, active: bool = True) -> None:
        self.folder, self.active = run / "pictures", active
        self.writer = _writer(run / "tensorboard", first) if active else None

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.writer:
            self.writer.close()

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """Show losses of a split in TensorBoard."""
        for name, value in values.items():
            if self.writer:
                self.writer.add_scalar(f"{name}/{split}", value, step)

    def picture(self, step: int, pixels: np.ndarray) -> None:
        """Keep a grid, uint8 [H,W,3], as pictures/step_N.png and for TensorBoard."""
        self.folder.mkdir(exist_ok=True)
        save(pixels, self.folder / f"step_{step:08}.png")
        if self.writer:
            self.writer.add_image("held out: input, target, output", pixels, step, dataformats="HWC")


def _writer(folder: Path, first: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # optional: metrics.jsonl and pictures/ hold the same
        return None
    return SummaryWriter(str(folder), purge_step=first + 1)
