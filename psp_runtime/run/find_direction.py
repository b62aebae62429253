"""`psp direction`: learn an edit direction from labelled pictures, or compute some from the generator."""

import csv
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from psp_runtime.arrays.files import read_array
from psp_runtime.console import INPUT, MAKE, SAVE, WHERE, Device, Talk, counted, option
from psp_runtime.directions import fit_direction
from psp_runtime.disk import noticing
from psp_runtime.engines.contract import require_full
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.engines.precision import Precision
from psp_runtime.engines.session import open_session
from psp_runtime.errors import PspError
from psp_runtime.latents import as_latents
from psp_runtime.pictures.folders import spelled
from psp_runtime.pictures.loading import load_input
from psp_runtime.pipeline import Pipeline, Source
from psp_runtime.prefetch import MOST_THREADS, THREADS, parallel_map
from psp_runtime.run import files
from psp_runtime.run.latents_files import save_array
from psp_runtime.run.options import MOST_BATCH, flag, is_stored
from psp_runtime.run.sefa import sefa_directions

#: A number in the place of a label: such a row is no heading, but a row with a wrong label.
_NUMBER = re.compile(r"[-+]?[\d.]+")
#: Directions of --sefa.
COUNT = 10
#: Characters of a wrong row in an error.
MOST_SHOWN = 100
#: Below this accuracy on held-out examples a direction is doubtful.
GUESSING = 0.6


@dataclass(frozen=True, kw_only=True)
class Direction(Talk):
    """Find directions for psp edit, as NAME.npy.

    Learn one from examples, rows PICTURE,0 or PICTURE,1 (or saved latents), or compute several from the generator
    (--sefa).
    """

    table: Annotated[
        Path | None, typer.Argument(metavar="TABLE.csv", help="The examples; names are relative to it.")
    ] = None
    engine: Annotated[Path, option(INPUT, "The engine that encodes them.", "--engine", "-e")]
    latents: Annotated[
        Path | None, option(INPUT, "The latents [N,L,S] of a table of labels alone.", metavar="LATENTS.npy")
    ] = None
    sefa: Annotated[bool, option(MAKE, "Instead of a table: the strongest directions of the weights.", "--sefa")] = (
        False
    )
    layers: Annotated[str | None, option(MAKE, "--sefa: of which layers, 2-5 (all).", metavar="LAYERS")] = None
    count: Annotated[int | None, option(MAKE, f"--sefa: how many ({COUNT}).", "--count", "-n", min=1)] = None
    rows_before: Annotated[
        bool, option(MAKE, "--sefa: move the row before each layer, as the published code.", "--rows-before")
    ] = False
    out: Annotated[
        Path | None, option(SAVE, "The file (TABLE.npy or sefa.npy, here).", "--out", "-o", metavar="NAME.npy")
    ] = None
    device: Annotated[Device, option(WHERE, "As for psp run.")] = "auto"
    precision: Annotated[Precision, option(WHERE, "As for psp run.")] = "auto"
    batch: Annotated[int | None, option(WHERE, "Pictures per inference.", min=1, max=MOST_BATCH)] = None
    threads: Annotated[int, option(WHERE, "Threads that read pictures.", min=1, max=MOST_THREADS)] = THREADS


def find_direction(options: Direction) -> None:
    """Find what the options ask for, and write it as .npy. Raises `PspError` for options that exclude each other."""
    options = replace(options, engine=find_engine(options.engine, options.device))
    info = read_info(options.engine)
    require_full(info, options.engine)
    given = [flag(name) for name in ("layers", "count", "rows_before") if getattr(options, name)]
    if options.sefa and (options.table or options.latents):
        raise PspError("--sefa computes directions from the engine alone: leave out the examples, or --sefa")
    if not options.sefa and given:
        raise PspError(f"{given[0]} goes with --sefa, which is not given")
    if options.sefa:
        _compute(options, info)
    elif options.table:
        _learn(options, info, options.table)
    else:
        raise PspError("expected examples or --sefa: psp direction TABLE.csv --engine ENGINE")


def _compute(options: Direction, info: EngineInfo) -> None:
    """Compute the strongest directions of the generator."""
    target = _target(options, [])
    count = options.count or min(COUNT, info.style_dim)
    found = sefa_directions(options.engine, info, options.layers, count, options.rows_before)
    replaced = _save(target, found)
    rows = np.flatnonzero(found[0].any(1)).tolist()
    where = f"rows {rows[0]} to {rows[-1]}" if len(rows) > 1 else f"row {rows[0]}"
    order = ", the strongest first" if count > 1 else ""
    print(
        f"{target}: {counted(count, 'direction')} of {where}{order}; next, "
        f"psp edit PICTURE --engine {options.engine} --direction {target} --component 0 --strength -5:5:5{replaced}"
    )


def _learn(options: Direction, info: EngineInfo, table: Path) -> None:
    """Learn a direction from a table of pictures (or saved latents) and labels."""
    names, labels = read_table(table)
    examples = [] if options.latents else list(_there(_listed(table, name) for name in names))
    target = _target(options, examples)
    if options.latents:
        latents = as_latents(read_array(options.latents), info, f"--latents {options.latents}")
        if len(latents) != len(labels):
            pictures = counted(len(latents), "picture")
            raise PspError(f"{table} has {counted(len(labels), 'row')}, {options.latents} the latents of {pictures}")
    else:
        latents = _encode(options, info, examples)
    found = fit_direction(latents, np.array(labels))
    if found.accuracy < GUESSING:
        warnings.warn(
            f"only {found.accuracy:.0%} of held-out examples are told apart, guessing gets 50%: {target} may mean "
            "nothing; give more examples, or a property that the engine's pictures show",
            stacklevel=1,
        )
    replaced = _save(target, found.step)
    counts = f"{len(labels)} examples, {sum(labels)} of label 1"
    judged = f"{found.accuracy:.0%} of held-out ones right, penalty {found.penalty:g}"
    print(f"{target}: a direction [{info.styles},{info.style_dim}] from {counts}; {judged}")
    print(f"next: psp edit PICTURE --engine {options.engine} --direction {target}{replaced}")


def _save(target: Path, found: NDArray[np.float32]) -> str:
    """Write a file; the last line to print if it was of another run."""
    replaced: list[Path] = []
    with noticing(target, replaced):
        save_array(target, found)
    return f"\nreplaced what another run had made: {target}" if replaced else ""


def read_table(table: Path) -> tuple[list[str], list[int]]:
    """Read names and labels of a CSV file of rows `picture,0-or-1`; a first row with a word for a label is a heading.

    Raises `PspError` that names the first row that is neither.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_checked(table, csv.reader(file)))
    except OSError as error:
        raise PspError(f"cannot read {table}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise PspError(f"cannot read {table}: not a CSV file ({error})") from error
    if not rows:
        raise PspError(f"{table} has no rows: expected lines such as face.png,1")
    return [row[0] if len(row) == 2 else "" for row in rows], [int(row[-1]) for row in rows]


def _checked(table: Path, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Yield the rows but a heading, as they are read: of a large table the first wrong row is named at once."""
    begun = False
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not cells or (not begun and not _NUMBER.fullmatch(cells[-1])):
            begun = begun or bool(cells)
            continue
        begun = True
        if len(cells) > 2 or cells[-1] not in ("0", "1") or "\0" in cells[0]:
            given = repr(",".join(cells)[:MOST_SHOWN])
            raise PspError(f"{table}, line {number}: expected PICTURE,0 or PICTURE,1, given {given}")
        yield cells


def _listed(table: Path, name: str) -> Path:
    """Find a file of the table: names are relative to its folder."""
    if not name:
        raise PspError(f"{table} has labels only: add the picture to each line, or give their latents with --latents")
    return spelled(table.parent / name)


def _there(examples: Iterable[Path]) -> Iterator[Path]:
    """Yield files that are there. Raises `PspError` at the first that is not."""
    for path in examples:
        if not path.exists():
            raise PspError(f"cannot read {path}: No such file or directory")
        yield path


def _target(options: Direction, examples: list[Path]) -> Path:
    target = options.out or Path(f"{options.table.stem if options.table else 'sefa'}.npy")
    if target.is_dir() or target.suffix != ".npy":
        raise PspError(f"--out {target}: expected a name that ends in .npy, for the direction")
    read = [options.engine, *examples, *(one for one in (options.table, options.latents) if one)]
    files.check_clashes([("psp direction", target)], read)
    files.make_writable(target.parent)
    return target


def _encode(options: Direction, info: EngineInfo, paths: list[Path]) -> NDArray[np.float32]:
    """Compute the latents [N,L,S] of pictures and of .npy files with the latents of one picture."""
    runs = len(paths)
    session = open_session(options.engine, options.device, runs, options.precision)
    with Pipeline(session, options.batch, runs) as pipeline:
        waiting = 2 * pipeline.batch + options.threads
        with closing(parallel_map(partial(_read, info), paths, options.threads, waiting)) as sources:
            return np.concatenate(list(_each(pipeline, sources)))


def _read(info: EngineInfo, path: Path) -> Source:
    """Read a prepared picture, or latents [L,S]."""
    if not is_stored(path.name):
        return load_input(path, info)
    found = as_latents(read_array(path), info, str(path))
    if len(found) != 1:
        raise PspError(f"{path} has the latents of {len(found)} pictures, expected one per line of the table")
    return np.asarray(found[0])


def _each(pipeline: Pipeline, sources: Iterable[Any]) -> Iterable[NDArray[np.float32]]:
    """Give latents [B,L,S], a batch at a time: `encode` gives latents back as they are."""
    for _, alike in groupby(sources, lambda source: source.dtype):
        while batch := list(islice(alike, pipeline.batch)):
            yield pipeline.encode(np.stack(batch))
