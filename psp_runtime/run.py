"""One run of `psp-run`: inputs through an application, read and written in threads while the engine works."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from psp_runtime import console, images, sheets
from psp_runtime.ahead import map_ahead, map_batches
from psp_runtime.errors import PictureError
from psp_runtime.files import Job
from psp_runtime.pipeline import Pipeline
from psp_runtime.plan import Plan

#: Options in the note of every picture they shaped.
NOTED = ("downsample", "sketch_from_photo", "couple", "size")

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]


class Loaded(NamedTuple):
    """One input: a prepared picture [...], or codes [L,S]."""

    job: Job
    source: Any


class Result(NamedTuple):
    """One input and its pictures uint8 [N,H,W,3], resized as asked; its codes [L,S] where they are known."""

    job: Job
    source: Any
    pictures: Pixels
    latents: NDArray[np.float32] | None


class Run:
    """A plan on an open engine. `made` counts the pictures."""

    def __init__(self, plan: Plan, pipeline: Pipeline) -> None:
        self.plan, self.pipeline = plan, pipeline
        self.options, self.application = plan.options, plan.application
        self.made = 0

    def all(self) -> int:
        """Make and save everything; count the inputs that could not be used, or raise the error of a single one."""
        started, failed, threads = time.perf_counter(), 0, self.options.threads
        batch = self.pipeline.batch if self.application.count == 1 else 1
        waiting = max(2, 4 * threads // self.application.count)  # results in memory: each may be a long sweep
        with (
            closing(map_ahead(self._load, self.plan.jobs, threads, 2 * batch + threads)) as loaded,
            closing(map_ahead(self._save, map_batches(self._make, loaded, batch), threads, waiting)) as saved,
        ):
            for result in _with_progress(saved, len(self.plan.jobs)):
                if isinstance(result, PictureError):
                    if self.plan.single:
                        raise result
                    console.error(result)
                    failed += 1
                else:
                    self._collect(result)
        self._finish(time.perf_counter() - started)
        return failed

    def _load(self, job: Job) -> Loaded | PictureError:
        try:
            return Loaded(job, self.plan.read(job.source) if job.codes is None else job.codes)
        except PictureError as error:
            return error

    def _make(self, loaded: list[Loaded]) -> Iterator[Result]:
        output, latents = self.application.make(self.pipeline, np.stack([one.source for one in loaded]))
        for index, (job, source) in enumerate(loaded):
            yield Result(job, source, output[index], None if latents is None else latents[index])

    def _save(self, result: Result | PictureError) -> Result | PictureError:
        """Write the pictures of one input (in a thread)."""
        if isinstance(result, PictureError):
            return result
        job, size = result.job, self.options.size
        if size:
            result = result._replace(pictures=np.stack([images.resize(p, size) for p in result.pictures]))
        frames = self._frames(result)
        if job.outputs:
            for path, frame, note in zip(job.outputs, frames, self.application.notes, strict=True):
                images.save(frame, path, self._note(job, note))
        if job.changed:
            images.save(sheets.shown(result.source, self.pipeline.info.input, len(result.source)), job.changed)
        for animation in (self.options.gif, self.options.webp):
            if animation:
                sheets.animate(frames, animation)
        return result

    def _frames(self, result: Result) -> Pixels:
        """The pictures of one input as they are saved, [N,H,W,3]: each beside its input with --couple."""
        if not self.options.couple:
            return result.pictures
        beside = [self._shown(one, result) for one in self.application.beside(result.source)]
        return np.stack([sheets.couple(left, right) for left, right in zip(beside, result.pictures, strict=True)])

    def _collect(self, result: Result) -> None:
        """What is kept of an input until the end, in order."""
        self.made += self.application.count
        if self.plan.codes and result.latents is not None:
            self.plan.codes.add(result.job.source, result.latents)
        if self.plan.sheet:
            sources = [] if result.job.codes is not None else self.application.sources(result.source)
            self.plan.sheet.add([*(self._shown(one, result) for one in sources), *result.pictures])

    def _shown(self, source: Pixels, result: Result) -> Pixels:
        return sheets.shown(source, self.pipeline.info.input, result.pictures.shape[1])

    def _note(self, job: Job | None, how: dict[str, Any]) -> str:
        """How a picture was made, as JSON for its text chunk. Names of files only: folders are nobody's business."""
        from psp_runtime import __version__

        info, options = self.pipeline.info, self.options
        note: dict[str, Any] = {
            "made_by": f"psp-run {__version__}",
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

    def _finish(self, seconds: float) -> None:
        if self.plan.codes:
            self.plan.codes.finish()
        if self.plan.sheet:
            self.plan.sheet.save(self._note(None, self.application.notes[0] if self.application.count == 1 else {}))
        if self.made:
            word = "picture" if self.made == 1 else "pictures"
            rate = f"{self.made / seconds:.1f} pictures/s, {self.pipeline.device}"
            print(f"{self.made} {word} in {seconds:.2f} s ({rate}): {self._where()}")

    def _where(self) -> str:
        """The one file written, or the folder of several."""
        options, outputs = self.options, self.plan.jobs[0].outputs
        files = [str(path) for path in (options.grid, options.gif, options.webp) if path]
        if outputs:
            single = len(self.plan.jobs) == 1 and len(outputs) == 1
            files.insert(0, str(outputs[0]) if single else f"{outputs[0].parent}{os.sep}")
        return ", ".join(files)


def _with_progress(results: Iterable[Item], count: int) -> Iterable[Item]:
    if count == 1 or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, "psp-run", count, console=Console(stderr=True), transient=True)
