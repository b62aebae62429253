"""The process that was started: it deals the pictures out to workers on a Ray cluster and collects what became of them.

A block of pictures is what a worker takes at a time, and what is done again when a worker dies.
"""

import functools
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from psp_runtime import console
from psp_runtime.cluster import manifest
from psp_runtime.cluster.artifacts import pack
from psp_runtime.cluster.connection import connected
from psp_runtime.cluster.storage import Picture, Place, check_output, find_pictures, import_extra, open_place
from psp_runtime.cluster.worker import Task, Worker
from psp_runtime.console import LOCAL_RAY, counted
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import DeviceError, PspError
from psp_runtime.run.files import check_name, identity, make_job
from psp_runtime.run.options import Options
from psp_runtime.run.plan import READ, check_formats, count_runs, make_tools
from psp_runtime.run.verbs import Verb

#: Batches in a block at most: a worker idles while the last of them is written and the next block comes.
BATCHES = 16
#: Blocks for each worker at least, so that all end at about the same time.
TURNS = 4


@dataclass(frozen=True)
class Outcome:
    """What became of a run: pictures `made`, and of its `inputs`, those `failed` and those an earlier run had done.

    `again` counts those whose earlier outputs, of something else, were replaced.
    """

    made: int
    inputs: int
    failed: int
    skipped: int
    seconds: float
    workers: int
    out: str
    left_out: str
    again: int

    def remarks(self) -> list[str]:
        """List what else there is to say at the end."""
        words = f"made again, of another engine, picture or options than before: {self.again}"
        return [*([words] if self.again else []), *([self.left_out] if self.left_out else [])]

    def summary(self) -> str:
        """Write one line for people."""
        if not self.workers:
            return f"nothing to do, {self.skipped} done before: {self.out}/"
        rate = f"{self.made / self.seconds:.1f} pictures/s, {counted(self.workers, 'worker')}"
        before = f", {self.skipped} done before" if self.skipped else ""
        return f"{counted(self.made, 'picture')} in {self.seconds:.2f} s ({rate}){before}: {self.out}/"


@dataclass(frozen=True)
class _Targets:
    """Where outputs go, `count` of each picture, and where aligned crops go, if they are asked for."""

    out: Place
    crops: Place | None
    count: int

    def files(self, picture: Picture, options: Options, last: bool = False) -> list[tuple[Place, str]]:
        """Name what is made of a picture, or of its first or last face: each place, and the name there."""
        job = make_job(Path(picture.name), Path(picture.output(options)), self.count, options.changed)
        job = replace(job, aligned=Path(picture.crop) if self.crops else None)
        job = job.of_last_face(options) if last else job.of_face(1, options)
        outputs = [(self.out, str(path)) for path in (*job.outputs, job.changed) if path]
        return [*outputs, *([(self.crops, str(job.aligned))] if self.crops else [])]


@dataclass(frozen=True)
class Crew:
    """How many workers, and what each gets: cores, and the GPU or none."""

    actors: int
    cpus: int
    gpus: int


def run(options: Verb, info: EngineInfo) -> Outcome:
    """Run folders of pictures on a Ray cluster; inputs and output are paths or URIs.

    `options.threads` are the cores of each worker, None for its share. Every picture that cannot be used is one line on
    stderr. Raises `PspError` for mistakes, found before Ray is started where that is possible; what was done until then
    stays done, and the next run goes on from there.
    """
    _, application = make_tools(options, info)
    out = open_place(options.out or ".")
    crops = open_place(options.save_aligned) if options.save_aligned else None
    places, found, left_out = find_pictures(options.inputs, [out, *([crops] if crops else [])])
    targets = _Targets(out, crops, application.count)
    pictures, refused = _without_long_names(options, found, targets)
    _check_outputs(options, pictures, places, targets)
    check_output(out)
    if crops:
        check_output(crops, "--save-aligned")
    packed = pack(options)
    key = packed.key(options)
    rows = manifest.read(out)
    waiting = manifest.without_done(pictures, rows, *key)
    again = manifest.done_before(waiting, rows)
    if not waiting:
        return Outcome(0, refused, refused, len(pictures), 0, 0, out.name, left_out, 0)
    with connected(str(options.ray)):
        crew = _crew(options)
        sent = packed.sent() if options.ray != LOCAL_RAY else packed
        runs = count_runs(options, info, len(pictures), application.count)
        task = Task(replace(options, threads=crew.cpus), sent, places, out, key, runs, crops)
        blocks = _blocks(waiting, options.batch or (info.max_batch if crew.gpus else 1), crew.actors)
        crew = replace(crew, actors=min(crew.actors, len(blocks)))  # Ray Data warns of workers without work
        started, failed, made = time.perf_counter(), 0, 0
        for row in _run_blocks(blocks, task, crew):
            made += row["made"]
            if row["error"]:
                console.error(row["error"])
                failed += 1
        seconds = time.perf_counter() - started
    inputs, before = len(waiting) + refused, len(pictures) - len(waiting)
    return Outcome(made, inputs, failed + refused, before, seconds, crew.actors, out.name, left_out, again)


def _without_long_names(options: Options, pictures: list[Picture], targets: _Targets) -> tuple[list[Picture], int]:
    """Keep the pictures whose outputs a folder of this machine takes, count the others: each is an error of its own."""
    kept = []
    for picture in pictures:
        paths = [Path(place.path(name)) for place, name in targets.files(picture, options, last=True) if place.local]
        if wrong := next(filter(None, (check_name(path, picture.path) for path in paths)), ""):
            console.error(wrong)
        else:
            kept.append(picture)
    return kept, len(pictures) - len(kept)


def _check_outputs(options: Options, pictures: list[Picture], places: dict[str, Place], targets: _Targets) -> None:
    sources = {_identity(places[picture.folder], picture.name) for picture in pictures}
    sources |= {identity(getattr(options, name)) for name in options.given(READ)}
    writers: dict[str, str] = {}
    suffixes: set[str] = set()
    for picture in pictures:
        for place, name in targets.files(picture, options):
            file, whole = _identity(place, name), place.full_name(name)
            if file in writers:
                others = f"{writers[file]} and {picture.path}"
                raise PspError(f"{others} would both become {whole}: rename one, or run them apart")
            if file in sources:
                raise PspError(f"{whole}, the output of {picture.path}, is an input too: choose another folder for it")
            writers[file] = picture.path
            suffixes.add(os.path.splitext(name)[1].lower())
    check_formats(options, suffixes)


def _identity(place: Place, file: str) -> str:
    """Give what the names of one file have in common. Of the folder alone: there may be a million files in it."""
    folder, name = os.path.split(place.path(file) if place.local else place.full_name(file))
    return f"{_folder_identity(folder) if place.local else folder}/{name}"


_folder_identity = functools.cache(identity)


def _crew(options: Options) -> Crew:
    """Workers as the cluster has room for. Raises `PspError` where there is none for so many."""
    nodes = [node["Resources"] for node in import_extra("ray").nodes() if node["Alive"]]
    cpus, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    if options.device == "cuda" and not gpus:
        raise DeviceError("--device cuda: this Ray cluster has no GPU")
    each = 1 if gpus and options.device != "cpu" else 0
    actors = options.actors or (gpus if each else len(nodes))
    share = options.threads or max(1, cpus // actors)
    room = int(sum(min(node.get("CPU", 0) // share, node.get("GPU", 0) if each else math.inf) for node in nodes))
    if actors > room:
        wanted = f"{share} cores and a GPU" if each else f"{share} cores"
        raise PspError(
            f"--actors {actors}: this cluster ({cpus} cores, {gpus} GPUs, {len(nodes)} machines) has room for {room} "
            f"workers of {wanted} each: give fewer --actors or --threads"
        )
    return Crew(actors, share, each)


def _blocks(pictures: list[Picture], batch: int, actors: int) -> list[Any]:
    """Pack the pictures in their order into tables of whole batches, few enough that every worker gets several."""
    turns = math.ceil(len(pictures) / (batch * actors * TURNS))
    size = batch * max(1, min(BATCHES, turns))
    pa = import_extra("pyarrow")
    rows = [asdict(picture) for picture in pictures]
    return [pa.Table.from_pylist(rows[start : start + size]) for start in range(0, len(rows), size)]


def _run_blocks(blocks: list[Any], task: Task, crew: Crew) -> Iterator[dict[str, Any]]:
    """Tell what became of each picture, as blocks are finished. Raises the `PspError` of a worker."""
    ray = import_extra("ray")
    far = ray.util.client.ray.is_connected()
    for rows in _from_far(blocks, task, crew) if far else finished(blocks, task, crew):
        for row in rows:
            if row["fatal"]:
                raise PspError(row["error"])
            yield row


def finished(blocks: list[Any], task: Task, crew: Crew) -> Iterator[list[dict[str, Any]]]:
    """Tell what became of each block, as workers answer."""
    data = import_extra("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Puts to an object store are waited for while the next block is run; on a disk a second run would only compete.
    calls = 1 if task.out.local else 2
    answers = data.from_arrow(blocks).map_batches(
        Worker,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(
            size=crew.actors, max_concurrent_calls_per_actor=calls, enable_true_multi_threading=calls > 1
        ),
        num_cpus=crew.cpus,
        num_gpus=crew.gpus,
    )
    for answer in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield answer.to_pylist()


class Foreman:
    """Deals out blocks from within the cluster: Ray Data cannot be steered through Ray Client."""

    def __init__(self, blocks: list[Any], task: Task, crew: Crew) -> None:
        self._answers = finished(blocks, task, crew)

    def next(self) -> list[dict[str, Any]]:
        """Tell what became of the next block; nothing after the last."""
        return next(self._answers, [])


def _from_far(blocks: list[Any], task: Task, crew: Crew) -> Iterator[list[dict[str, Any]]]:
    ray = import_extra("ray")
    foreman = ray.remote(num_cpus=0)(Foreman).remote(blocks, task, crew)
    while rows := ray.get(foreman.next.remote()):
        yield rows
