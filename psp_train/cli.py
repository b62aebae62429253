"""`psp-train`: train an encoder, resume a training, draw its curves, make sketches."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from psp_runtime import console
from psp_runtime.console import HOW, INPUT, SAVE, WHERE, Device, Talk, option
from psp_runtime.errors import PspError
from psp_train import recipes
from psp_train.requirements import obstacle
from psp_train.training.settings import Settings, Setup

#: What a demo brings along: its generator, the networks of its losses, its pictures.
BUNDLED = {"--generator", "--class", "--weights", "--target", "--masks"}

app = console.new_app(cls=console.Group)


def main() -> NoReturn:
    """Run the `psp-train` command."""
    console.run(app)


@dataclass(frozen=True, kw_only=True)
class What:
    """What is trained, as a recipe is chosen by it."""

    task: Annotated[str | None, option(INPUT, f"One of {', '.join(recipes.RECIPES)}.")] = None
    variant: Annotated[str | None, option(HOW, f"Encoder: {', '.join(recipes.VARIANTS)}.")] = None
    steps: Annotated[int | None, option(HOW, "Steps to train; with --resume, in total.", min=1)] = None
    set_: Annotated[
        list[str] | None, option(HOW, "Change a value of the recipe; repeatable.", "--set", metavar="NAME=VALUE")
    ] = None
    out: Annotated[Path | None, option(SAVE, "Folder of the new run.", "--out", "-o")] = None
    resume: Annotated[Path | None, option(SAVE, "Continue a run where it stopped.", metavar="RUN")] = None


@dataclass(frozen=True, kw_only=True)
class Train(Talk, Setup, What):
    """Train a pSp encoder for a task over a frozen StyleGAN2.
    Many GPUs: `torchrun --nproc-per-node 8 -m psp_train ...` with the same options.
    """

    context: typer.Context
    device: Annotated[Device, option(WHERE, "auto: the GPU where there is one.")] = "auto"

    @property
    def given(self) -> set[str]:
        """The options that stand on the command line."""
        of = self.context.get_parameter_source
        sources = {one.opts[0]: of(one.name or "") for one in self.context.command.params}
        return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}

    @property
    def overrides(self) -> dict[str, Any]:
        """The values of the recipe to change."""
        return recipes.parse_overrides(self.set_ or []) | ({"steps": self.steps} if self.steps else {})


def psp_train(asked: Train) -> None:
    """Start or resume a training, unless another command follows."""
    if asked.context.invoked_subcommand:
        return
    if reason := obstacle("psp-train"):
        raise PspError(reason)
    from psp_train.training import distributed, start  # PyTorch takes seconds to import

    overrides = asked.overrides
    with distributed.joined(asked.device) as process:
        if asked.resume:
            settings = start.resumed_settings(asked.resume, overrides, asked.given)
        else:
            recipe = start.chosen_recipe(asked.task, asked.variant, asked.demo, overrides)
            settings = _new_settings(asked, recipe, start.faces_needed(recipe, asked.held_out, process.world))
        start.train(settings, process, new=asked.resume is None)


def _new_settings(asked: Train, recipe: recipes.Recipe, faces: int) -> Settings:
    if asked.demo and (refused := sorted(asked.given & BUNDLED)):
        raise PspError(f"--demo brings its own pictures and networks: leave out {', '.join(refused)}, or --demo")
    if asked.masks and recipe.mask != "labels":
        raise PspError(f"--masks are for --set mask=labels, but the recipe has mask={recipe.mask}")
    if asked.out is None:
        raise PspError("give --out, the folder of the new run")
    return Settings(recipe, asked.out, faces, **{one.name: getattr(asked, one.name) for one in fields(Setup)})


app.callback(invoke_without_command=True, no_args_is_help=True)(console.as_command(Train, psp_train))


@app.command(cls=console.Command)
def plot(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Draw the curves of a run as RUN/curves.png."""
    from psp_train.training import curves  # matplotlib is slow to import

    print(curves.plot(run))


@app.command(cls=console.Command)
def sketches(
    faces: Annotated[Path, typer.Argument(help="Folder of photos, sub-folders too.")],
    out: Annotated[Path, typer.Argument(help="Folder of the sketches.")],
) -> None:
    """Make pencil sketches of photos, the inputs of the sketch task."""
    from psp_train.data.sketches import make_sketches

    if make_sketches(faces, out):
        raise typer.Exit(1)
