"""How the cost grows: milliseconds and GFLOP of our engines over the size of the picture and over the batch.

    python benchmarks/scaling.py [--plot scaling.png] [--json benchmarks/results]

Two sweeps on one machine, for each --precision after the other: the generator alone from 64 to 1024 pixels at batch 1
(the encoder always sees 256 pixels), and the whole model at --batch-size pixels in batches of 1 to 16.
Work is 2 x multiply-accumulate of `roofline.py`:
32, 91 and 151 GFLOP for the generator at 64, 256 and 1024. At a constant speed both lines of a panel have the same
shape; a line of time that is flatter at first shows an overhead, one that bends upwards a limit of memory.

Timed as in `latency.py`, from host array to host array; all points of a sweep take turns. The last line is JSON.
"""

import argparse
import datetime
import json
import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from latency import write_json
from measure import charts, machine, roofline
from measure.backends import BACKENDS, OURS, Runner, Side, default_device, session_runner
from measure.report import PRECISIONS
from measure.timing import Times, take_turns, warm
from measure.workloads import MAX_BATCH, SIZES, Piece, Workload, inputs

from psp_runtime.errors import PspError

#: Files with the encoder W are a tenth of those with the pSp encoder, and the generator beside it is the same.
GENERATOR, WHOLE = Piece("w", "generator"), Piece("psp", "full")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    device = default_device()
    sides = [Side(options.backend, OURS, precision, device) for precision in options.precision]
    try:
        sizes, batches = [], []
        for side in sides:
            sizes += sweep_sizes(side, [Workload(size, 1, options.small) for size in options.sizes], options.seconds)
            whole = Workload(options.batch_size, 1, options.small)
            batches += sweep_batches(side, whole, options.batches, options.seconds)
        result = {
            "benchmark": "scaling",
            "date": datetime.datetime.now().isoformat(timespec="minutes"),
            "command": " ".join(["python", *sys.argv]),
            "machine": machine.describe(device),
            "engine": sides[0].name,
            "small": options.small,
            "batch_size": options.batch_size,
            "sizes": sizes,
            "batches": batches,
        }
        publish(result, options)
    except PspError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, help="default: all")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16], help=f"up to {MAX_BATCH}")
    parser.add_argument("--batch-size", type=int, choices=SIZES, default=256, help="pixels in the sweep of batches")
    parser.add_argument("--small", action="store_true", help="the widths of the bundled demo model, up to 256 pixels")
    parser.add_argument("--backend", choices=[name for name in BACKENDS if name != "torch"], default="onnxruntime")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="once or more; default: fp32")
    parser.add_argument("--seconds", type=float, default=3.0, help="for every point")
    parser.add_argument("--json", type=Path, help="also write the result to this file, or dated into this folder")
    parser.add_argument("--plot", type=Path, help="draw the chart into this picture file")
    options = parser.parse_args(arguments)
    options.sizes = sorted(options.sizes or [size for size in SIZES if size <= (256 if options.small else 1024)])
    options.batches = sorted(options.batches)
    options.precision = list(dict.fromkeys(options.precision or ["fp32"]))
    if not all(1 <= batch <= MAX_BATCH for batch in options.batches):
        parser.error(f"--batches {options.batches}: expected 1 to {MAX_BATCH}")
    if options.small and max(*options.sizes, options.batch_size) > 256:
        parser.error("--small has no weights above 256 pixels")
    return options


def sweep_sizes(side: Side, workloads: list[Workload], seconds: float) -> list[dict]:
    """The generator at every size: all engines open at once."""
    with ExitStack() as stack:
        runners = [side.open(workload, GENERATOR) for workload in workloads]
        for runner in runners:
            stack.callback(runner.close)
        times = warm_turns(runners, side.device, seconds)
    works = [roofline.work(workload, GENERATOR).gflop for workload in workloads]
    computed = [runner.computed for runner in runners]
    return [point(side, "size", *values) for values in zip((w.size for w in workloads), times, works, computed)]


def sweep_batches(side: Side, workload: Workload, batches: list[int], seconds: float) -> list[dict]:
    """The whole model in batches of several sizes, one session for all."""
    with closing(side.session(workload, WHOLE)) as session:
        runners = [session_runner(session, inputs(replace(workload, batch=batch), WHOLE)) for batch in batches]
        times, computed = warm_turns(runners, side.device, seconds), session.precision
    gflop = roofline.work(workload, WHOLE).gflop
    return [point(side, "batch", batch, turns, batch * gflop, computed) for batch, turns in zip(batches, times)]


def warm_turns(runners: list[Runner], device: str, seconds: float) -> list[Times]:
    """All points of a sweep, warm and in turns."""
    times = [Times() for _ in runners]
    for runner in runners:
        warm(runner.run, device)
    take_turns(runners, seconds, times)
    return times


def point(side: Side, key: str, value: int, times: Times, gflop: float, computed: str) -> dict:
    """One point of the line of a precision; `computed` is what it really multiplied in."""
    summary = times.summary()
    ms = {name: round(1e3 * summary[field], 3) for name, field in (("ms", "median"), ("ms_p95", "p95"))}
    facts = {"precision": side.precision, "computed": computed}
    return facts | {key: value, **ms, "gflop": round(gflop, 3), "gflop_per_second": round(gflop / summary["median"], 2)}


def publish(result: dict, options: argparse.Namespace) -> None:
    """Print the tables and the JSON line, write what files were asked for."""
    print(f"{result['engine']} on {result['machine']['name']}, threads: {result['machine']['threads']}")
    for key, points in (("size", result["sizes"]), ("batch", result["batches"])):
        print(f"\n{key:>6}{'ms':>12}{'p95':>12}{'GFLOP':>10}{'GFLOP/s':>10}  precision, computed in")
        for p in points:
            times = f"{p[key]:6}{p['ms']:12.2f}{p['ms_p95']:12.2f}{p['gflop']:10.1f}{p['gflop_per_second']:10.1f}"
            print(f"{times}  {p['precision']}, {p['computed']}")
    if options.plot:
        charts.scaling(result, options.plot)
    if options.json:
        write_json(result, options.json)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
