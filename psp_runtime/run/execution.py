"""One run: inputs through an application, read and written in threads while the engine works."""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from psp_runtime import console
from psp_runtime.console import counted
from psp_runtime.engines.refinement import RefiningSession
from psp_runtime.engines.session import open_session
from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.folders import INPUT_ENDING
from psp_runtime.pipeline import Pipeline
from psp_runtime.prefetch import Stage, map_batches, parallel_map
from psp_runtime.run.files import Job
from psp_runtime.run.inputs import Inputs
from psp_runtime.run.options import Options
from psp_runtime.run.plan import Plan
from psp_runtime.run.saving import Result, Saver

#: Files that are named one by one at the end; of more, their folder.
NAMED = 6

Item = TypeVar("Item")


class Loaded(NamedTuple):
    """One input, as it was read."""

    job: Job
    inputs: Inputs


def open_pipeline(options: Options, runs: int | None) -> Pipeline:
    """Open the engine of a run, and the one whose step comes first; `runs` as for `open_session`. Raises `PspError`."""
    session = open_session(options.engine, options.device, runs, options.precision)
    try:
        first = open_session(options.first, options.device, runs, options.precision) if options.first else None
    except PspError:
        session.close()
        raise
    return Pipeline(session, options.batch, runs, options.iterations, first)


class Run:
    """A plan on an open engine. `made` counts the pictures, `seconds` is how long all of it took.

    `failures` says of inputs why nothing was made of them, `counts` how many pictures were made of each of the others.
    """

    def __init__(self, plan: Plan, pipeline: Pipeline) -> None:
        self.plan, self.pipeline = plan, pipeline
        self.options, self.application = plan.options, plan.application
        threads = min(self.options.pool, len(plan.jobs))
        self.decode, self.engine, self.encode = (
            Stage("decode", threads),
            Stage("engine", pipeline.at_once),
            Stage("encode", threads),
        )
        # Where inputs are fewer than threads, the pictures of each are shared out.
        self.saver = Saver(plan, pipeline, self.options.pool // threads)
        self.made, self.seconds = 0, 0.0
        self.written: list[Path] = []
        self._crops: list[Path] = []
        self.counts: dict[Path, int] = {}
        self.failures: dict[Path, PictureError] = {}

    def execute(self) -> int:
        """Make and save everything; count the inputs that could not be used, or raise the error of a single one."""
        started, failed, threads = time.perf_counter(), len(self.plan.refused), self.decode.threads
        for refused in self.plan.refused:
            console.error(refused)
        batch = self.pipeline.batch if self.application.count == 1 else 1
        waiting = max(2, 2 * threads // self.application.count)  # results in memory: each may be a long sweep
        load, make, save = (self.decode.timed(self._load), self.engine.timed(self._make), self.encode.timed(self._save))
        with (
            closing(parallel_map(load, self.plan.jobs, threads, 2 * batch + threads)) as loaded,
            closing(
                parallel_map(save, map_batches(make, loaded, batch, self.pipeline.at_once), threads, waiting)
            ) as saved,
        ):
            for result, job in zip(self._with_progress(saved), self.plan.jobs, strict=True):
                if isinstance(result, PictureError):
                    if self.plan.single:
                        raise result
                    console.error(result)
                    self.failures[job.source] = result
                    failed += 1
                else:
                    self._collect(result)
        self._finish()
        self.seconds = time.perf_counter() - started
        return failed

    def summary(self) -> str:
        """Write one line for people: how many pictures, how fast, what limited it, and where they are."""
        where = f"{self.pipeline.precision}, {self.pipeline.device}"
        rate = f"{self.made / self.seconds:.1f} pictures/s, {where}{self._steps()}{self._limit()}"
        return f"{counted(self.made, 'picture')} in {self.seconds:.2f} s ({rate}): {self._where()}"

    def remarks(self) -> list[str]:
        """List what else there is to say at the end: what was replaced, what is left out, what is next."""
        latents = self.plan.latents.replaced if self.plan.latents else []
        replaced = sorted([*self.saver.replaced, *latents])
        lines = [f"replaced what another run had made: {_named(replaced)}"] if replaced else []
        lines += [self.plan.left_out] if self.plan.left_out else []
        if self.plan.latents:
            stored = self.plan.latents.file or self.plan.latents.folder
            engine = f"--url {self.options.url}" if self.options.url else f"--engine {self.options.engine}"
            lines.append(f"next: psp decode {stored} {engine}")
        return lines

    def _steps(self) -> str:
        """Say how many steps of ReStyle an input took; stored latents are decoded, which takes one."""
        session, application = self.pipeline.session, self.application
        count = session.count if isinstance(session, RefiningSession) else self.pipeline.info.iterations
        if count < 2 or self.plan.jobs[0].latents is not None:
            return ""
        if "step" in application.notes[0]:
            return f", one after each of {count} steps"
        if application.count > 1:
            return f", {count} steps of each input"
        return f", {count} steps" + (" each" if self.made > 1 else "")

    def _limit(self) -> str:
        """Name the stage the others wait for; of a single input all stages wait for each other."""
        if len(self.plan.jobs) == 1:
            return ""
        stages = (self.decode, self.engine, self.encode)
        shares = ", ".join(f"{stage.name} {stage.busy(self.seconds):.0%}" for stage in stages)
        slowest = max(stages, key=lambda stage: stage.busy(self.seconds))
        return f"; busy: {shares}; {slowest.name} limits"

    def _load(self, job: Job) -> Loaded | PictureError:
        try:
            return Loaded(job, self.plan.read(job.source) if job.latents is None else Inputs(job.latents[None]))
        except PictureError as error:
            return error

    def _make(self, loaded: list[Loaded]) -> list[Result]:
        """Make the pictures of some inputs, of all their faces at once."""
        output, latents = self.application.make(self.pipeline, np.concatenate([one.inputs.sources for one in loaded]))
        ends = np.cumsum([len(one.inputs.sources) for one in loaded])[:-1]
        every = repeat(None) if latents is None else np.split(latents, ends)
        return [
            Result(job, sources, pictures, found, crops)
            for (job, (sources, crops)), pictures, found in zip(loaded, np.split(output, ends), every)
        ]

    def _save(self, result: Result | PictureError) -> Result | PictureError:
        """Write the pictures of one input (in a thread)."""
        if isinstance(result, PictureError):
            return result
        try:
            return self.saver.save(result)
        except PictureError as error:  # a photo that its format cannot hold
            return error

    def _collect(self, result: Result) -> None:
        """Keep what is wanted of an input until the end, in order."""
        count = self.application.count * (1 if self.options.paste_back else len(result.sources))
        self.made += count
        self.counts[result.job.source] = count
        self.written += result.written
        for number, (source, pictures) in enumerate(zip(result.sources, result.pictures), start=1):
            job = result.job.of_face(number, self.options)
            self._crops += [job.aligned] if job.aligned else []
            if self.plan.latents and result.latents is not None:
                self.plan.latents.add(job.source, result.latents[number - 1])
            if self.plan.sheet:
                sources = [] if job.latents is not None else self.application.sources(source)
                self.plan.sheet.add([*(self.saver.shown(one, pictures.shape[1:]) for one in sources), *pictures])

    def _with_progress(self, results: Iterable[Item]) -> Iterable[Item]:
        """Count pictures, or on a CPU the steps of ReStyle, each of which takes as long as another's picture."""
        if self.options.quiet:
            return results
        count, session = len(self.plan.jobs), self.pipeline.session
        if sys.stderr.isatty() and isinstance(session, RefiningSession) and self.pipeline.device == "cpu":
            return _with_steps(results, count, session)
        return with_progress(results, count)

    def _finish(self) -> None:
        if self.plan.latents:
            self.plan.latents.finish()
        if self.plan.sheet and self.made:
            note = self.saver.note(None, together(self.application.notes))
            self.saver.write(self.plan.sheet.draw(), self.plan.sheet.path, note)

    def files(self) -> list[str]:
        """Every file of this run: pictures and changed inputs, then what was asked for by name."""
        return [*map(str, self.written), *self._shared()]

    def _shared(self) -> list[str]:
        """List the files of the whole run."""
        options, latents = self.options, self.plan.latents
        named = [options.grid, options.gif, options.webp, latents and latents.file]
        return [str(path) for path in named if path]

    def _where(self) -> str:
        """Name the files written, or the folders of many."""
        files, options = self.files(), self.options
        if len(files) <= NAMED:
            return ", ".join(files)
        crops = [f"the crops in {Path(options.save_aligned)}{os.sep}"] if options.save_aligned else []
        return ", ".join([*(self._of_one() if len(self.plan.jobs) == 1 else self._of_many()), *crops, *self._shared()])

    def _of_one(self) -> list[str]:
        """Name the many pictures of one input, and its changed inputs."""
        written = [path for path in self.written if path not in self._crops]
        made = [path for path in written if not path.stem.endswith(INPUT_ENDING)]
        return [*_first_to_last(made), *(str(path) for path in written if path not in made)]

    def _of_many(self) -> list[str]:
        """Name the folder of outputs, where there are any."""
        made = [f"{Path(self.options.out or '.')}{os.sep}"] if self.options.singles else []
        return [*made, *([f"the changed inputs as *{INPUT_ENDING}.*"] if self.plan.jobs[0].changed else [])]


def _first_to_last(paths: list[Path]) -> list[str]:
    return [f"{paths[0]} to {paths[-1].name}"] if len(paths) > 1 else [str(path) for path in paths]


def _named(paths: list[Path]) -> str:
    more = len(paths) - NAMED
    return ", ".join(map(str, paths[:NAMED])) + (f" and {more} more" if more > 0 else "")


def with_progress(results: Iterable[Item], count: int) -> Iterable[Item]:
    """Pass the same results on, with a bar on a terminal while they come."""
    if count == 1 or not (sys.stderr.isatty() and console.shows_progress()):
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, "pictures", count, console=Console(stderr=True), transient=True)


def _with_steps(results: Iterable[Item], count: int, session: RefiningSession) -> Iterable[Item]:
    """Count the steps on a CPU, where each of ReStyle's takes as long as another engine's picture."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task(f"{counted(session.count, 'step')} a picture", total=count * session.count)
        session.told = lambda pictures: shown.advance(bar, pictures)
        yield from results


def together(notes: list[dict[str, Any]]) -> dict[str, Any]:
    """Make one note for several pictures: what holds for all of them once, what differs as a list in their order."""
    values = {key: [note[key] for note in notes] for key in notes[0]}
    return {key: each[0] if all(value == each[0] for value in each) else each for key, each in values.items()}
