"""One run: inputs through an application, read and written in threads while the engine works."""

import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from psp_runtime import console
from psp_runtime.engines.refinement import RefiningSession
from psp_runtime.engines.session import open_session
from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures import encoding, png, sheets
from psp_runtime.pictures import loading as images
from psp_runtime.pictures.folders import INPUT_ENDING
from psp_runtime.pipeline import Pipeline
from psp_runtime.prefetch import Stage, map_batches, parallel_map
from psp_runtime.run.files import Job
from psp_runtime.run.options import Options
from psp_runtime.run.plan import Plan

#: Files that are named one by one at the end; of more, their folder.
NAMED = 6
#: Options in the note of every picture they shaped.
NOTED = ("downsample", "sketch_from_photo", "couple", "size")

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]


class Loaded(NamedTuple):
    """One input: a prepared picture [...], or latents [L,S]."""

    job: Job
    source: Any


class Result(NamedTuple):
    """One input and its pictures uint8 [N,H,W,3], resized as asked; its latents [L,S] where they are known."""

    job: Job
    source: Any
    pictures: Pixels
    latents: NDArray[np.float32] | None


def open_pipeline(options: Options, runs: int) -> Pipeline:
    """Open the engine of a run, which runs about so often, and the one whose step comes first. Raises `PspError`."""
    session = open_session(options.engine, options.device, runs)
    try:
        first = open_session(options.first, options.device, runs) if options.first else None
    except PspError:
        session.close()
        raise
    return Pipeline(session, options.batch, runs, options.iterations, first)


class Run:
    """A plan on an open engine. `made` counts the pictures, `seconds` is how long all of it took."""

    def __init__(self, plan: Plan, pipeline: Pipeline) -> None:
        self.plan, self.pipeline = plan, pipeline
        self.options, self.application = plan.options, plan.application
        threads = min(self.options.pool, len(plan.jobs))
        self.decode, self.engine, self.encode = (
            Stage("decode", threads),
            Stage("engine", pipeline.at_once),
            Stage("encode", threads),
        )
        self.quality = encoding.QUALITY if plan.options.quality is None else plan.options.quality
        self.level = png.QUICKEST if plan.options.compression is None else plan.options.compression
        self.made, self.seconds = 0, 0.0
        self._written: list[Path] = []
        self._replaced: list[Path] = []

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
            for result in _with_progress(saved, 1 if self.options.quiet else len(self.plan.jobs), self.pipeline):
                if isinstance(result, PictureError):
                    if self.plan.single:
                        raise result
                    console.error(result)
                    failed += 1
                else:
                    self._collect(result)
        self._finish()
        self.seconds = time.perf_counter() - started
        return failed

    def summary(self) -> str:
        """One line for people: how many pictures, how fast, what limited it, and where they are."""
        word = "picture" if self.made == 1 else "pictures"
        steps = f", {self.pipeline.info.iterations} steps each" if self.pipeline.info.iterations else ""
        rate = f"{self.made / self.seconds:.1f} pictures/s, {self.pipeline.device}{steps}{self._limit()}"
        return f"{self.made} {word} in {self.seconds:.2f} s ({rate}): {self._where()}"

    def remarks(self) -> list[str]:
        """List what else there is to say at the end: what was replaced, what is left out, what is next."""
        lines = [f"replaced what another run had made: {_named(sorted(self._replaced))}"] if self._replaced else []
        lines += [self.plan.left_out] if self.plan.left_out else []
        if self.plan.latents:
            stored = self.plan.latents.file or self.plan.latents.folder
            engine = f"--url {self.options.url}" if self.options.url else f"--engine {self.options.engine}"
            lines.append(f"next: psp decode {stored} {engine}")
        return lines

    def _limit(self) -> str:
        """The stage the others wait for; of a single input all stages wait for each other."""
        if len(self.plan.jobs) == 1:
            return ""
        stages = (self.decode, self.engine, self.encode)
        shares = ", ".join(f"{stage.name} {stage.busy(self.seconds):.0%}" for stage in stages)
        slowest = max(stages, key=lambda stage: stage.busy(self.seconds))
        return f"; busy: {shares}; {slowest.name} limits"

    def _load(self, job: Job) -> Loaded | PictureError:
        try:
            return Loaded(job, self.plan.read(job.source) if job.latents is None else job.latents)
        except PictureError as error:
            return error

    def _make(self, loaded: list[Loaded]) -> list[Result]:
        output, latents = self.application.make(self.pipeline, np.stack([one.source for one in loaded]))
        every = repeat(None) if latents is None else latents
        return [Result(*one, pictures, latents) for one, pictures, latents in zip(loaded, output, every)]

    def _save(self, result: Result | PictureError) -> Result | PictureError:
        """Write the pictures of one input (in a thread)."""
        if isinstance(result, PictureError):
            return result
        job, size = result.job, self.options.size
        if size:
            height = images.scaled(result.pictures.shape[1:], size)
            result = result._replace(pictures=np.stack([images.resize(p, size, height) for p in result.pictures]))
        frames = self._frames(result)
        if job.outputs:
            notes = [self._note(job, how) for how in self.application.notes]
            # Where inputs are fewer than threads, the pictures of each are shared out.
            writers = self.options.pool // self.encode.threads
            for _ in parallel_map(self._write, zip(frames, job.outputs, notes, strict=True), writers, 2 * writers):
                pass
        if job.changed:
            self._write((sheets.shown(result.source, self.pipeline.info.input, result.source.shape), job.changed, ""))
        for animation in (self.options.gif, self.options.webp):
            if animation:
                sheets.animate(frames, animation, self.options.quality or sheets.QUALITY)
        return result

    def _write(self, what: tuple[Pixels, Path, str]) -> None:
        """Save one picture with its note as the options ask."""
        pixels, path, note = what
        if path.is_file() and not png.has_text(path, encoding.NOTE_KEY, note):
            self._replaced.append(path)
        encoding.save(pixels, path, note, self.quality, self.level)

    def _frames(self, result: Result) -> Pixels:
        """The pictures of one input as they are saved, [N,H,W,3]: each beside its input with --couple."""
        if not self.options.couple:
            return result.pictures
        beside = [self._shown(one, result) for one in self.application.beside(result.source)]
        return np.stack([sheets.couple(left, right) for left, right in zip(beside, result.pictures, strict=True)])

    def _collect(self, result: Result) -> None:
        """What is kept of an input until the end, in order."""
        self.made += self.application.count
        self._written += result.job.written
        if self.plan.latents and result.latents is not None:
            self.plan.latents.add(result.job.source, result.latents)
        if self.plan.sheet:
            sources = [] if result.job.latents is not None else self.application.sources(result.source)
            self.plan.sheet.add([*(self._shown(one, result) for one in sources), *result.pictures])

    def _shown(self, source: Pixels, result: Result) -> Pixels:
        return sheets.shown(source, self.pipeline.info.input, result.pictures.shape[1:])

    def _note(self, job: Job | None, how: dict[str, Any]) -> str:
        """How a picture was made, as JSON for its text chunk. Names of files only: folders are nobody's business."""
        from psp_runtime import __version__

        info, options = self.pipeline.info, self.options
        note: dict[str, Any] = {
            "made_by": f"psp {__version__}",
            "engine": self.pipeline.session.path.name,
            "checkpoint": info.checkpoint,
            "task": info.task,
            "precision": info.precision,
            "application": self.application.name,
        }
        note |= {"input": job.source.name} if job else {"inputs": len(self.plan.jobs)}
        note |= {name: getattr(options, name) for name in options.given(NOTED)}
        if options.mask:
            note["mask"] = Path(options.mask).name
        return json.dumps(note | how)

    def _finish(self) -> None:
        if self.plan.latents:
            self.plan.latents.finish()
        if self.plan.sheet and self.made:
            note = self._note(None, together(self.application.notes))
            self._write((self.plan.sheet.draw(), self.plan.sheet.path, note))

    def files(self) -> list[str]:
        """Every file of this run: pictures and changed inputs, then what was asked for by name."""
        options, latents = self.options, self.plan.latents
        named = [options.grid, options.gif, options.webp, latents and latents.file]
        return [*map(str, self._written), *(str(path) for path in named if path)]

    def _where(self) -> str:
        """The files written, or the folder of many."""
        files, jobs = self.files(), self.plan.jobs
        if len(files) <= NAMED:
            return ", ".join(files)
        named = files[len(self._written) :]
        if len(jobs) == 1:
            changed = [str(jobs[0].changed)] if jobs[0].changed else []
            return ", ".join([f"{jobs[0].outputs[0]} to {jobs[0].outputs[-1].name}", *changed, *named])
        changed = [f"the changed inputs as *{INPUT_ENDING}.*"] if jobs[0].changed else []
        return ", ".join([f"{Path(self.options.out or '.')}{os.sep}", *changed, *named])


def _named(paths: list[Path]) -> str:
    more = len(paths) - NAMED
    return ", ".join(map(str, paths[:NAMED])) + (f" and {more} more" if more > 0 else "")


def _with_progress(results: Iterable[Item], count: int, pipeline: Pipeline) -> Iterable[Item]:
    if not sys.stderr.isatty():
        return results
    if isinstance(pipeline.session, RefiningSession) and pipeline.device == "cpu":
        return _with_steps(results, count, pipeline.session)
    if count == 1:
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, "pictures", count, console=Console(stderr=True), transient=True)


def _with_steps(results: Iterable[Item], count: int, session: RefiningSession) -> Iterable[Item]:
    """Count the steps on a CPU, where each of ReStyle's takes as long as another engine's picture."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task(f"{session.count} steps a picture", total=count * session.count)
        session.told = lambda pictures: shown.advance(bar, pictures)
        yield from results


def together(notes: list[dict[str, Any]]) -> dict[str, Any]:
    """One note for several pictures: what holds for all of them once, what differs as a list in their order."""
    values = {key: [note[key] for note in notes] for key in notes[0]}
    return {key: each[0] if all(value == each[0] for value in each) else each for key, each in values.items()}
