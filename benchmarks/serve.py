"""A served engine under load: pictures/s and latency of 1, 4 and 16 callers against the bare pipeline, on both faces.

    python benchmarks/serve.py                            # published widths at 256, seeded weights, ONNX Runtime
    python benchmarks/serve.py --demo --requests 1000     # the bundled model, and a long run: lost requests, memory
    python benchmarks/serve.py --engine psp.trt           # an engine of yours

Protocol: psp-serve runs on a loopback port; each caller keeps one connection and sends one picture at a time, the next
when it has the answer: tensors to the Open Inference Protocol (infer), a PNG file to POST /translate (translate), which
reads and writes picture files besides. The bare pipeline translates the same pictures in its own default batches, with
the same threads as the server, while that is idle. All sides take turns, --repeats times, after one round that is not
counted. Shown are the median, least and most pictures/s, the median's share of the bare pipeline's, and p50 and p99 of
the latency over all requests of all turns.

The long run sends --requests from 16 callers to each face and counts those that are not answered with a picture. Memory
is the proportional set of psp-serve and all its processes, after the first and after the last 100 requests.

Cost model: a picture costs the engine, and 0.2 MB in and 0.2 MB out (at 256) through HTTP, a millisecond or two of a
core; /translate decodes and encodes a PNG as well. Callers and server share the cores with the engine here; what they
take is what the served side lacks. The last line is JSON.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from measure import machine
from measure.server import Caller, Server, environment
from measure.workloads import FULL, Workload, our_engine

from psp_export.export import Options, export
from psp_runtime.engines import contract
from psp_runtime.engines.info import read_info
from psp_runtime.pictures import png
from psp_train.checkpoints.psp import load_demo_checkpoint

CALLERS, FACES = (1, 4, 16), ("infer", "translate")
#: Runs beside the server: a line with a number of pictures comes in, the seconds they took go out.
BARE = """
import sys, time, numpy, psp_runtime
with psp_runtime.load(sys.argv[1]) as pipeline:
    shape = pipeline.prepare([]).shape[1:]
    for line in sys.stdin:
        pixels = numpy.full((int(line), *shape), 127, numpy.uint8)
        pixels %= pipeline.info.classes if pipeline.info.input == "labels" else 255
        started = time.perf_counter()
        pipeline.translate(pixels)
        print(time.perf_counter() - started, flush=True)
"""


class Bare:
    """The pipeline without a server, in a process of its own."""

    def __init__(self, engine: Path) -> None:
        command = [sys.executable, "-c", BARE, str(engine)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment(), text=True, bufsize=1, **pipes)

    def seconds(self, pictures: int) -> float:
        self.process.stdin.write(f"{pictures}\n")
        return float(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, help="a finished engine")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--pictures", type=int, default=32, help="of each side in each turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=0, help="of the long run; 0 is none")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        engine = asked.engine or write_engine(asked, Path(folder))
        bare, server = Bare(engine), Server(engine)
        try:
            rows = compare(bare, server, engine, asked)
            long_run = {face: endure(server, engine, face, asked.requests) for face in FACES if asked.requests}
        finally:
            bare.stop()
            server.stop()
        info = read_info(engine)
    facts = {"benchmark": "serve", "size": info.output_size, "precision": info.precision, "demo": asked.demo}
    facts |= {"pictures": asked.pictures, "repeats": asked.repeats, "machine": machine.describe("cpu")}
    print(json.dumps(facts | {"command": " ".join(sys.argv), "rows": rows, "long_run": long_run}))


def write_engine(asked: argparse.Namespace, folder: Path) -> Path:
    """The bundled model, or the published widths at 256 with seeded weights."""
    precision = "fp16" if asked.fp16 else "fp32"
    if not asked.demo:
        return our_engine(Workload(256), FULL, precision)
    export(load_demo_checkpoint("inversion"), Options(folder / "psp", precision, "onnx", verify=False))
    return folder / "psp.onnx"


def compare(bare: Bare, server: Server, engine: Path, asked: argparse.Namespace) -> list[dict]:
    """One row for the bare pipeline, and one for each face and number of callers."""
    rates: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    sides: dict[str, Callable[[], tuple[float, list[float]]]] = {"bare": lambda: (bare.seconds(asked.pictures), [])}
    for face, count in itertools.product(FACES, CALLERS):
        sides[f"{face} {count}"] = lambda face=face, count=count: call(server, engine, face, count, asked.pictures)
    for turn in range(asked.repeats + 1):
        for name, side in sides.items():
            seconds, each = side()
            if turn:  # the first warms up
                rates.setdefault(name, []).append(asked.pictures / seconds)
                latencies.setdefault(name, []).extend(each)
    rows = [summarise(name, rates[name], latencies[name], rates["bare"]) for name in sides]
    show(rows)
    return rows


def call(server: Server, engine: Path, face: str, callers: int, pictures: int) -> tuple[float, list[float]]:
    """Seconds in all and of each request. Raises `RuntimeError` for one without a picture."""
    picture, each = one_picture(engine), []
    file = png.encode(picture[0].squeeze(), {})

    def work(count: int) -> None:
        caller = Caller(server.port)
        for _ in range(count):
            started = time.perf_counter()
            status, answer = caller.infer(image=picture) if face == "infer" else caller.translate(file)
            each.append(time.perf_counter() - started)
            if status != 200:
                raise RuntimeError(str(answer))

    shares = [len(range(caller, pictures, callers)) for caller in range(callers)]
    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(work, shares))
    return time.perf_counter() - started, each


def one_picture(engine: Path) -> np.ndarray:
    """A batch of one, as the engine takes it."""
    info = read_info(engine)
    levels = info.classes if info.input == "labels" else 256
    return np.random.default_rng(0).integers(0, levels, (1, *contract.image(info).shape), np.uint8)


def endure(server: Server, engine: Path, face: str, requests: int) -> dict:
    """Many requests from 16 callers: how many are lost, and the memory early and late."""
    part = min(100, requests // 2)
    lost, memory = 0, []
    for count in (part, requests - part):
        try:
            _, each = call(server, engine, face, CALLERS[-1], count)
            lost += count - len(each)
        except RuntimeError as error:
            raise SystemExit(f"a request was lost: {error}") from None
        memory.append(server.memory())
    first, last = (round(size / 2**20, 1) for size in memory)
    print(f"{face}: {requests} requests, {lost} lost; memory {first} MiB after the first {part}, {last} MiB at the end")
    return {"requests": requests, "lost": lost, "first_mib": first, "last_mib": last}


def summarise(name: str, rates: list[float], latencies: list[float], bare: list[float]) -> dict:
    """Pictures/s, their share of the bare pipeline's, and milliseconds of latency."""
    rate = statistics.median(rates)
    row = {
        "side": name,
        "median": rate,
        "least": min(rates),
        "most": max(rates),
        "share": rate / statistics.median(bare),
    }
    if latencies:
        row |= {f"p{q}_ms": 1e3 * float(np.percentile(latencies, q)) for q in (50, 99)}
    return {key: value if key == "side" else round(value, 3) for key, value in row.items()}


def show(rows: list[dict]) -> None:
    """The table."""
    print(f"{'callers':12} {'pictures/s':>10} {'least':>8} {'most':>8} {'of bare':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for row in rows:
        latency = "".join(f" {row[key]:8.1f}" for key in ("p50_ms", "p99_ms") if key in row)
        rates = "".join(f" {row[key]:8.2f}" for key in ("least", "most"))
        print(f"{row['side']:12} {row['median']:10.2f}{rates} {row['share']:8.0%}{latency}")


if __name__ == "__main__":
    main()
