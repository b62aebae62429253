"""A run before it starts: what to make, from which files, into which files. Here mistakes are found."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from psp_runtime.engines import contract
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures import encoding
from psp_runtime.pictures.loading import scaled
from psp_runtime.pictures.sheets import CELL, Sheet
from psp_runtime.pipeline import Source
from psp_runtime.run import files
from psp_runtime.run.applications import Application, make_preparer
from psp_runtime.run.checks import check, check_stored
from psp_runtime.run.inputs import InputReader, PictureReader, make_input_reader
from psp_runtime.run.latents_files import LatentsWriter, read_latents
from psp_runtime.run.options import Options, flag, is_stored
from psp_runtime.run.verbs import Verb

#: Options that name a file to read, and one to write for the whole run.
READ = ("engine", "first", "mask", "to", "style_of", "direction")
WRITTEN = ("grid", "gif", "webp")
#: Options of some formats, by Pillow's names.
FORMATS = {"quality": ("JPEG", "WEBP"), "compression": ("PNG",)}


@dataclass(frozen=True)
class Plan:
    """Everything a run needs but the engine. `single`: there is one input, and it must not fail.

    `read` prepares an input; `sheet` and `latents` are there if they are asked for. `refused` says of inputs why
    they are not among the jobs, `left_out` what folders hold besides pictures.
    """

    options: Options
    application: Application
    read: InputReader
    jobs: list[files.Job]
    single: bool
    sheet: Sheet | None
    latents: LatentsWriter | None
    refused: tuple[PictureError, ...] = ()
    left_out: str = ""


def make_plan(options: Verb, info: EngineInfo) -> Plan:
    """Check everything that can be checked without the engine. Raises `PspError`; creates missing output folders."""
    read, application = make_tools(options, info)
    sources, left_out = _sources(options, info)
    single = len(sources) == 1 and not Path(options.inputs[0]).is_dir()
    latents = LatentsWriter(options.save_latents, options.inputs) if options.save_latents else None
    jobs, refused = _without_long_names(_jobs(options, application, sources, single), options, latents)
    sheet = _sheet(options, info, application, jobs)
    _check_outputs(options, jobs, latents)
    return Plan(options, application, read, jobs, single, sheet, latents, refused, left_out)


def make_tools(options: Verb, info: EngineInfo) -> tuple[PictureReader, Application]:
    """Make what reads an input, and what is made of it. Raises `PspError` for options that make no sense."""
    check(options, info)
    contract.require_full(info, options.engine)
    prepare = make_preparer(options, info)
    other = make_input_reader(replace(options, faces=None), info, prepare)

    def read_other(path: Path) -> Source:
        if not is_stored(path.name):
            return np.asarray(other(path).sources[0], np.uint8)
        found = read_latents(path, info)
        if len(found) != 1:
            raise PspError(f"{path} has the latents of {len(found)} pictures, expected one")
        return found[0][1]

    return make_input_reader(options, info, prepare), options.application(info, read_other)


def count_runs(options: Options, info: EngineInfo, inputs: int, count: int) -> int | None:
    """Estimate how often the engine runs for so many inputs, `count` pictures each; None where faces are not counted.

    What is made of an input shares the steps of ReStyle.
    """
    return None if options.several else inputs * max(count, options.iterations or info.iterations)


def _sources(options: Options, info: EngineInfo) -> tuple[list[tuple[Path, Any]], str]:
    """List each input's file, and its latents [L,S] where they are what is read; and what is left out of folders."""
    paths = [Path(name) for name in options.inputs]
    stored = [path for path in paths if not options.pictures or is_stored(path.name)]
    if not stored:
        found = files.find_pictures(paths, options.out, options.save_aligned)
        return [(picture, None) for picture in found.pictures], found.words()
    if not options.stored:
        read_latents(stored[0], info)  # of a file that holds none it says so
        raise PspError(f"{stored[0]} holds latents, expected pictures: psp decode {stored[0]} makes its pictures")
    if len(stored) < len(paths):
        raise PspError(f"{stored[0]} holds latents, the other inputs are pictures: give one kind of them")
    check_stored(options)
    return [one for path in stored for one in read_latents(path, info)], ""


def _jobs(options: Options, application: Application, sources: list[tuple[Path, Any]], single: bool) -> list[files.Job]:
    bases = files.output_bases([path for path, _ in sources], options, single)
    jobs = [
        files.make_job(path, base, application.count, options.changed, latents)
        if options.singles
        else files.Job(path, (), None, latents)
        for (path, latents), base in zip(sources, bases, strict=True)
    ]
    if not options.save_aligned:
        return jobs
    inputs, folder = [Path(name) for name in options.inputs], Path(options.save_aligned)
    return [
        replace(job, aligned=folder / files.sub_folder(job.source, inputs) / f"{job.source.stem}.png") for job in jobs
    ]


def _without_long_names(
    jobs: list[files.Job], options: Options, latents: LatentsWriter | None
) -> tuple[list[files.Job], tuple[PictureError, ...]]:
    """Keep the jobs whose outputs can have their names; say what is wrong with the others. Raises it where none can."""
    wrong = {job.source: _wrong_name(job, options, latents) for job in jobs}
    kept = [job for job in jobs if not wrong[job.source]]
    refused = tuple(PictureError(words) for words in wrong.values() if words)
    if not kept:
        raise refused[0]
    return kept, refused


def _wrong_name(job: files.Job, options: Options, latents: LatentsWriter | None) -> str:
    last = job.of_last_face(options)
    arrays = [path for _, path in _latents_files(latents, [last])] if latents else []
    return next(filter(None, (files.check_name(path, job.source) for path in (*last.written, *arrays))), "")


def _sheet(options: Options, info: EngineInfo, application: Application, jobs: list[files.Job]) -> Sheet | None:
    inputs = len(jobs)
    for name in options.given(("gif", "webp")):
        if inputs > 1 or application.count < 2:
            what = f"{inputs} inputs" if inputs > 1 else "one picture"
            raise PspError(f"{flag(name)} animates one input in several steps, given {what}")
    if not options.grid:
        return None
    shown = 0 if jobs[0].latents is not None else len(application.sources(contract.image(info).zeros(1)[0]))
    size = options.size or min(CELL, info.output_size)
    return Sheet(options.grid, inputs, shown + application.count, size, scaled(info.output_shape, size))


def _check_outputs(options: Options, jobs: list[files.Job], latents: LatentsWriter | None) -> None:
    """Refuse names that meet, folders that cannot be written into, and options of formats that nothing has."""
    whole = {flag(name): getattr(options, name) for name in options.given(WRITTEN)}
    read = [Path(getattr(options, name)) for name in options.given(READ)]
    named = [job.of_face(1, options) for job in jobs]
    pictures = [*((str(job.source), path) for job in named for path in job.written), *whole.items()]
    arrays = _latents_files(latents, named) if latents else []
    files.check_clashes([*pictures, *arrays], [*(job.source for job in jobs), *read])
    for path in whole.values():
        if path.is_dir():
            raise PspError(f"cannot write {path}: it is a folder, expected the name of a file")
    check_formats(options, {path.suffix.lower() for _, path in pictures})
    for folder in {path.parent for _, path in [*pictures, *arrays]}:
        files.make_writable(folder)


def _latents_files(latents: LatentsWriter, jobs: list[files.Job]) -> list[tuple[str, Path]]:
    """Name one file for all latents, or one for each input."""
    if latents.file:
        return [("--save-latents", latents.file)]
    return [(str(job.source), latents.path(job.source)) for job in jobs]


def check_formats(options: Options, suffixes: set[str]) -> None:
    """Raise `PspError` for options of formats that nothing is written in; `suffixes` such as ".png"."""
    kinds = {encoding.FORMATS.get(suffix, "GIF") for suffix in suffixes}
    for name in options.given(FORMATS):
        if not kinds & set(FORMATS[name]):
            given = f"this run writes {' and '.join(sorted(kinds)) or 'no pictures'}"
            raise PspError(f"{flag(name)} is for {' and '.join(FORMATS[name])} files, {given}")
