"""`psp-train`: train an encoder, resume a training, draw its curves, make sketches."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from psp_runtime import console
from psp_runtime.console import Device
from psp_runtime.errors import PspError
from psp_train import recipes
from psp_train.training import distributed
from psp_train.training.build import build
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Precision, Settings
from psp_train.training.trainer import Trainer

app = console.new_app()


def main() -> NoReturn:
    """Run the `psp-train` command."""
    console.run(app)


@app.callback(invoke_without_command=True, no_args_is_help=True)
def psp_train(
    context: typer.Context,
    task: Annotated[str | None, typer.Option(help=f"One of {', '.join(recipes.RECIPES)}.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of input pictures and sub-folders. With --demo: where to draw faces.")
    ] = None,
    target: Annotated[Path | None, typer.Option(help="Folder of the inputs' faces, paired by name.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of the faces' label maps, for --set mask=labels.")] = None,
    generator: Annotated[Path | None, typer.Option(help="StyleGAN2 checkpoint (.pt) to train an encoder for.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of the published networks that losses need.")] = None,
    init: Annotated[Path | None, typer.Option(help="pSp checkpoint (.pt) whose encoder to start from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the new run.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue a run where it stopped.")] = None,
    demo: Annotated[bool, typer.Option(help="Train on drawn faces: no data, no downloads.")] = False,
    variant: Annotated[str | None, typer.Option(help=f"Another encoder, of {', '.join(recipes.VARIANTS)}.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to train; with --resume, in total.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the recipe; repeatable.")
    ] = None,
    held_out: Annotated[int, typer.Option(min=1, help="Samples kept for validation.")] = Settings.held_out,
    amp: Annotated[Precision, typer.Option(help="Mixed precision.")] = Settings.amp,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the networks with torch.compile.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures.")] = Settings.workers,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of metrics.jsonl.")] = Settings.log_every,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = Settings.validate_every,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = Settings.save_every,
    device: Annotated[Device, typer.Option(help="auto: the GPU where there is one.")] = "auto",
) -> None:
    """Train a pSp encoder for a task over a frozen StyleGAN2.

    Many GPUs: `torchrun --nproc-per-node 8 -m psp_train ...` with the same options.
    """
    if context.invoked_subcommand:
        return
    overrides = recipes.parse_overrides(set_ or []) | ({"steps": steps} if steps else {})
    with distributed.joined(device) as process:
        if resume:
            settings = resumed_settings(resume, overrides, given_options(context))
        else:
            recipe = chosen_recipe(task, variant, demo, overrides)
            if demo:
                check_demo(given_options(context))
            if masks and recipe.mask != "labels":
                raise PspError(f"--masks are for --set mask=labels, but the recipe has mask={recipe.mask}")
            files = dict(data=data, target=target, masks=masks, generator=generator, weights=weights, init=init)
            how = dict(held_out=held_out, amp=amp, compile=compile_, workers=workers, demo=demo)
            every = dict(log_every=log_every, validate_every=validate_every, save_every=save_every)
            settings = Settings(recipe, _needed(out), **files, **how, **every)
        train(settings, process, new=resume is None)


def train(settings: Settings, process: distributed.Process, new: bool) -> None:
    """Check everything, make the run's folder, train. Raises `PspError` for what is missing or wrong."""
    folder = RunFolder(settings.out)
    if new and process.is_first:
        folder.check_new()
    with distributed.first_goes_first(process):
        setup = build(settings, read_label_maps=process.is_first)
    Trainer(settings, setup, process).run()


def chosen_recipe(task: str | None, variant: str | None, demo: bool, overrides: dict[str, Any]) -> recipes.Recipe:
    """Make the recipe the options describe."""
    if task is None:
        raise PspError(f"give --task, one of {', '.join(recipes.RECIPES)}, or --resume RUN")
    return recipes.make_recipe(task, variant, (recipes.DEMO if demo else {}) | overrides)


#: What a demo brings along: its generator, the networks of its losses, its pictures.
BUNDLED = {"--generator", "--weights", "--target", "--masks"}


def check_demo(options: set[str]) -> None:
    """Raise `PspError` for options that --demo would leave unused."""
    if refused := sorted(options & BUNDLED):
        raise PspError(f"--demo brings its own pictures and networks: leave out {', '.join(refused)}, or --demo")


def resumed_settings(run: Path, overrides: dict[str, Any], options: set[str]) -> Settings:
    """Read the settings of a run, with more steps where asked for. Raises `PspError` for other changes."""
    folder = RunFolder(run)
    settings = Settings.from_json(folder.settings())
    refused = sorted(options - {"--resume", "--steps", "--set", "--device"}) + sorted(set(overrides) - {"steps"})
    if refused:
        raise PspError(f"--resume continues a run as it was: only --steps can change, not {', '.join(refused)}")
    recipe, done = replace(settings.recipe, **overrides), max(folder.steps(), default=0)
    if recipe.steps < done:
        raise PspError(f"--steps {recipe.steps}: {run} has done {done} steps already, expected at least as many")
    return replace(settings, out=run, recipe=recipe)


def given_options(context: typer.Context) -> set[str]:
    """Name the options that stand on the command line."""
    sources = {option.opts[0]: context.get_parameter_source(option.name or "") for option in context.command.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _needed(out: Path | None) -> Path:
    if out is None:
        raise PspError("give --out, the folder of the new run")
    return out


@app.command()
def plot(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Draw the curves of a run as RUN/curves.png."""
    from psp_train.training import curves  # matplotlib is slow to import

    print(curves.plot(run))


@app.command()
def sketches(
    faces: Annotated[Path, typer.Argument(help="Folder of photos, sub-folders too.")],
    out: Annotated[Path, typer.Argument(help="Folder of the sketches.")],
) -> None:
    """Make pencil sketches of photos, the inputs of the sketch task."""
    from psp_train.data.sketches import make_sketches

    if make_sketches(faces, out):
        raise typer.Exit(1)
