"""The training loop: pictures -> encoder -> frozen generator -> loss -> encoder weights (paper, section 3).

    BatchOrder + Samples -> Batch -> Renderer (encode, synthesize) -> Rendering -> Objective -> optimizer -> RunFolder

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
from psp_train.checkpoints.psp import checkpoint_dict
from psp_train.data.folders import FINGERPRINT_VERSION, fingerprint
from psp_train.data.samples import Batch, BatchOrder, training_batches
from psp_train.progress import Progress
from psp_train.recipes import Recipe
from psp_train.training.adversary import Adversary
from psp_train.training.build import Setup
from psp_train.training.distributed import Process, distribute, mean_over_processes
from psp_train.training.ranger import Ranger
from psp_train.training.renderer import Renderer
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings
from psp_train.training.validation import Board, validate

AMP = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """One process of a training."""

    def __init__(self, settings: Settings, setup: Setup, process: Process) -> None:
        self.settings, self.setup, self.process = settings, setup, process
        self.recipe, self.device = setup.recipe, process.device
        self.model = setup.model.to(self.device)
        self.objective = setup.objective.to(self.device)
        self.renderer = Renderer(setup, distribute(self.model.encoder, process)).to(self.device)
        if settings.compile:
            # e4e's number of trained offsets grows in a run: one program for all, not one for each up to a limit.
            torch._dynamo.config.allow_unspec_int_on_nn_module = True
            self.renderer.encoder.compile()
            self.renderer.decoder.compile()
        self.optimizer = make_optimizer(self.recipe, self.model.encoder)
        self.adversary: Adversary | None = None
        if self.objective.discriminator is not None:
            self.adversary = Adversary(self.objective.discriminator, self.model.decoder.map, self.recipe, process)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")
        self.folder = RunFolder(settings.out)
        self.best = float("inf")
        self.fingerprint = fingerprint(setup.training.files, setup.validation.files)

    def run(self) -> None:
        """Train from the run's last checkpoint (or from the start) to the recipe's last step.

        Raises `PspError` where the run cannot be continued, a number is not finite or a file cannot be written.
        """
        recipe, first = self.recipe, self.restore()
        batches = self.batches(first)
        size = recipe.batch_size * recipe.accumulate * self.process.world
        progress = Progress(f"training {recipe.task.name}", recipe.steps, first, "pictures", size)
        with progress, Board(self.folder.path, first, self.process.is_first) as board:
            for step in range(first + 1, recipe.steps + 1):
                loss, terms = self.step(step, batches)
                progress.advance(f"loss {loss:.4f}")
                self.after_step(step, {"loss": loss} | terms, board)

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield this process's batches from a step on, in the order of an uninterrupted run."""
        recipe, samples, process = self.recipe, self.setup.training, self.process
        numbers = range(first * recipe.accumulate, recipe.steps * recipe.accumulate)
        order = BatchOrder(len(samples), recipe.batch_size, recipe.seed, numbers, process.rank, process.world)
        return training_batches(samples, order, self.settings.workers)

    def step(self, step: int, batches: Iterator[Batch]) -> tuple[float, dict[str, float]]:
        """Take an optimizer step (of `accumulate` batches); return the loss and its terms, averaged."""
        self.model.encoder.train()
        self.model.encoder.deltas = self.recipe.deltas(step)
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
        if not (
            self.scaler.is_enabled() or self.gradients_are_finite()
        ):  # a scaler leaves out such a step, and scales down
            self.stop_at("gradient", step, files, sums)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        values = mean_over_processes(torch.stack(list(sums.values())), self.process).tolist()
        terms = dict(zip(sums, values, strict=True))
        return terms.pop("loss"), terms

    def backward(self, step: int, part: int, batch: Batch, last: bool) -> dict[str, torch.Tensor]:
        """Add the gradients of one batch, of ReStyle after each of its steps; the loss and its terms are averages.

        Processes exchange theirs at the last batch of an optimizer step.
        """
        encoder, sums, learned = self.renderer.encoder, dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        alone = nullcontext() if last or self.process.world == 1 else encoder.no_sync()
        renderings = self.renderer.renderings(batch.to(self.device), self.coins(step, part))
        with alone:
            for iteration in range(self.recipe.iterations):
                with torch.autocast(self.device.type, AMP[self.settings.amp], enabled=self.settings.amp != "none"):
                    rendering = next(renderings)
                    if self.adversary and iteration == 0:
                        learned["discriminator"] = self.adversary.learn(step, part, rendering.latents, rendering.deltas)
                    loss, terms = self.objective(rendering)
                if not torch.isfinite(loss):
                    self.stop_at("loss", step, batch.names, terms)
                self.scaler.scale(loss / self.recipe.accumulate).backward()
                for name, value in ({"loss": loss.detach()} | terms).items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value / self.recipe.iterations
        return sums | learned

    def coins(self, step: int, part: int) -> torch.Tensor | None:
        """Choose the styles that the mixing regulariser replaces, [B,L] of 0 or 1, by (seed, step, part, rank)."""
        if not self.recipe.mixing:
            return None
        rng = np.random.default_rng([self.recipe.seed, step, part, self.process.rank, 13])
        coins = rng.integers(0, 2, (self.recipe.batch_size, self.model.encoder.config.styles))
        return torch.from_numpy(coins).float().to(self.device)

    def gradients_are_finite(self) -> bool:
        """Tell whether all gradients are numbers; if not, the weights after this step would not be either."""
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
            f"the {what} is not finite at step {step}: {values}. {path} names the batch's files. If they are good, "
            f"start a new run from a checkpoint of this one (--init) with a lower --set learning_rate=…{hint}"
        )

    def after_step(self, step: int, line: dict[str, float], board: Board) -> None:
        """Do what is due after a step: a line of metrics, a validation, a checkpoint."""
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
        """Write a line of metrics of a split, "train" or "validation"."""
        extra = {"learning_rate": learning_rate(self.recipe, step), "seconds": round(time.time(), 2)}
        self.folder.log({"step": step, "split": split} | line | extra)
        board.scalars(step, split, line)

    def validate(self, step: int, board: Board) -> None:
        """Log losses and pictures of the held-out samples; keep the best checkpoint so far."""
        self.model.encoder.eval()
        # Compiling once more, for evaluation mode, costs more than it saves. Here, not as a decorator: that would
        # import the compiler, for seconds, with this module.
        with torch.compiler.set_stance("force_eager"):
            line, picture = validate(self.renderer, self.objective, self.setup, self.model, self.device)
        self.log(step, "validation", line, board)
        board.picture(step, picture)
        if line["loss"] < self.best:
            self.best = line["loss"]
            self.folder.save_best(self.checkpoint())

    def checkpoint(self) -> dict[str, Any]:
        """Arrange the model in the published layout."""
        return checkpoint_dict(self.model, self.recipe)

    def state(self, step: int) -> dict[str, Any]:
        """Collect what a checkpoint lacks. Position in the data and all randomness follow from step and seed."""
        adversary = {"adversary": self.adversary.state()} if self.adversary else {}
        return adversary | {
            "step": step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "world": self.process.world,
            "samples": self.fingerprint,
        }

    def restore(self) -> int:
        """Continue from the last saved step, if there is one; return it, or 0."""
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
        own = {key: value for key, value in checkpoint["state_dict"].items() if key.startswith("encoder.")}
        self.model.encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in own.items()})
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        if self.adversary:
            self.adversary.load(state["adversary"])

    def check_same(self, state: dict[str, Any], checkpoint: Path) -> None:
        """Raise `PspError` where the next batches would not be those of the run without a stop."""
        if state["world"] != self.process.world:
            raise PspError(
                f"{self.folder.path} was trained by {state['world']} processes, and now there are "
                f"{self.process.world}: the batches would differ. Start as many, or a new run with --init {checkpoint}"
            )
        samples = state.get("samples") or ""
        if samples.startswith(FINGERPRINT_VERSION) and samples != self.fingerprint:  # earlier states cannot say
            raise PspError(
                f"{self.folder.path} was trained on other samples: pictures were added, removed or renamed since, so "
                f"that others would be held out. Undo that, or start a new run with --init {checkpoint}"
            )


def make_optimizer(recipe: Recipe, encoder: nn.Module) -> torch.optim.Optimizer:
    """Make the recipe's optimizer: Ranger (paper, section 4) or Adam (the second description)."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(encoder.parameters(), lr=recipe.learning_rate)
    return Ranger(encoder.parameters(), lr=recipe.learning_rate)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the rate at a step (from 1): constant, then falling linearly to 0 over the last `decay` of the steps."""
    left = (recipe.steps - step + 1) / recipe.steps
    return recipe.learning_rate * (min(1.0, left / recipe.decay) if recipe.decay else 1.0)
