"""What runs on each machine: an actor that opens the engine once and makes the pictures of one block after another."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.cluster import manifest
from psp_runtime.cluster.artifacts import Artifacts
from psp_runtime.cluster.storage import Picture, Place, import_extra
from psp_runtime.engines.info import read_info
from psp_runtime.errors import PictureError, PspError
from psp_runtime.prefetch import parallel_map
from psp_runtime.run import files
from psp_runtime.run.execution import Run, open_pipeline
from psp_runtime.run.plan import Plan, make_tools
from psp_runtime.run.verbs import Verb

#: Outputs on their way to an object store at the same time: a put is waiting, mostly.
SENDERS = 16


@dataclass(frozen=True)
class Task:
    """What every worker needs: `options.threads` is the cores it may use, `runs` how often the engines run in all.

    `key` is the hash of the engine and that of the options, as in the manifest.
    """

    options: Verb
    artifacts: Artifacts
    places: dict[str, Place]
    out: Place
    key: tuple[str, str]
    runs: int


class Worker:
    """An actor of Ray Data. Where the engine does not open, every block is answered with the reason."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._home = tempfile.TemporaryDirectory(prefix="psp-")
        self._mistake: PspError | None = None
        # Else inference libraries start threads for every core of the machine, which this worker shares with others.
        os.environ["PSP_THREADS"] = str(task.options.threads)
        try:
            self._open()
        except PspError as error:  # what a constructor raises, Ray turns into a traceback as text
            self._mistake = error

    def _open(self) -> None:
        task = self._task
        self._options = task.artifacts.unpack(task.options, Path(self._home.name))
        self._read, self._application = make_tools(self._options, read_info(self._options.engine))
        self._pipeline = open_pipeline(self._options, task.runs)

    def __call__(self, block: Any) -> Any:
        """What became of a block: a table of `error`, one for each picture ("" where it is made), and `fatal`.

        A mistake that ends the run is a single row: Ray would lose the type of an exception. `block` is a table of
        the fields of `Picture`.
        """
        table = import_extra("pyarrow").table
        try:
            if self._mistake:
                raise self._mistake
            rows = self._run([Picture(**row) for row in block.to_pylist()])
        except PspError as error:
            return table({"error": [str(error)], "fatal": [True]})
        return table({"error": [row.error for row in rows], "fatal": [False] * len(rows)})

    def _run(self, pictures: list[Picture]) -> list[manifest.Row]:
        """Make the pictures of a block and write its part of the manifest."""
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self._home.name) as scratch:
            failures = self._make(pictures, Path(scratch))
        seconds = (time.perf_counter() - started) / len(pictures)
        rows = [self._row(picture, failures.get(picture), seconds) for picture in pictures]
        manifest.write(self._task.out, rows)
        return rows

    def _make(self, pictures: list[Picture], scratch: Path) -> dict[Picture, str]:
        """Run the block as `psp run` would; what is wrong with the pictures that could not be used."""
        failures: dict[Picture, str] = {}
        given = {self._local(picture, scratch): picture for picture in pictures}
        jobs = [self._job(picture, path, scratch) for path, picture in given.items()]
        read = self._reader(given, failures)
        Run(Plan(self._options, self._application, read, jobs, False, None, None), self._pipeline).execute()
        self._deliver([path for job in jobs for path in job.written if path.is_relative_to(scratch)], scratch)
        return failures

    def _local(self, picture: Picture, scratch: Path) -> Path:
        """Where the picture is, or will be, on this machine."""
        place = self._task.places[picture.folder]
        number = list(self._task.places).index(picture.folder)
        return Path(place.path(picture.name)) if place.local else scratch / "in" / str(number) / picture.name

    def _job(self, picture: Picture, path: Path, scratch: Path) -> files.Job:
        out, options = self._task.out, self._options
        folder = Path(out.root) if out.local else scratch / "out"
        base = folder / picture.output(options.format)
        base.parent.mkdir(parents=True, exist_ok=True)
        return files.make_job(path, base, self._application.count, options.changed)

    def _reader(self, given: dict[Path, Picture], failures: dict[Picture, str]) -> Callable[[Path], NDArray[np.uint8]]:
        """Reads as the options ask, in the threads of a run: pictures from elsewhere are fetched first."""

        def read(path: Path) -> NDArray[np.uint8]:
            picture = given[path]
            place = self._task.places[picture.folder]
            try:
                if not place.local:
                    _fetch(place, picture, path)
                return self._read(path)
            except PictureError as error:
                failures[picture] = str(error).replace(str(path), picture.path)
                raise
            finally:
                if not place.local:
                    path.unlink(missing_ok=True)

        return read

    def _deliver(self, paths: list[Path], scratch: Path) -> None:
        """Send outputs to where they belong; those of pictures that could not be used are not there."""

        def send(path: Path) -> None:
            self._task.out.write(str(path.relative_to(scratch / "out")), path.read_bytes())

        made = [path for path in paths if path.is_file()]
        for _ in parallel_map(send, made, SENDERS, 2 * SENDERS):
            pass

    def _row(self, picture: Picture, error: str | None, seconds: float) -> manifest.Row:
        status = manifest.DONE if error is None else manifest.FAILED
        who = f"{platform.node()}:{os.getpid()}"
        facts = (picture.path, status, error or "", seconds, time.time(), picture.size, picture.modified)
        return manifest.Row(*facts, *self._task.key, who)


def _fetch(place: Place, picture: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(place.read(picture.name))
    except OSError as error:
        raise PictureError(f"cannot read {picture.path}: {error}") from error
