"""`psp-run`: pictures through an engine."""

import re
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from psp_runtime import console
from psp_runtime.console import Device
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.session import open_session
from psp_runtime.errors import PspError
from psp_runtime.pipeline import Pipeline
from psp_runtime.prefetch import MOST_THREADS, THREADS
from psp_runtime.run.execution import Run
from psp_runtime.run.find_direction import find_direction as learn_direction
from psp_runtime.run.info import describe
from psp_runtime.run.options import LOCAL_RAY, Options
from psp_runtime.run.plan import Plan, make_plan

INPUT, MAKE, SAVE = "Change the input", "Make of each input (one of)", "Save"

#: Of --size: two such pictures side by side are as wide as a WebP can be, 16383.
MOST_PIXELS = 8191
#: Of --batch: no engine takes so many.
MOST_BATCH = 10_000
#: What follows --ray if it is an address and not a picture.
_RAY_ADDRESS = re.compile(rf"ray://.+|auto|{LOCAL_RAY}|[\w.-]+:\d+")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Format(str, Enum):
    """What pictures are written as where their names do not say."""

    png = "png"
    jpg = "jpg"
    webp = "webp"


def main() -> NoReturn:
    """The `psp-run` command."""
    sys.argv[1:] = _with_ray_address(sys.argv[1:])
    console.run(app)


def _with_ray_address(arguments: list[str]) -> list[str]:
    """--ray may stand alone, which typer does not allow an option with a value."""
    following = [*arguments[1:], ""]
    return [
        f"--ray={LOCAL_RAY}" if one == "--ray" and not _RAY_ADDRESS.fullmatch(after) else one
        for one, after in zip(arguments, following)
    ]


@app.command(no_args_is_help=True)
def psp_run(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUTS", help="Pictures, and folders of them.")] = None,
    engine: Annotated[Path | None, typer.Option(help="The engine to run: .onnx or .trt.")] = None,
    url: Annotated[
        str | None, typer.Option(metavar="http://HOST:PORT", help="Instead of --engine: one that psp-serve runs.")
    ] = None,
    latents: Annotated[
        Path | None, typer.Option(help="Instead of pictures: saved W+ latents, LATENTS.npy or a folder of them.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="The output's name (for a single picture), or a folder (default: here).")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="auto: the GPU if the engine can use it here, else the CPU.")
    ] = Device.auto,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_BATCH, help="Pictures per inference (default: the engine's maximum; on a CPU 1)."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_THREADS, help=f"Threads that read pictures, and as many that write (default: {THREADS})."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="Deal folders out to a Ray cluster; without ADDRESS, to this machine."),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="--ray: workers (default: one per GPU; without GPUs, one per machine).")
    ] = None,
    info: Annotated[Path | None, typer.Option(metavar="ENGINE", help="Print what an engine says about itself.")] = None,
    downsample: Annotated[
        int | None, typer.Option(help="Super-resolution: shrink good pictures by this.", rich_help_panel=INPUT)
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(help="Inpainting: hide the `triangle`, or what is white in MASK.png.", rich_help_panel=INPUT),
    ] = None,
    sketch_from_photo: Annotated[
        bool, typer.Option("--sketch-from-photo", help="Sketch: draw photos in pencil.", rich_help_panel=INPUT)
    ] = False,
    mix: Annotated[
        int | None, typer.Option(metavar="N", help="N faces, each with a random style mixed in.", rich_help_panel=MAKE)
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Pictures on the way to another one.", rich_help_panel=MAKE)
    ] = None,
    style_of: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="The colours of another picture.", rich_help_panel=MAKE)
    ] = None,
    edit: Annotated[
        Path | None, typer.Option(metavar="DIRECTION.npy", help="Move along a direction.", rich_help_panel=MAKE)
    ] = None,
    swap: Annotated[
        str | None, typer.Option(metavar="OLD=NEW", help="Before and after class OLD is NEW.", rich_help_panel=MAKE)
    ] = None,
    find_direction: Annotated[
        Path | None,
        typer.Option(metavar="LABELS.csv", help="Learn a direction from picture,0-or-1 rows.", rich_help_panel=MAKE),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="--mix: which styles (0).", rich_help_panel=MAKE)] = None,
    psi: Annotated[
        float | None, typer.Option(help="--mix: truncation, 1 (none) to 0 (average face).", rich_help_panel=MAKE)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="--to: pictures, ends included (9).", rich_help_panel=MAKE)] = None,
    strength: Annotated[
        str | None, typer.Option(help="--edit: 1.5, or -1,0,2, or FROM:TO:STEPS (1).", rich_help_panel=MAKE)
    ] = None,
    mix_layers: Annotated[
        str | None, typer.Option(help="Layers to mix or edit: 8-13, 4,6 or 8- (the task's).", rich_help_panel=MAKE)
    ] = None,
    mix_alpha: Annotated[
        float | None, typer.Option(help="How much to mix, 0 to 1 (the task's).", rich_help_panel=MAKE)
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="Of outputs that --out does not name (png).", rich_help_panel=SAVE)
    ] = None,
    quality: Annotated[int | None, typer.Option(help="Of JPEG and WebP, 1 to 100 (95).", rich_help_panel=SAVE)] = None,
    compression: Annotated[
        int | None, typer.Option(help="Of PNG, 0 (none), 1 (quick) to 9 (small, slow) (1).", rich_help_panel=SAVE)
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=MOST_PIXELS, help="Width and height of the outputs.", rich_help_panel=SAVE)
    ] = None,
    couple: Annotated[bool, typer.Option("--couple", help="Input and output in one.", rich_help_panel=SAVE)] = False,
    grid: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="A contact sheet of everything.", rich_help_panel=SAVE)
    ] = None,
    gif: Annotated[
        Path | None, typer.Option(metavar="NAME.gif", help="--to, --edit: an animation.", rich_help_panel=SAVE)
    ] = None,
    webp: Annotated[
        Path | None, typer.Option(metavar="NAME.webp", help="The same as WebP.", rich_help_panel=SAVE)
    ] = None,
    save_latents: Annotated[
        str | None,
        typer.Option(help="W+ latents: LATENTS.npy [N,L,S] in input order, or a folder.", rich_help_panel=SAVE),
    ] = None,
) -> None:
    """Run pictures through an exported pSp engine: photo.png becomes photo_out.png in the working folder.

    Several pictures of one input become photo_out_1.png and so on; with --grid, --gif or --webp, single pictures are
    saved only with --out. X_out.png beside a picture X is an earlier output: it is overwritten, never read.

    Among several pictures, one that cannot be read is reported and skipped (exit 1 at the end); alone, it is an
    error (exit 2).
    """
    if "" in sys.argv[1:]:  # as a path it would be this folder
        raise PspError("one of the arguments is empty, perhaps from a variable that is not set: leave it out")
    options = Options(
        inputs=tuple(map(Path, inputs or ())), engine=engine or Path(), latents=latents, device=device.value,
        batch=batch, threads=threads or THREADS, ray=ray, actors=actors, downsample=downsample, mask=mask,
        sketch_from_photo=sketch_from_photo, mix=mix, to=to, style_of=style_of, edit=edit, swap=swap,
        find_direction=find_direction, seed=seed, psi=psi, steps=steps, strength=strength, mix_layers=mix_layers,
        mix_alpha=mix_alpha, out=out, format=format and format.value, quality=quality, compression=compression,
        size=size, couple=couple, grid=grid, gif=gif, webp=webp, save_latents=save_latents, url=url,
    )  # fmt: skip
    if info:
        if options != Options(device=device.value, threads=threads or THREADS):
            raise PspError("--info ENGINE stands alone: leave out the pictures, --engine and what goes with them")
        print(describe(info, read_info(info)))
        return
    if url and not engine and (inputs or latents):
        _run_remote(options, url)
        return
    if not (inputs or latents or find_direction) or not engine or url:
        raise PspError("expected pictures and either --engine ENGINE or --url URL, or --info ENGINE")
    if not ray:
        _check_paths([*(inputs or []), out or ""])
    if find_direction:
        learn_direction(options, read_info(engine), find_direction)
    elif ray:
        _run_on_ray(options, read_info(engine), inputs or [], threads)
    else:
        _run(options, read_info(engine))


def _check_paths(names: list[str]) -> None:
    for name in names:
        if "://" in name:
            raise PspError(f"{name} is not a path of this machine: --ray reads from and writes to other filesystems")


def _run(options: Options, info: EngineInfo) -> None:
    plan = make_plan(options, info)
    runs = len(plan.jobs) * plan.application.count
    with Pipeline(open_session(options.engine, options.device, runs), options.batch, runs) as pipeline:
        _make_all(plan, pipeline)


def _run_remote(options: Options, url: str) -> None:
    from psp_runtime.serving.client import connect

    with connect(url, options.batch) as pipeline:
        _make_all(make_plan(replace(options, engine=pipeline.session.path), pipeline.info), pipeline)


def _make_all(plan: Plan, pipeline: Pipeline) -> None:
    run = Run(plan, pipeline)
    failed = run.execute()
    if run.made:
        print(run.summary())
    if failed:
        console.error(f"{failed} of {len(plan.jobs)} pictures could not be used and were skipped")
        raise typer.Exit(1)


def _run_on_ray(options: Options, info: EngineInfo, inputs: list[str], threads: int | None) -> None:
    from psp_runtime import cluster

    outcome = cluster.run(options, info, inputs, threads)
    if outcome.made or outcome.skipped:
        print(outcome.summary())
    if outcome.failed:
        console.error(f"{outcome.failed} of {outcome.inputs} pictures could not be used and were skipped")
        raise typer.Exit(1)
