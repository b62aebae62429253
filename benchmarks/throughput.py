"""Pictures per second of `psp run` over a folder: end to end and of each stage, per output format and batch.

    python benchmarks/throughput.py [--size 1024] [--fp16]     # published widths, fresh weights, ONNX Runtime
    python benchmarks/throughput.py --engine psp.trt           # an engine of yours
    python benchmarks/throughput.py --demo --pictures 8        # the bundled model: quick

Protocol: --pictures drawn faces are written as 1024x1024 JPEG files, with some noise because cameras have it. Each
combination of format and batch runs the whole folder through the code of `psp run --format F --batch B`, from the first
file opened to the last output renamed into place; opening the engine is not counted, and every batch runs once before
anything is timed. The combinations take turns, --repeats times. Shown are the median, the least and the most pictures/s
end to end, and the median of each stage: pictures / seconds its threads worked x threads, what the stage would do if it
never waited, with the others running beside it. "limits" is the stage whose threads waited least.

Cost model: the stages overlap, so a run is as fast as its slowest stage, plus one batch through the others. An engine
on the CPU shares the cores with decoding and encoding; then their times add up. PNG and WebP cost more the busier a
picture is: fresh weights draw smooth ones, and the texture of a photo can double the cost of either.

The last line is JSON.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from measure.workloads import Workload, seeded_checkpoint

from psp_export.export import Options as Export
from psp_export.export import export
from psp_runtime.engines.session import Session, open_session
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.loading import resize
from psp_runtime.pipeline import Pipeline
from psp_runtime.prefetch import THREADS
from psp_runtime.run.execution import Run
from psp_runtime.run.plan import make_plan
from psp_runtime.run.verbs import Translate
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.drawn.faces import draw, sample

STAGES = ("decode", "engine", "encode")
INPUT_SIZE, NOISE = 1024, 3.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, help="a finished engine for RGB pictures")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--formats", nargs="+", choices=("png", "jpg", "webp"), default=["png", "jpg", "webp"])
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_pictures(folder / "photos", asked.pictures)
        with closing(open_session(asked.engine or write_engine(asked, folder))) as session:
            rows = measure(session, folder, asked)
            info, device = session.info, session.device
    show(rows)
    facts = {"engine": info.backend, "device": device, "size": info.output_size, "precision": info.precision}
    facts |= {"pictures": asked.pictures, "repeats": asked.repeats, "threads": asked.threads, "cores": os.cpu_count()}
    print(json.dumps(facts | {"demo": asked.demo, "rows": rows}))


def draw_pictures(folder: Path, count: int) -> None:
    """Drawn faces as a camera would give them: JPEG files [INPUT_SIZE,INPUT_SIZE] with noise."""
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, NOISE, (INPUT_SIZE, INPUT_SIZE, 3))
    for index, vector in enumerate(sample(count, seed=0)):
        drawn = resize(draw(vector).image, INPUT_SIZE) + np.roll(noise, index, axis=0)
        save(drawn.clip(0, 255).astype(np.uint8), folder / f"{index:04}.jpg")


def write_engine(asked: argparse.Namespace, folder: Path) -> Path:
    """The bundled model, or one of the published architecture on seeded weights."""
    checkpoint = load_demo_checkpoint("inversion") if asked.demo else seeded_checkpoint(Workload(asked.size))
    precision = "fp16" if asked.fp16 else "fp32"
    export(checkpoint, Export(folder / "psp", precision, "onnx", max_batch=max(asked.batches), verify=False), print)
    return folder / "psp.onnx"


def measure(session: Session, folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each format and each batch the engine serves; they take turns."""
    batches = [batch for batch in asked.batches if batch <= session.max_batch]
    for batch in batches:
        run_folder(session, folder, asked.formats[0], batch, asked.threads)
    runs: dict[tuple[str, int], list[Run]] = {key: [] for key in itertools.product(asked.formats, batches)}
    for _ in range(asked.repeats):
        for (format, batch), finished in runs.items():
            finished.append(run_folder(session, folder, format, batch, asked.threads))
    return [summarise(format, batch, finished) for (format, batch), finished in runs.items()]


def run_folder(session: Session, folder: Path, format: str, batch: int, threads: int) -> Run:
    """The folder once, as `psp run` does it; raises unless every picture is made."""
    photos, out = str(folder / "photos"), str(folder / format)
    given = Translate(inputs=[photos], engine=session.path, out=out, format=format, threads=threads)
    run = Run(make_plan(given, session.info), Pipeline(session, batch))
    failed = run.execute()
    if failed:
        raise SystemExit(f"{failed} pictures could not be used: nothing is reported")
    return run


def summarise(format: str, batch: int, runs: list[Run]) -> dict[str, Any]:
    """The row of some runs: pictures/s, and the share of the time each stage was busy."""
    rates = [run.made / run.seconds for run in runs]
    busy = {name: statistics.median(getattr(run, name).busy(run.seconds) for run in runs) for name in STAGES}
    rate = statistics.median(rates)
    return {
        "format": format,
        "batch": batch,
        "end_to_end": {"median": round(rate, 3), "least": round(min(rates), 3), "most": round(max(rates), 3)},
        "busy": {name: round(share, 3) for name, share in busy.items()},
        "rate": {name: round(rate / share, 3) for name, share in busy.items()},
        "limits": max(STAGES, key=lambda name: busy[name]),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table; all numbers but the batch are pictures/s."""
    print(
        f"{'format':6} {'batch':>5} {'end to end':>11} {'least':>8} {'most':>8}", *(f"{n:>8}" for n in STAGES), "limits"
    )
    for row in rows:
        values = [*row["end_to_end"].values(), *row["rate"].values()]
        print(f"{row['format']:6} {row['batch']:5}    ", *(f"{value:8.3g}" for value in values), row["limits"])


if __name__ == "__main__":
    main()
