"""The verbs of `psp` that run engines, as commands: from the options on a command line to files."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from psp_runtime import console
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.errors import PspError
from psp_runtime.pipeline import Pipeline
from psp_runtime.run.align_photos import Align, align_photos
from psp_runtime.run.execution import Run, open_pipeline
from psp_runtime.run.find_direction import Direction, find_direction
from psp_runtime.run.info import describe
from psp_runtime.run.options import Options
from psp_runtime.run.plan import Plan, count_runs, make_plan
from psp_runtime.run.verbs import VERBS, Verb


def make(options: Verb) -> None:
    """Make what the options ask for, here, on a server or on a Ray cluster, and say where it is."""
    _check_given(options)
    if not options.url:
        options = replace(options, engine=find_engine(options.engine, options.device))
    if options.ray:
        _on_ray(options, read_info(options.engine))
    elif options.url:
        _on_server(options, options.url)
    else:
        _here(options, read_info(options.engine))


def _check_given(options: Options) -> None:
    if not options.inputs:
        what = "pictures" if options.pictures else "saved latents"
        raise PspError(f"expected {what}: psp {options.verb} INPUTS --engine ENGINE")
    if options.ray and options.url:
        raise PspError("--ray and --url contradict each other: workers open the engine, a server has it")
    if bool(options.given(("engine",))) == bool(options.url):
        raise PspError("expected one of --engine ENGINE and --url URL")
    for name in (*options.inputs, options.out or "", options.save_aligned or ""):
        if "://" in name and not options.ray:
            raise PspError(f"{name} is not a path of this machine: --ray reads from and writes to other filesystems")


def _here(options: Verb, info: EngineInfo) -> None:
    plan = make_plan(options, info)
    runs = count_runs(options, info, len(plan.jobs), plan.application.count)
    with open_pipeline(options, runs) as pipeline:
        _execute(plan, pipeline)


def _on_server(options: Verb, url: str) -> None:
    from psp_runtime.serving.client import connect

    with connect(url, options.batch, options.iterations) as pipeline:
        _execute(make_plan(replace(options, engine=pipeline.session.path), pipeline.info), pipeline)


def _execute(plan: Plan, pipeline: Pipeline) -> None:
    run = Run(plan, pipeline)
    failed = run.execute()
    if run.made:
        print("\n".join([*(run.files() if plan.options.verbose else []), run.summary(), *run.remarks()]))
    _report(failed, len(plan.jobs) + len(plan.refused))


def _on_ray(options: Verb, info: EngineInfo) -> None:
    from psp_runtime import cluster

    outcome = cluster.run(options, info)
    if outcome.made or outcome.skipped:
        print("\n".join([outcome.summary(), *outcome.remarks()]))
    _report(outcome.failed, outcome.inputs)


def _report(failed: int, inputs: int) -> None:
    if failed:
        console.error(console.skipped(failed, inputs, "picture"))
        raise typer.Exit(1)


def _info() -> typer.Typer:
    app = console.new_app()

    @app.command(no_args_is_help=True, cls=console.Command)
    def info(engine: Annotated[Path, typer.Argument(help="An .onnx or .trt file.")]) -> None:
        """Print what an engine says about itself, and what it would compute in here.

        Needs neither a GPU nor an inference library.
        """
        found = find_engine(engine)
        print(describe(found, read_info(found)))

    return app


run, mix, morph, transfer, edit, swap, decode = (console.make_app(verb, make) for verb in VERBS)
direction = console.make_app(Direction, find_direction)
align = console.make_app(Align, align_photos)
info = _info()
