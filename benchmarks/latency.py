"""Seconds per picture of every architecture in the paper's runtime column, on every backend of this machine.

    python benchmarks/latency.py                      # everything at 1024, batch 1
    python benchmarks/latency.py --peers --plot latency.png --json benchmarks/results
    python benchmarks/latency.py --engine psp.onnx    # one file of yours

The models are the published architecture on seeded weights. Sides: the baseline (`baseline.py`) in eager
torch and as torch exports it to ONNX; the files psp-export writes, in ONNX Runtime, OpenVINO and TensorRT; with --peers
also the baseline on OpenVINO and in torch.compile, and in INT8 by ONNX Runtime's quantize_static and by NNCF, where it
is installed. Each precision the machine has is a side of its own; INT8 is of the whole model alone (`quantised.py`).
Engine files are made in the first run and cached
(`workloads.py`). ALAE, IDInvert and the generator of Rotate-and-Render are networks of others (`measure/peers`): they
run in torch and as torch exports them, constants folded, at their published sides; there is no engine of ours.

Protocol. Timed is from uint8 host array to uint8 host array, copies and waiting for the GPU included; reading and
writing picture files is not. `device` is the time on the GPU: for torch without the copies, for plans with them, as the
session tells it; on a CPU there is no such difference. Before a side is timed, its weights are loaded, it is warm, and
its result has been compared with that of our first side. Then those two take turns, A B A B, each at least 3 times and
until it had --seconds; so our times are spread over the whole run, between those of all others. Tables show the median
and the 95th percentile (of fewer than 20 runs: the slowest).
Thread counts are the libraries' defaults; leave OMP_NUM_THREADS alone, it would slow torch and not ONNX Runtime.

What a side really multiplies in, and the PSNR of its picture to that of our first side, stand behind sides that are not
FP32. An INT8 picture beyond its gate is a note, and not timed; of others it would be an error.

What is compared. `x paper` is against the paper's seconds on a Tesla P40; `x eager`, `x ONNX` and `x OpenVINO` against
the baseline on torch, ONNX Runtime and OpenVINO in the same run; `of floor` is the floor of `roofline.py` over
the time, 1 at best; its limits are measured between the pieces. The generator is timed once for the encoders that
share it. The networks of others have no `x paper`, because the paper's seconds are for something else or nobody knows
how they were taken (the notes in the table), but `x pSp`: pSp on the same backend, of ours where there is one.

The last line is JSON. Exit code 1 where a side gives another picture.
"""

import argparse
import ctypes
import datetime
import functools
import gc
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
from measure import charts, machine, report, roofline
from measure.backends import BACKENDS, OURS, Runner, Side, default_device, open_file, peer_sides, sides
from measure.timing import Times, take_turns, warm
from measure.workloads import SIZES, Piece, Workload, seeded_checkpoint

from psp_export.verify.parity import GATES, LATENTS_GATES, psnr
from psp_runtime.engines import contract
from psp_runtime.engines.info import read_info
from psp_runtime.engines.precision import lacks_bf16
from psp_runtime.errors import PspError

Result = TypeVar("Result")
#: How near to each other two sides must be: the gates of the export, and wider ones for bf16, which has 8 bits, and for
#: INT8: seeded weights, few pictures to calibrate on, and on some CPUs sums that saturate.
PICTURES, LATENTS = GATES | {"bf16": 40.0, "int8": 20.0}, LATENTS_GATES | {"bf16": 5e-2, "int8": 1.0}
#: Why something was not measured, and what.
Notes = dict[str, list[str]]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.engine:
            print(json.dumps(time_file(options)))
            return 0
        result = run(options)
        publish(result, options)
    except PspError as error:
        print(error, file=sys.stderr)
        return 2
    except DifferentPicture as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, defaults filled in for this machine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, choices=SIZES, default=1024, help="side of the picture in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="the widths of the bundled demo model, up to 256 pixels")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="only these, peers included")
    parser.add_argument("--precision", action="append", choices=report.PRECISIONS, help="of our engines, and of peers")
    parser.add_argument("--peers", action="store_true", help="also the baseline on other backends, and in INT8")
    names = [row.name for row in report.ROWS]
    parser.add_argument("--row", action="append", choices=names, help="only these rows of the table")
    parser.add_argument("--engine", type=Path, help="time this engine file alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="of turns for a piece on every side")
    parser.add_argument("--json", type=Path, help="also write the result to this file, or dated into this folder")
    parser.add_argument("--plot", type=Path, help="draw the chart into this picture file")
    options = parser.parse_args(arguments)
    if options.batch < 1 or (options.small and options.size > 256):
        parser.error("--batch takes 1 or more; --small has no weights above --size 256")
    options.device = default_device()
    options.precision = options.precision or default_precisions(options.device)
    options.peers = options.peers or bool(options.backend)
    options.backend = options.backend or list(BACKENDS)
    options.row = options.row or names
    return options


def default_precisions(device: str) -> list[str]:
    """What is timed without --precision: what the device has."""
    if device == "cuda":
        return ["fp32", "fp16", "int8"]
    return ["fp32", "int8"] if lacks_bf16() else ["fp32", "bf16", "int8"]


def run(options: argparse.Namespace) -> dict:
    """Measure everything; the result as JSON has it."""
    workload = Workload(options.size, options.batch, options.small)
    every = sides(options.device, options.backend, options.precision)
    competitors = [side for side in every if options.peers or not side.optional]
    others = peer_sides(options.device, options.backend)
    limits = {name: roofline.measure(options.device, name) for name in {*options.precision, "fp32"}}
    pieces: report.Pieces = {}
    notes: Notes = {}
    for piece in report.pieces_of(options.row):
        pieces[piece] = time_piece(piece, others if piece.peer else competitors, workload, options.seconds, notes)
        limits = {name: limit.best(roofline.measure(options.device, name)) for name, limit in limits.items()}
    work = {piece: roofline.work(workload, piece) for piece in pieces}
    return conditions(options) | {
        "limits": {name: asdict(limit) for name, limit in limits.items()},
        "gflop": {report.piece_name(piece): round(work[piece].gflop, 3) for piece in pieces},
        "pieces": {report.piece_name(piece): _rounded(times) for piece, times in pieces.items()},
        "rows": report.rows(list(dict.fromkeys([*competitors, *others])), pieces, work, limits, workload),
        "notes": notes,
    }


def conditions(options: argparse.Namespace) -> dict:
    """What is measured, when and on what: known before anything is."""
    return {
        "benchmark": "latency",
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine.describe(options.device),
        "workload": asdict(Workload(options.size, options.batch, options.small)),
    }


def time_piece(
    piece: Piece, competitors: list[Side], workload: Workload, seconds: float, notes: Notes
) -> dict[str, dict[str, float | str]]:
    """The times of every side that can run a piece, with what it computes in and its PSNR to our first side.

    Why the others cannot goes into `notes`.

    Only two are open at a time, our first one and one other: the baseline alone takes 6 GB in ONNX Runtime.
    """
    # Files first: making one takes as much memory as running it.
    ready = [attempt(side, piece, notes, lambda side: side.prepared(workload, piece)) for side in competitors]
    seeded_checkpoint.cache_clear()
    tidy()
    times: dict[str, Times] = defaultdict(Times)
    facts: dict[str, dict[str, float | str]] = {}
    first: Opened | None = None
    for side in sorted(filter(None, ready), key=lambda side: side.form != OURS):
        other = attempt(side, piece, notes, functools.partial(Opened.of, workload, piece, first))
        if other and first:
            take_turns([first.runner, other.runner], seconds, [times[first.side.name], times[side.name]])
            other.runner.close()
        if other:
            facts[side.name] = {"computed": other.runner.computed} | other.fidelity
        first = first or other
        del other
        tidy()
    if first:
        if not times:
            take_turns([first.runner], seconds, [times[first.side.name]])
        first.runner.close()
    return {side.name: times[side.name].summary() | facts[side.name] for side in competitors if side.name in times}


def attempt(side: Side, piece: Piece, notes: Notes, step: Callable[[Side], Result]) -> Result | None:
    """What a step makes of a side; None where the side refuses, the reason in `notes`."""
    progress(f"{report.piece_name(piece)}: {side.name}")
    try:
        return step(side)
    except PspError as error:
        notes.setdefault(str(error), []).append(f"{report.piece_name(piece)} on {side.name}")
        return None


class DifferentPicture(Exception):
    """A side that does not compute what the others do: its time would mean nothing."""


class Opened:
    """A side that is open and warm, with the result it gave, and the PSNR of its picture to that of `first`."""

    def __init__(self, side: Side, runner: Runner, first: "Opened | None" = None) -> None:
        self.side, self.runner = side, runner
        tidy()  # of what opening took
        self.result = warm(runner.run, side.device)
        self.fidelity: dict[str, float] = {}
        if first:
            self.compare(first)
            pictures = [one.result["output"].astype(float) for one in (self, first) if "output" in one.result]
            self.fidelity = {"psnr": round(psnr(pictures[0] - pictures[1]), 1)} if pictures else {}

    @classmethod
    def of(cls, workload: Workload, piece: Piece, first: "Opened | None", side: Side) -> "Opened":
        """Open a prepared side."""
        return cls(side, side.open(workload, piece), first)

    def compare(self, other: "Opened") -> None:
        """Raise `DifferentPicture` where the picture or the latents are not those of the other side.

        In INT8 it is a `PspError`: what a quantiser makes of these weights is no error of ours, nor worth timing.
        """
        precision = max(self.side.precision, other.side.precision, key=LATENTS.__getitem__)
        for name, array in self.result.items():
            wrong = difference(array, other.result[name], precision)
            if wrong:
                words = f"{self.side.name} differs from {other.side.name} in {name}: {wrong}"
                raise (PspError if precision == "int8" else DifferentPicture)(words)


def tidy() -> None:
    """Give freed memory back to the system: gigabytes, which glibc would keep for itself."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def difference(array: np.ndarray, expected: np.ndarray, precision: str) -> str:
    """How far pictures (uint8) or latents (float32) are apart, in words; empty where they agree."""
    error = np.abs(array.astype(np.float64) - expected)
    if array.dtype == np.uint8:
        found = psnr(error)
        return "" if found >= PICTURES[precision] else f"{found:.1f} dB"
    relative = float(error.max() / np.abs(expected).max())
    return "" if relative <= LATENTS[precision] else f"a relative error of {relative:.1e}"


def time_file(options: argparse.Namespace) -> dict:
    """The times of one engine file. No ratio: which reference its weights belong to is not known."""
    info = read_info(options.engine)
    contract.require_full(info, options.engine)
    inputs = contract.full_inputs(info, contract.image(info).zeros(options.batch))
    runner = open_file(options.engine, "auto", inputs)
    warm(runner.run, options.device)
    name, turns = str(options.engine), Times()
    take_turns([runner], options.seconds, [turns])
    times = turns.summary()
    runner.close()
    words = ", ".join(f"{key} {report.clock(times[key])}" for key in ("median", "p95", "device") if key in times)
    print(f"{name}: {words} for a batch of {options.batch} ({int(times['runs'])} runs)")
    facts = {"engine": name, "batch": options.batch, "output_size": info.output_size, "precision": info.precision}
    return {"benchmark": "latency", **facts, "machine": machine.describe(options.device), "seconds": times}


def publish(result: dict, options: argparse.Namespace) -> None:
    """Print the table and the JSON line, write what files were asked for."""
    progress("")
    print(*report.show(result), sep="\n")
    if options.plot:
        charts.latency(result, options.plot)
    if options.json:
        write_json(result, options.json)
    print(json.dumps(result))


def write_json(result: dict, target: Path) -> None:
    """Write a result to a file, or under its date, benchmark and device into a folder."""
    if target.is_dir():
        kind = f"{result['machine']['device']}{result['machine']['cores']}"
        target = target / f"{result['benchmark']}_{result['date'][:10]}_{kind}.json"
    target.write_text(json.dumps(result, indent=1) + "\n")


def progress(words: str) -> None:
    """Say what is being done, since the first run takes half an hour: in one line of a terminal, or lines of a log."""
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)
    elif words:
        print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def _rounded(times: dict[str, dict[str, float | str]]) -> dict[str, dict[str, float | str]]:
    def rounded(value: float | str) -> float | str:
        return value if isinstance(value, str) else round(value, 6)

    return {side: {name: rounded(value) for name, value in values.items()} for side, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
