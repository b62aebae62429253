"""What a single picture costs: seconds from the start of the process to the saved picture, and peak memory.

    python benchmarks/startup.py [--size 1024] [--small] [--fp16] [--repeats 5]

`psp-run picture.png --engine psp.onnx --device cpu` runs as a process of its own, in turns: without anything kept
(PSP_CACHE=off), with an empty cache (the first run on a machine, once), and with the optimised graph kept by the run
before. `warm` is a run in a process where the engine is already open. The engine is the published architecture on
seeded weights.

Seconds are wall clock from starting Python to its end. Memory is the largest resident set, as the kernel counts it:
weights that are mapped from a file and shared with other processes are in it. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measure import machine
from measure.timing import warm
from measure.workloads import FULL, Workload, inputs, our_engine
from PIL import Image

from psp_runtime.engines.session import OnnxSession

#: Runs a command and prints its seconds and peak memory. In a small process of its own: the kernel counts what the
#: parent has in memory when it starts a child as the child's, and this benchmark has torch.
MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


class Cost(NamedTuple):
    """Seconds and peak bytes of one process."""

    seconds: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--small", action="store_true", help="the widths of the bundled demo model, up to 256 pixels")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    workload = Workload(options.size, 1, options.small)
    engine = our_engine(workload, FULL, "fp16" if options.fp16 else "fp32")
    with tempfile.TemporaryDirectory() as folder:
        costs = run_processes(engine, Path(folder), options.repeats)
    seconds = warm_seconds(engine, workload, options.repeats)
    report(costs, seconds, engine, options)


def run_processes(engine: Path, folder: Path, repeats: int) -> dict[str, list[Cost]]:
    """The costs of every way to start, the repeated ones in turns."""
    picture, kept = folder / "picture.png", folder / "cache"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(picture)
    run_process(engine, picture, "off")  # the file is read from disk once
    costs = {"first": [run_process(engine, picture, str(kept))], "kept": [], "nothing kept": []}
    for _ in range(repeats):
        costs["kept"].append(run_process(engine, picture, str(kept)))
        costs["nothing kept"].append(run_process(engine, picture, "off"))
    return costs


def run_process(engine: Path, picture: Path, cache: str) -> Cost:
    """One `psp-run` from start to end. Raises `RuntimeError` when it fails."""
    command = [sys.executable, "-m", "psp_runtime", str(picture), "--engine", str(engine), "--device", "cpu"]
    command += ["--out", str(picture.with_name("result.png"))]
    environment = os.environ | {"PSP_CACHE": cache, "PSP_CPU": "onnxruntime"}
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"psp-run ended with {done.returncode}: {done.stderr.strip()}")
    seconds, peak = map(float, done.stdout.split())
    return Cost(seconds, int(peak) * (1 if sys.platform == "darwin" else 1024))


def warm_seconds(engine: Path, workload: Workload, repeats: int) -> list[float]:
    """Seconds of runs of the open engine."""
    arrays, times = inputs(workload, FULL), []
    with closing(OnnxSession(engine, "cpu")) as session:
        warm(lambda: session.run(arrays), "cpu")
        for _ in range(repeats):
            started = time.perf_counter()
            session.run(arrays)
            times.append(time.perf_counter() - started)
    return times


def report(costs: dict[str, list[Cost]], seconds: list[float], engine: Path, options: argparse.Namespace) -> None:
    """Table and JSON."""
    size, warm_run = engine.stat().st_size, statistics.median(seconds)
    print(f"{'':14}{'seconds':>24}{'peak memory':>14}{'of the file':>13}")
    rows = {}
    for name, runs in costs.items():
        median, peak = statistics.median(run.seconds for run in runs), max(run.peak for run in runs)
        spread = f"({min(run.seconds for run in runs):.2f} to {max(run.seconds for run in runs):.2f})"
        print(f"{name:14}{median:8.2f} {spread:>15}{peak / 1e9:11.2f} GB{peak / size:12.2f}x")
        rows[name] = {"seconds": round(median, 3), "peak_gb": round(peak / 1e9, 3), "of_file": round(peak / size, 3)}
    print(f"{'warm':14}{warm_run:8.2f} {f'({min(seconds):.2f} to {max(seconds):.2f})':>15}")
    facts = {"benchmark": "startup", "size": options.size, "small": options.small, "file_gb": round(size / 1e9, 3)}
    facts |= {"precision": "fp16" if options.fp16 else "fp32", "machine": machine.describe("cpu")}
    print(json.dumps(facts | {"warm_seconds": round(warm_run, 3), "rows": rows}))


if __name__ == "__main__":
    main()
