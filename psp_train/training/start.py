"""From what a training was asked for to a running one: its recipe, its settings, its folder."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from psp_runtime.console import counted
from psp_runtime.errors import PspError
from psp_train import recipes
from psp_train.drawn.dataset import FACES
from psp_train.training import distributed
from psp_train.training.build import build
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings
from psp_train.training.trainer import Trainer


def train(settings: Settings, process: distributed.Process, new: bool) -> None:
    """Check everything, make the run's folder, train. Raises `PspError` for what is missing or wrong."""
    folder = RunFolder(settings.out)
    if new and process.is_first:
        folder.check_new()
    if not new and process.is_first and not folder.steps():
        warnings.warn(f"{settings.out} holds no checkpoint yet: it is trained from the first step on", stacklevel=1)
    with distributed.first_goes_first(process):
        setup = build(settings, read_label_maps=process.is_first)
    if process.is_first:
        warn_of_idle_heads(setup.recipe, setup.model.decoder.config.styles)
    Trainer(settings, setup, process).run()
    if process.is_first:
        print(what_next(settings.out))


def warn_of_idle_heads(recipe: recipes.Recipe, styles: int) -> None:
    """Warn where training ends before e4e's last offset has joined: its head stays as it was made."""
    needed = recipe.deltas_from + (styles - 2) * recipe.deltas_every
    if recipe.deltas_every and recipe.steps < needed:
        trained = recipe.deltas(recipe.steps) or 0
        warnings.warn(
            f"{recipe.steps} steps train {trained} of the {styles - 1} offsets, one more every {recipe.deltas_every} "
            f"steps from {recipe.deltas_from} on: give {needed} steps or more, or a lower --set deltas_from and "
            "deltas_every",
            stacklevel=1,
        )


def what_next(run: Path) -> str:
    """Name the files of a finished run, and the commands that use them."""
    folder = RunFolder(run)
    best = run / "best.pt"  # there once a validation was
    checkpoint = best if best.is_file() else folder.checkpoint(max(folder.steps()))
    files = f"{checkpoint}, {run / 'metrics.jsonl'}"
    return f"{files}\nnext: psp export --checkpoint {checkpoint} --fp16, psp train plot {run}"


def faces_needed(recipe: recipes.Recipe, held_out: int, world: int) -> int:
    """Count the faces a demo has to draw: one for each sample of its steps and those held out, at most FACES."""
    return min(FACES, held_out + recipe.steps * recipe.batch_size * recipe.accumulate * world)


def chosen_recipe(task: str | None, variant: str | None, demo: bool, overrides: dict[str, Any]) -> recipes.Recipe:
    """Make the recipe the options describe."""
    if task is None:
        raise PspError(f"give --task, one of {', '.join(recipes.RECIPES)}, or --resume RUN")
    return recipes.make_recipe(task, variant, (recipes.DEMO if demo else {}) | overrides)


#: Options that may stand beside --resume: they say how long, where and how loudly a run goes on, not what it trains.
CHANGEABLE = {"--resume", "--steps", "--set", "--device", "--quiet", "--verbose"}


def resumed_settings(run: Path, overrides: dict[str, Any], options: set[str]) -> Settings:
    """Read the settings of a run, with more steps where asked for. Raises `PspError` for other changes."""
    folder = RunFolder(run)
    settings = Settings.from_json(folder.settings())
    refused = sorted(options - CHANGEABLE) + sorted(set(overrides) - {"steps"})
    if refused:
        raise PspError(f"--resume continues a run as it was: only --steps can change, not {', '.join(refused)}")
    recipe, done = replace(settings.recipe, **overrides), max(folder.steps(), default=0)
    if recipe.steps < done:
        steps = counted(done, "step")
        raise PspError(f"--steps {recipe.steps}: {run} has done {steps} already, expected at least as many")
    return replace(settings, out=run, recipe=recipe)
