"""The training loop: pictures -> encoder -> frozen generator -> loss -> encoder weights (paper, section 3).

    BatchOrder + Samples -> Batch -> Renderer (encode, synthesize, objective) -> optimizer -> RunFolder

Everything random is a function of (seed, step): a run killed at any step and resumed computes the same losses on a
CPU as one that was never stopped.
"""

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from psp_runtime.disk import replacing
from psp_runtime.errors import PspError
from psp_runtime.tasks import INPUT_SIZE
from psp_train.checkpoints.psp import checkpoint_dict
from psp_train.data.folders import FINGERPRINT_VERSION, fingerprint
from psp_train.data.samples import Batch, BatchOrder, training_batches
from psp_train.losses.distances import pool
from psp_train.networks.psp import mix, to_input
from psp_train.networks.stylegan2 import first_layers
from psp_train.progress import Progress
from psp_train.recipes import Recipe
from psp_train.training.build import Setup
from psp_train.training.distributed import Process, distribute, mean_over_processes
from psp_train.training.objective import Rendering, inner_face_mask
from psp_train.training.ranger import Ranger
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings
from psp_train.training.validation import Board, validate

AMP = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Renderer(nn.Module):
    """One forward pass: a batch -> what the loss compares."""

    def __init__(self, setup: Setup, encoder: nn.Module) -> None:
        super().__init__()
        recipe, decoder = setup.recipe, setup.model.decoder
        self.recipe, self.task = recipe, recipe.task
        self.channels = setup.model.encoder.config.input_channels
        self.encoder = encoder
        self.decoder = first_layers(decoder, recipe.render_size) if recipe.render_size else decoder
        # Losses compare pictures of at most the input's size: larger outputs are averaged down (released code).
        self.styles, self.size = self.decoder.config.styles, min(self.decoder.config.size, INPUT_SIZE)
        self.register_buffer("latent_avg", setup.model.latent_avg.clone(), persistent=False)

    def forward(self, batch: Batch, alpha: torch.Tensor | None = None) -> Rendering:
        """Encode, synthesize, and bring the target to the output's size.

        `alpha` [B,L]: also render with each style replaced, as far, by that of the sample before.
        """
        x = to_input(batch.source, self.task.input, self.channels).contiguous(memory_format=torch.channels_last)
        latents = self.encoder(x).float() + self.latent_avg
        target = pool(to_input(batch.target, "rgb", 3), self.size)
        mixed = None if alpha is None else self.synthesize(mix(latents, latents.roll(1, dims=0), alpha))
        return Rendering(self.synthesize(latents), target, latents, self.mask(batch, target), mixed)

    def synthesize(self, latents: torch.Tensor) -> torch.Tensor:
        """latents [B,L,S] -> pictures [B,3,H,W] at the size the losses compare."""
        return pool(self.decoder(latents[:, : self.styles]).float(), self.size)

    def mask(self, batch: Batch, target: torch.Tensor) -> torch.Tensor | None:
        """Where the losses look, [B,1,H,W]; None: everywhere."""
        if self.recipe.mask == "labels":
            return pool(batch.mask[:, None].float(), self.size)
        return inner_face_mask(target) if self.recipe.mask == "crop" else None


class Trainer:
    """One process of a training."""

    def __init__(self, settings: Settings, setup: Setup, process: Process) -> None:
        self.settings, self.setup, self.process = settings, setup, process
        self.recipe, self.device = setup.recipe, process.device
        self.model = setup.model.to(self.device)
        self.objective = setup.objective.to(self.device)
        self.renderer = Renderer(setup, distribute(self.model.encoder, process)).to(self.device)
        if settings.compile:
            self.renderer.encoder.compile()
            self.renderer.decoder.compile()
        self.optimizer = make_optimizer(self.recipe, self.model.encoder)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")
        self.folder = RunFolder(settings.out)
        self.best = float("inf")
        self.fingerprint = fingerprint(setup.training.files, setup.validation.files)

    def run(self) -> None:
        """Train from the run's last checkpoint (or from the start) to the recipe's last step."""
        recipe, first = self.recipe, self.restore()
        batches = self.batches(first)
        size = recipe.batch_size * recipe.accumulate * self.process.world
        progress = Progress(f"training {recipe.task.name}", recipe.steps, first, "pictures", size)
        with progress, Board(self.folder.path, first, self.process.is_first) as board:
            for step in range(first + 1, recipe.steps + 1):
                loss, terms = self.step(step, batches)
                progress.advance(f"loss {loss:.4f}")
                self.after(step, {"loss": loss} | terms, board)

    def batches(self, first: int) -> Iterator[Batch]:
        """This process's batches from a step on, in the order of an uninterrupted run."""
        recipe, samples, process = self.recipe, self.setup.training, self.process
        numbers = range(first * recipe.accumulate, recipe.steps * recipe.accumulate)
        order = BatchOrder(len(samples), recipe.batch_size, recipe.seed, numbers, process.rank, process.world)
        return training_batches(samples, order, self.settings.workers)

    def step(self, step: int, batches: Iterator[Batch]) -> tuple[float, dict[str, float]]:
        """One optimizer step (of `accumulate` batches); returns the loss and its terms, averaged."""
        self.model.encoder.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        files: list[str] = []
        for part in range(self.recipe.accumulate):
            last = part == self.recipe.accumulate - 1
            batch = next(batches)
            files += batch.names
            for name, value in self.backward(step, part, batch, last).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / self.recipe.accumulate
        if not (self.scaler.is_enabled() or self.finite()):  # a scaler leaves out such a step, and scales down
            self.stop_at("gradient", step, files, sums)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        values = mean_over_processes(torch.stack(list(sums.values())), self.process).tolist()
        terms = dict(zip(sums, values, strict=True))
        return terms.pop("loss"), terms

    def backward(self, step: int, part: int, batch: Batch, last: bool) -> dict[str, torch.Tensor]:
        """Add the gradients of one batch; processes exchange theirs at the last one of a step."""
        encoder = self.renderer.encoder
        alone = nullcontext() if last or self.process.world == 1 else encoder.no_sync()
        moved = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch[:3]), batch.names)
        with alone:
            with torch.autocast(self.device.type, AMP[self.settings.amp], enabled=self.settings.amp != "none"):
                loss, terms = self.objective(self.renderer(moved, self.coins(step, part)))
            if not torch.isfinite(loss):
                self.stop_at("loss", step, batch.names, terms)
            self.scaler.scale(loss / self.recipe.accumulate).backward()
        return {"loss": loss.detach()} | terms

    def coins(self, step: int, part: int) -> torch.Tensor | None:
        """Which styles the mixing regulariser replaces [B,L]: coin flips of (seed, step, part, rank)."""
        if not self.recipe.mixing:
            return None
        rng = np.random.default_rng([self.recipe.seed, step, part, self.process.rank, 13])
        coins = rng.integers(0, 2, (self.recipe.batch_size, self.model.encoder.config.styles))
        return torch.from_numpy(coins).float().to(self.device)

    def finite(self) -> bool:
        """Whether all gradients are numbers; if not, the next step's weights, and the checkpoint of them, are none."""
        gradients = [p.grad for p in self.model.encoder.parameters() if p.grad is not None]
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))

    def stop_at(self, what: str, step: int, files: list[str], terms: dict[str, torch.Tensor]) -> NoReturn:
        """Save what led to a loss or gradient that is not a number, and stop."""
        path = self.folder.path / f"not_finite_{step:08}.json"
        values = {name: str(float(value)) for name, value in terms.items()}
        with replacing(path) as file:
            file.write(json.dumps({"step": step, "terms": values, "files": files}, indent=1).encode())
        hint = "" if self.settings.amp == "none" else f", or without --amp {self.settings.amp}"
        raise PspError(
            f"the {what} is not finite at step {step}: {values}. The batch's files are in {path}. If those are as they "
            f"should be, start a new run, --init a checkpoint of this one, with a lower --set learning_rate=…{hint}"
        )

    def after(self, step: int, line: dict[str, float], board: Board) -> None:
        """What is due after a step: a line of metrics, a validation, a checkpoint."""
        if not self.process.is_first:
            return
        settings, end = self.settings, step == self.recipe.steps
        if step % settings.log_every == 0 or end:
            self.log(step, "train", line, board)
        if step % settings.validate_every == 0 or end:
            self.validate(step, board)
        if step % settings.save_every == 0 or end:
            self.folder.save(step, self.checkpoint(), self.state(step))

    def log(self, step: int, split: str, line: dict[str, float], board: Board) -> None:
        extra = {"learning_rate": learning_rate(self.recipe, step), "seconds": round(time.time(), 2)}
        self.folder.log({"step": step, "split": split} | line | extra)
        board.scalars(step, split, line)

    def validate(self, step: int, board: Board) -> None:
        """Losses and pictures of the held-out samples; the best checkpoint so far is kept."""
        self.model.encoder.eval()
        line, picture = validate(self.renderer, self.objective, self.setup, self.model, self.device)
        self.log(step, "validation", line, board)
        board.picture(step, picture)
        if line["loss"] < self.best:
            self.best = line["loss"]
            self.folder.save_best(self.checkpoint())

    def checkpoint(self) -> dict[str, Any]:
        return checkpoint_dict(self.model, self.recipe)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint lacks. The position in the data and all randomness follow from step and seed."""
        return {
            "step": step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "world": self.process.world,
            "samples": self.fingerprint,
        }

    def restore(self) -> int:
        """Continue from the last saved step, if there is one; returns it."""
        step = max(self.folder.steps(), default=0)
        if step:
            self.load(step)
        if self.process.is_first:  # only now: a run that cannot go on is left as it is
            self.folder.create(self.settings.to_json())  # of a resumed run too: it may have been given more steps
            self.folder.rewind(step)
        return step

    def load(self, step: int) -> None:
        """Take over weights and state of a saved step."""
        checkpoint, state = self.folder.load(step)
        self.check_same(state, self.folder.checkpoint(step))
        encoder = {k.removeprefix("encoder."): v for k, v in checkpoint["state_dict"].items() if k[:8] == "encoder."}
        self.model.encoder.load_state_dict(encoder)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]

    def check_same(self, state: dict[str, Any], checkpoint: Path) -> None:
        """Raises `PspError` where the next batches would not be those of the run without a stop."""
        if state["world"] != self.process.world:
            raise PspError(
                f"{self.folder.path} was trained by {state['world']} processes, these are {self.process.world}: the "
                f"batches would differ. Start as many, or a new run with --init {checkpoint}"
            )
        samples = state.get("samples") or ""
        if samples.startswith(FINGERPRINT_VERSION) and samples != self.fingerprint:  # earlier states cannot say
            raise PspError(
                f"{self.folder.path} was trained on other samples: pictures were added, removed or renamed since, and "
                f"others would be held out. Undo that, or start a new run with --init {checkpoint}"
            )


def make_optimizer(recipe: Recipe, encoder: nn.Module) -> torch.optim.Optimizer:
    """Ranger (paper, section 4) or Adam (the second description)."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(encoder.parameters(), lr=recipe.learning_rate)
    return Ranger(encoder.parameters(), lr=recipe.learning_rate)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Constant, then falling linearly to zero over the last `decay` share of the steps. Steps count from 1."""
    left = (recipe.steps - step + 1) / recipe.steps
    return recipe.learning_rate * (min(1.0, left / recipe.decay) if recipe.decay else 1.0)
