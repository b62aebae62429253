"""What runs on each machine: an actor that opens the engine once and makes the pictures of one block after another."""

import os
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psp_runtime.cluster import manifest
from psp_runtime.cluster.artifacts import Artifacts
from psp_runtime.cluster.storage import Picture, Place, import_extra
from psp_runtime.engines.info import read_info
from psp_runtime.errors import PictureError, PspError
from psp_runtime.prefetch import parallel_map
from psp_runtime.run import files
from psp_runtime.run.execution import Run, open_pipeline
from psp_runtime.run.inputs import InputReader, Inputs
from psp_runtime.run.plan import Plan, make_tools
from psp_runtime.run.verbs import Verb

#: Outputs on their way to an object store at the same time: a put is waiting, mostly.
SENDERS = 16


@dataclass(frozen=True)
class Task:
    """What every worker needs: `options.threads` is the cores it may use, `runs` how often the engines run in all.
    `crops` is where aligned crops go, if they are asked for.

    `key` is the hash of the engine and that of the options, as in the manifest.
    """

    options: Verb
    artifacts: Artifacts
    places: dict[str, Place]
    out: Place
    key: tuple[str, str]
    runs: int | None
    crops: Place | None = None


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
        """Tell what became of a block: a table of `error` for each picture ("" where it is made), `fatal` and `made`.

        `made` counts the pictures of each, several where there are several faces. A mistake that ends the run is a
        single row: Ray would lose the type of an exception. `block` is a table of the fields of `Picture`.
        """
        table = import_extra("pyarrow").table
        try:
            if self._mistake:
                raise self._mistake
            errors, counts = self._run([Picture(**row) for row in block.to_pylist()])
        except PspError as error:
            return table({"error": [str(error)], "fatal": [True], "made": [0]})
        return table({"error": errors, "fatal": [False] * len(errors), "made": counts})

    def _run(self, pictures: list[Picture]) -> tuple[list[str], list[int]]:
        """Make the pictures of a block and write its part of the manifest; what is wrong, and how many were made."""
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self._home.name) as scratch:
            failures, counts = self._make(pictures, Path(scratch))
        seconds = (time.perf_counter() - started) / len(pictures)
        rows = [self._row(picture, failures.get(picture), seconds) for picture in pictures]
        manifest.write(self._task.out, rows)
        return [row.error for row in rows], [counts.get(picture, 0) for picture in pictures]

    def _make(self, pictures: list[Picture], scratch: Path) -> tuple[dict[Picture, str], dict[Picture, int]]:
        """Run the block as `psp run` would; what is wrong with pictures, and how many were made of the others."""
        given = {self._local(picture, scratch): picture for picture in pictures}
        jobs = [self._job(picture, path, scratch) for path, picture in given.items()]
        read = self._reader(given)
        run = Run(Plan(self._options, self._application, read, jobs, False, None, None), self._pipeline)
        run.execute()
        targets = self._targets(scratch)
        for folder, place in targets.items():
            self._deliver([path for path in run.written if path.is_relative_to(folder)], folder, place)
        names = {str(folder): place.name for folder, place in targets.items()}
        failures = {
            given[path]: _renamed(str(error), {str(path): given[path].path} | names)
            for path, error in run.failures.items()
        }
        return failures, {given[path]: count for path, count in run.counts.items()}

    def _targets(self, scratch: Path) -> dict[Path, Place]:
        """Say where outputs and crops are written first, if that is not where they belong, and where that is."""
        places = {scratch / "out": self._task.out}
        if self._task.crops:
            places[scratch / "aligned"] = self._task.crops
        return {folder: place for folder, place in places.items() if not place.local}

    def _local(self, picture: Picture, scratch: Path) -> Path:
        """Say where the picture is, or will be, on this machine."""
        place = self._task.places[picture.folder]
        number = list(self._task.places).index(picture.folder)
        return Path(place.path(picture.name)) if place.local else scratch / "in" / str(number) / picture.name

    def _job(self, picture: Picture, path: Path, scratch: Path) -> files.Job:
        out, options = self._task.out, self._options
        base = _here(out, scratch / "out") / picture.output(options)
        job = files.make_job(path, base, self._application.count, options.changed)
        if self._task.crops:
            job = replace(job, aligned=_here(self._task.crops, scratch / "aligned") / picture.crop)
        for file in job.written:
            file.parent.mkdir(parents=True, exist_ok=True)
        return job

    def _reader(self, given: dict[Path, Picture]) -> InputReader:
        """Reads as the options ask, in the threads of a run: pictures from elsewhere are fetched first."""

        def read(path: Path) -> Inputs:
            picture = given[path]
            place = self._task.places[picture.folder]
            try:
                if not place.local:
                    _fetch(place, picture, path)
                return self._read(path)
            finally:
                if not place.local and not self._options.paste_back:  # which reads it again
                    path.unlink(missing_ok=True)

        return read

    def _deliver(self, paths: list[Path], folder: Path, place: Place) -> None:
        """Send files of a folder of this machine to where they belong."""

        def send(path: Path) -> None:
            place.write(str(path.relative_to(folder)), path.read_bytes())

        for _ in parallel_map(send, paths, SENDERS, 2 * SENDERS):
            pass

    def _row(self, picture: Picture, error: str | None, seconds: float) -> manifest.Row:
        status = manifest.DONE if error is None else manifest.FAILED
        who = f"{platform.node()}:{os.getpid()}"
        facts = (picture.path, status, error or "", seconds, time.time(), picture.size, picture.modified)
        return manifest.Row(*facts, *self._task.key, who)


def _renamed(words: str, names: dict[str, str]) -> str:
    """Say in an error what people call the files that are elsewhere on this machine."""
    for here, there in names.items():
        words = words.replace(here, there)
    return words


def _here(place: Place, folder: Path) -> Path:
    """Say where files for a place are written on this machine: there, or into a folder they are sent from."""
    return Path(place.root) if place.local else folder


def _fetch(place: Place, picture: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(place.read(picture.name))
    except OSError as error:
        raise PictureError(f"cannot read {picture.path}: {error}") from error
