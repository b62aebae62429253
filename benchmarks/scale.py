"""Pictures per second of `psp run --ray` against one process, on the cores of this machine.

    python benchmarks/scale.py [--size 256] [--pictures 24] [--repeats 3]    # published widths, fresh weights
    python benchmarks/scale.py --demo --pictures 96                          # the bundled model: quick

Three ways to run one folder: one process with two threads, two actors of one thread each, one actor of one thread.

Protocol: pictures of noise are written as PNG files of 256x256; an engine takes as long for them as for faces. Each
way runs the whole folder through the code of `psp run`, in ONNX Runtime; the ways take turns, --repeats times. A plain
run is timed from its first picture to its last output, with its engine open and warm. Actors start anew for every run,
which is a price per run, not per picture: they are timed from the start of the first block to the end of the last one,
by the seconds in the manifest and the times of its files. What Ray does between blocks counts, and that actors are
not warm when they begin. Shown are the median, the least and the most pictures/s, and the median with the start of
everything. Before anything is shown, all ways must have written the same bytes.

Cost model: the engine is nearly all of the work. Two threads of one process wait for each other at every layer, and
decode and encode pictures beside the engine; two actors wait for nobody, hold the weights twice and share caches and
memory bandwidth. So both should do twice what one actor does, less what the memory cannot give.

The last line is JSON. Needs the extra `ray`; Linux, for the affinity of processes.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import ray
from pyarrow import parquet

from psp_runtime import cluster
from psp_runtime.cluster.manifest import FOLDER
from psp_runtime.console import LOCAL_RAY
from psp_runtime.engines.info import read_info
from psp_runtime.engines.session import open_session
from psp_runtime.pictures.encoding import save
from psp_runtime.pipeline import Pipeline
from psp_runtime.prefetch import cores
from psp_runtime.run.execution import Run
from psp_runtime.run.plan import make_plan
from psp_runtime.run.verbs import Translate

PLAIN, TWO, ONE = "1 process x 2 threads", "2 actors x 1 thread", "1 actor x 1 thread"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if cores() != 2:
        print(f"this process may use {cores()} cores, expected 2: start it under taskset -c 0,1", file=sys.stderr)
        return 2
    os.environ |= {"PSP_CPU": "onnxruntime", "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = options.engine or write_engine(options, folder)
        draw_pictures(folder / "photos", options.pictures)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        rates = measure(engine, folder, options.repeats)
        ray.shutdown()
        info = read_info(engine)
    facts = {"size": info.output_size, "precision": info.precision, "demo": options.demo, "pictures": options.pictures}
    versions = {package: version(package) for package in ("ray", "onnxruntime", "numpy")}
    show(rates)
    print(json.dumps({"benchmark": "scale", **facts, "cores": cores(), "versions": versions, "pictures_per_s": rates}))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, help="a finished engine for RGB pictures")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(arguments)


def write_engine(options: argparse.Namespace, folder: Path) -> Path:
    """The bundled model, or one of the published architecture on seeded weights."""
    from measure.workloads import Workload, seeded_checkpoint

    from psp_export.export import Options as Export
    from psp_export.export import export
    from psp_train.checkpoints.psp import load_demo_checkpoint

    checkpoint = load_demo_checkpoint("inversion") if options.demo else seeded_checkpoint(Workload(options.size))
    export(checkpoint, Export(folder / "psp", "fp32", "onnx", verify=False), print)
    return folder / "psp.onnx"


def draw_pictures(folder: Path, count: int) -> None:
    """Noise in colours, as PNG files [256,256]."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        save(random.integers(0, 256, (256, 256, 3), np.uint8), folder / f"{index:04}.png")


def measure(engine: Path, folder: Path, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Pictures/s of each way: `work`, and `whole` with the start of the actors. Raises where outputs differ."""
    ways: dict[str, Callable[[Path], tuple[float, float]]] = {
        PLAIN: lambda out: run_plain(engine, folder / "photos", out),
        TWO: lambda out: run_on_ray(engine, folder / "photos", out, 2),
        ONE: lambda out: run_on_ray(engine, folder / "photos", out, 1),
    }
    rates: dict[str, dict[str, list[float]]] = {name: {"work": [], "whole": []} for name in ways}
    for turn in range(repeats):
        for number, (name, run) in enumerate(ways.items()):
            work, whole = run(folder / f"{turn}-{number}")
            rates[name]["work"].append(round(work, 3))
            rates[name]["whole"].append(round(whole, 3))
    check_same([folder / f"0-{number}" for number in range(len(ways))])
    return rates


def run_plain(engine: Path, photos: Path, out: Path) -> tuple[float, float]:
    """The folder in this process: pictures/s, warm, and with opening the engine."""
    started = time.perf_counter()
    options = Translate(inputs=[str(photos)], engine=engine, out=str(out), threads=2, device="cpu")
    plan = make_plan(options, read_info(engine))
    with Pipeline(open_session(engine, "cpu", len(plan.jobs)), None, len(plan.jobs)) as pipeline:
        pipeline(str(plan.jobs[0].source))
        run = Run(plan, pipeline)
        if run.execute():
            raise SystemExit("some pictures could not be used: nothing is reported")
    return run.made / run.seconds, run.made / (time.perf_counter() - started)


def run_on_ray(engine: Path, photos: Path, out: Path, actors: int) -> tuple[float, float]:
    """The folder on actors of one core each: pictures/s while they are at work, and with starting them."""
    where = dict(device="cpu", ray=LOCAL_RAY, actors=actors, threads=1)
    outcome = cluster.run(Translate(inputs=[str(photos)], engine=engine, out=str(out), **where), read_info(engine))
    blocks = {part: parquet.read_table(part) for part in (out / FOLDER).iterdir()}
    workers = {worker for block in blocks.values() for worker in block["worker"].to_pylist()}
    if outcome.failed or len(workers) != actors:
        raise SystemExit(f"{len(workers)} of {actors} actors did something, {outcome.failed} pictures failed")
    ends = {part: part.stat().st_mtime for part in blocks}
    begun = min(ends[part] - sum(block["seconds"].to_pylist()) for part, block in blocks.items())
    return outcome.made / (max(ends.values()) - begun), outcome.made / outcome.seconds


def check_same(folders: list[Path]) -> None:
    """Raise unless all folders hold the same pictures, byte for byte."""
    first, *others = ({path.name: path.read_bytes() for path in folder.glob("*.png")} for folder in folders)
    if not first or any(other != first for other in others):
        raise SystemExit("the ways wrote different pictures: nothing is reported")


def show(rates: dict[str, dict[str, list[float]]]) -> None:
    """The table: pictures/s."""
    print(f"{'':22}{'median':>8}{'least':>8}{'most':>8}{'of plain':>10}{'with start-up':>15}")
    plain = statistics.median(rates[PLAIN]["work"])
    for name, values in rates.items():
        work, whole = (statistics.median(values[kind]) for kind in ("work", "whole"))
        spread = f"{min(values['work']):8.2f}{max(values['work']):8.2f}"
        print(f"{name:22}{work:8.2f}{spread}{work / plain:10.0%}{whole:15.2f}")


if __name__ == "__main__":
    sys.exit(main())
