"""Train the encoder of a task over the demo generator.

    python tools/demo_training/encoder.py sketch --work runs/demo

Three stages, each from where the one before ended: `codes` (the code of every drawn face is known, and a step needs
no generator), `pictures` (squared error and edges at 128x128, from the generator's first layers), and `recipe` (the
losses of the paper, as `psp-train` has them, at 256x256). A stage leaves `TASK_STAGE.pt` in the work folder and is
skipped when that is there; stopped within a stage, the same command goes on from its `.state`. The last one also
writes `TASK.pt`, a checkpoint for `tools/pack_demo.py`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from command import training_parser
from drawings import HELD_OUT_SEED, Drawings
from known_codes import Examples
from loop import Training, run, save
from model import average_w, everywhere, load, render
from muon import Muon
from pictures import picture_loss, psnr, to_tensor
from style_distance import StyleDistance
from torch import Tensor, nn

from psp_runtime.tasks import get_task
from psp_train import demo
from psp_train.checkpoints.psp import checkpoint_dict
from psp_train.networks import PSP
from psp_train.networks.encoders import build_encoder
from psp_train.networks.stylegan2 import first_layers
from psp_train.recipes import make_recipe
from psp_train.training.objective import Objective, Rendering, demo_networks

TASKS = ("inversion", "frontalization", "sketch", "segmentation", "super_resolution", "inpainting")
TRAIN_FACES, HELD_OUT_FACES, REPORTED = 20_000, 500, 32
TORCH_SEED = 0
ADAM_RATE = 2e-3
#: Of the codes' distance beside the losses of pictures, and of edges beside squared errors.
CODES, EDGES = 0.1, 0.25
SMALL = 128


@dataclass(frozen=True)
class Stage:
    """Steps, faces in a step, and Muon's highest rate, as a share of the weights a matrix starts with."""

    steps: int
    batch: int
    rate: float


STAGES = {"codes": Stage(6000, 16, 0.02), "pictures": Stage(3000, 8, 0.01), "recipe": Stage(1500, 8, 0.003)}

#: Rows of faces, and the codes [B,L,S] found for them -> the loss.
Loss = Callable[[np.ndarray, Tensor], Tensor]


def main() -> None:
    parser = training_parser(__doc__, STAGES, TRAIN_FACES)
    parser.add_argument("task", choices=TASKS)
    options = parser.parse_args()
    if not (options.work / "generator_256.pt").is_file():
        parser.error(f"no generator_256.pt in {options.work}: train the generator first")
    steps = options.steps or [stage.steps for stage in STAGES.values()]
    Lesson(options.task, options.work, options.faces, options.device).teach(dict(zip(STAGES, steps, strict=True)))


class Lesson:
    """One task: its examples, the frozen generator, and the losses of the stages."""

    def __init__(self, task: str, work: Path, count: int, device: torch.device) -> None:
        self.task, self.work, self.device = get_task(task), work, device
        self.examples = Examples(self.task, Drawings(work, count))
        self.held_out = Examples(self.task, Drawings(work, HELD_OUT_FACES, HELD_OUT_SEED))
        self.generator = load(work / "generator_256.pt").half().float()  # as it will be packed
        average = average_w(self.generator)
        self.distance = StyleDistance(self.generator, average).to(device)
        self.generator.to(device)
        self.small = first_layers(self.generator, SMALL)
        self.latent_avg = everywhere(self.generator, average[None])[0].to(device)
        recipe = make_recipe(task)
        self.objective = Objective(recipe, demo_networks(recipe), self.latent_avg).to(device)

    def teach(self, steps: dict[str, int]) -> None:
        """All stages; the last one's moving average becomes the task's checkpoint."""
        torch.manual_seed(TORCH_SEED)
        encoder = build_encoder(demo.encoder_config(self.task.name)).to(self.device, memory_format=torch.channels_last)
        rms = {name: rms_of(p) for name, p in encoder.named_parameters()}  # of the start, for all stages
        for number, (name, stage) in enumerate(STAGES.items()):
            average = copy.deepcopy(encoder)
            optimizers = make_optimizers(encoder, stage.rate, rms)
            loss_of = self.loss_of(encoder, stage.batch, number, getattr(self, name))
            training = Training(encoder, average, optimizers, steps[name], loss_of, partial(self.report, average))
            run(training, self.work / f"{self.task.name}_{name}.pt")
            encoder = average
        self.store(encoder.eval())

    def loss_of(self, encoder: nn.Module, batch: int, number: int, loss: Loss) -> Callable[[int], Tensor]:
        """The loss of a step: seeded by the number of the stage and the step."""
        encoder.train()

        def of_step(step: int) -> Tensor:
            seed = [number, step]
            rows = np.random.default_rng(seed).choice(len(self.examples.drawings), batch, replace=False)
            return loss(rows, encoder(self.examples.inputs(rows, seed).to(self.device)) + self.latent_avg)

        return of_step

    def codes(self, rows: np.ndarray, codes: Tensor) -> Tensor:
        """How far the styles are from those of the face vectors."""
        w = self.generator.map(self.examples.vectors(rows).to(self.device))
        return self.distance(codes, everywhere(self.generator, w))

    def pictures(self, rows: np.ndarray, codes: Tensor) -> Tensor:
        """Squared error and edges of pictures at 128x128, and codes."""
        styles = self.small.config.styles
        loss = picture_loss(self.small(codes[:, :styles]), self.targets(rows, SMALL), EDGES)
        return loss + CODES * self.codes(rows, codes)

    def recipe(self, rows: np.ndarray, codes: Tensor) -> Tensor:
        """The loss of the task's recipe, and codes."""
        rendering = Rendering(self.generator(codes), self.targets(rows, 256), codes)
        return self.objective(rendering)[0] + CODES * self.codes(rows, codes)

    def targets(self, rows: np.ndarray, size: int) -> Tensor:
        """What should come out, [B,3,size,size]: the drawings; for another view, what the generator makes of it."""
        if self.task.name != "frontalization":
            return to_tensor(self.examples.drawings.pictures(rows, size)).to(self.device)
        with torch.no_grad():
            return render(self.generator if size == 256 else self.small, self.examples.vectors(rows).to(self.device))

    @torch.no_grad()
    def report(self, encoder: nn.Module) -> str:
        """Distance of codes and PSNR against the generator's own pictures, on held-out faces."""
        encoder.eval()
        rows = np.arange(REPORTED)
        codes = encoder(self.held_out.inputs(rows, [2]).to(self.device)) + self.latent_avg
        true = everywhere(self.generator, self.generator.map(self.held_out.vectors(rows).to(self.device)))
        styles = self.small.config.styles
        value = psnr(self.small(codes[:, :styles]), self.small(true[:, :styles])).mean()
        return f"held-out codes {self.distance(codes, true):.4f} PSNR to the generator's own {value:.2f} dB"

    def store(self, encoder: nn.Module) -> None:
        """Write the checkpoint of encoder, generator and recipe."""
        model = PSP(encoder.config, self.generator.config)
        model.encoder, model.decoder = encoder, self.generator
        model.latent_avg.copy_(self.latent_avg)
        save(checkpoint_dict(model, self.objective.recipe), self.work / f"{self.task.name}.pt")


def make_optimizers(encoder: nn.Module, rate: float, rms: dict[str, float]) -> list[torch.optim.Optimizer]:
    """Muon for convolutions and linear layers, each at its own scale, Adam for the rest."""
    matrices = [{"params": [p], "lr": rate * rms[name]} for name, p in encoder.named_parameters() if p.ndim > 1]
    rest = [p for p in encoder.parameters() if p.ndim == 1]
    return [Muon(matrices), torch.optim.Adam(rest, ADAM_RATE, betas=(0.9, 0.99))]


def rms_of(weight: Tensor) -> float:
    return float(weight.detach().square().mean().sqrt())


if __name__ == "__main__":
    main()
