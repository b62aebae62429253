"""Fit the generator of the demo models: face vector in, drawn face out, the resolution doubling from stage to stage.

    python tools/demo_training/generator.py --work runs/demo

What a face vector means is learned at 16x16 and 32x32, where a step is cheap; the last stage trains its own layers
only, so that the 128x128 generator stays a part of the whole one. A stage leaves `generator_SIZE.pt` in the work
folder and is skipped when that is there; stopped within a stage, the same command goes on from its `.state`.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from command import training_parser
from drawings import HELD_OUT_SEED, Drawings
from loop import Training, run
from model import generator_at, mixed_codes, render
from muon import Muon
from pictures import picture_loss, psnr, to_tensor
from torch import Tensor, nn

from psp_train.networks import Generator

TRAIN_FACES, HELD_OUT_FACES, REPORTED = 20_000, 500, 64
TORCH_SEED = 0
#: Rates of weights with unit variance at the start, by Muon, and of everything else, by Adam.
ADAM_RATE, MAPPING_BIAS_RATE = 3e-3, 0.2
#: The mapping network's weights start 100 times larger (lr_mul 0.01), and so do their steps.
MAPPING_SCALE = 100


@dataclass(frozen=True)
class Stage:
    """Steps, pictures in a step, Muon's highest rate, and the weight of edges in the loss."""

    steps: int
    batch: int
    rate: float
    edges: float = 0.0


STAGES = {
    16: Stage(400, 32, 0.04),
    32: Stage(1200, 32, 0.03),
    64: Stage(2000, 16, 0.02),
    128: Stage(4000, 8, 0.015, edges=0.25),
    256: Stage(1000, 8, 0.015, edges=0.25),
}


def main() -> None:
    options = training_parser(__doc__, STAGES, TRAIN_FACES).parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    fit(options.work, Drawings(options.work, options.faces), options.device, options.steps)


def fit(work: Path, drawings: Drawings, device: torch.device, steps: list[int] | None = None) -> Generator:
    """All stages; the moving average of the last one."""
    held_out, average = Drawings(work, HELD_OUT_FACES, HELD_OUT_SEED), None
    for size, stage in stages(steps).items():
        torch.manual_seed(TORCH_SEED)  # a skipped stage must not change the next one
        model = generator_at(size, average).to(device)
        average = copy.deepcopy(model)
        if size == max(STAGES):
            freeze_smaller(model)
        run(training(model, average, stage, drawings, held_out), work / f"generator_{size}.pt")
    return average


def stages(steps: list[int] | None) -> dict[int, Stage]:
    """The stages by size, with other numbers of steps where given."""
    counts = steps or [stage.steps for stage in STAGES.values()]
    return {size: replace(stage, steps=count) for (size, stage), count in zip(STAGES.items(), counts, strict=True)}


def freeze_smaller(generator: Generator) -> None:
    """Leave only the layers of the last resolution trainable."""
    generator.requires_grad_(False)
    for layer in (*generator.convs[-2:], generator.to_rgbs[-1]):
        layer.requires_grad_(True)


def training(model, average, stage: Stage, drawings: Drawings, held_out: Drawings) -> Training:
    size, device = model.config.size, model.input.input.device
    z, seen = (torch.from_numpy(part.vectors).to(device) for part in (drawings, held_out))

    def drawn(part: Drawings, rows) -> Tensor:
        return to_tensor(part.pictures(rows, size)).to(device)

    def loss_of(step: int) -> Tensor:
        rows = np.random.default_rng([size, step]).choice(len(drawings), stage.batch, replace=False)
        return picture_loss(model(mixed_codes(model, z[rows])), drawn(drawings, rows), stage.edges)

    def report() -> str:
        with torch.no_grad():
            image = render(average, seen[:REPORTED])
        return f"held-out PSNR {psnr(image, drawn(held_out, np.arange(REPORTED))).mean():.2f} dB"

    return Training(model, average, optimizers(model, stage.rate), stage.steps, loss_of, report)


def optimizers(model: Generator, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of mapping, modulation and convolution, Adam for the rest."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and "noise" not in name}
    matrices = {name: p for name, p in trained.items() if is_matrix(p)}
    rest = {name: p for name, p in trained.items() if name not in matrices}
    return [
        Muon(groups(matrices, rate, MAPPING_SCALE * rate)),
        torch.optim.Adam(groups(rest, ADAM_RATE, MAPPING_BIAS_RATE), betas=(0.9, 0.99)),
    ]


def is_matrix(weight: nn.Parameter) -> bool:
    """Whether Muon trains it: linear layers and 3x3 convolutions; not ToRGB, the constant start and biases."""
    return weight.ndim == 2 or (weight.ndim == 5 and weight.shape[-1] == 3)


def groups(named: dict[str, nn.Parameter], rate: float, mapping_rate: float) -> list[dict]:
    return [{"params": [p], "lr": mapping_rate if name.startswith("style.") else rate} for name, p in named.items()]


if __name__ == "__main__":
    main()
