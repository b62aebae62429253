"""`psp-train`: train an encoder, resume a training, draw its curves, make sketches."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from psp_runtime import console
from psp_runtime.console import Device
from psp_runtime.errors import PspError
from psp_train import recipes
from psp_train.requirements import obstacle
from psp_train.training.settings import Precision, Settings

app = console.new_app(cls=console.Group)


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
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the new run.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue a run where it stopped.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Train on drawn faces: no data, no downloads.")] = False,
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
    if reason := obstacle("psp-train"):
        raise PspError(reason)
    from psp_train.training import distributed, start  # PyTorch takes seconds to import

    overrides = recipes.parse_overrides(set_ or []) | ({"steps": steps} if steps else {})
    with distributed.joined(device) as process:
        if resume:
            settings = start.resumed_settings(resume, overrides, given_options(context))
        else:
            recipe = start.chosen_recipe(task, variant, demo, overrides)
            if demo:
                start.check_demo(given_options(context))
            if masks and recipe.mask != "labels":
                raise PspError(f"--masks are for --set mask=labels, but the recipe has mask={recipe.mask}")
            files = dict(data=data, target=target, masks=masks, generator=generator, weights=weights, init=init)
            how = dict(held_out=held_out, amp=amp, compile=compile_, workers=workers, demo=demo)
            how |= dict(faces=start.faces_needed(recipe, held_out, process.world))
            every = dict(log_every=log_every, validate_every=validate_every, save_every=save_every)
            settings = Settings(recipe, _needed(out), **files, **how, **every)
        start.train(settings, process, new=resume is None)


def given_options(context: typer.Context) -> set[str]:
    """Name the options that stand on the command line."""
    sources = {option.opts[0]: context.get_parameter_source(option.name or "") for option in context.command.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _needed(out: Path | None) -> Path:
    if out is None:
        raise PspError("give --out, the folder of the new run")
    return out


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
