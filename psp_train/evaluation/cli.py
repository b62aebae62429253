"""`psp-eval`, the command: similarity, LPIPS, MSE and runtime of a model, the columns of the paper's tables.

    LazySample (loads) -> ModelUnderTest.run, uint8 in, uint8 out -> 256x256 -> metrics per picture -> mean, deviation

An engine runs as it does in production, without PyTorch; a checkpoint runs in PyTorch FP32. Both are one function, so
they are measured alike. As in the released evaluation, outputs are compared at 256x256, and the MSE is that of
pictures in [-1,1] (four times that of pictures in [0,1]).
"""

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np

from psp_runtime import console
from psp_runtime.console import INPUT, SAVE, WHERE, Device, Talk, option
from psp_runtime.disk import replacing
from psp_runtime.engines.precision import Precision
from psp_runtime.errors import PspError
from psp_runtime.pictures.transforms import MAX_FACTOR
from psp_runtime.prefetch import THREADS, parallel_map
from psp_runtime.tasks import Task
from psp_train.evaluation.metrics import Metric, demo_metrics, published_metrics, resize_to_256
from psp_train.evaluation.models import Array, LazySample, ModelUnderTest, drawn_samples, folder_samples, open_model
from psp_train.requirements import obstacle

#: Runs of one picture before the clock counts, and with it.
WARM_UP, TIMED = 2, 10
#: Drawn faces, where no number is asked for.
FACES = 100
#: How far super-resolution inputs are shrunk by default.
DEFAULT_FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class Evaluate(Talk):
    """Measure a model: similarity, LPIPS and MSE to the targets (by default the inputs themselves), and runtime.

    With --demo, networks trained on drawn faces stand in for the published ones: feature and identity distance.
    """

    engine: Annotated[Path | None, option(INPUT, "The engine to measure: .onnx or .trt.", "--engine", "-e")] = None
    checkpoint: Annotated[Path | None, option(INPUT, "Or the pSp checkpoint (.pt), which runs in PyTorch.")] = None
    demo: Annotated[
        bool, option(INPUT, "Measure on drawn faces: the bundled demo model, if no other is given.", "--demo")
    ] = False
    task: Annotated[str | None, option(INPUT, "Task of the demo model, or of a checkpoint that names none.")] = None
    encoder: Annotated[str | None, option(INPUT, "Kind of a checkpoint's encoder, where its file does not say.")] = None
    data: Annotated[Path | None, option(INPUT, "Folder of test inputs and sub-folders; degraded as in training.")] = (
        None
    )
    target: Annotated[Path | None, option(INPUT, "Folder of the pictures that should come out, paired by name.")] = None
    weights: Annotated[
        Path | None, option(INPUT, "Folder of the published networks that similarity and LPIPS need.")
    ] = None
    factor: Annotated[
        int | None,
        option(INPUT, f"Super-resolution: shrink by this factor ({DEFAULT_FACTOR}).", min=1, max=MAX_FACTOR),
    ] = None
    count: Annotated[int | None, option(INPUT, f"Faces to draw with --demo ({FACES}).", "--count", "-n", min=1)] = None
    out: Annotated[Path | None, option(SAVE, "Also write the numbers of every picture, as JSON.", "--out", "-o")] = None
    device: Annotated[Device, option(WHERE, "auto: the GPU if it can be used here, else the CPU.")] = "auto"
    precision: Annotated[
        Precision, option(WHERE, "Of an engine, as for psp run.", metavar="PRECISION", show_default=False)
    ] = "auto"


def main() -> NoReturn:
    """Run the `psp-eval` command."""
    console.run(app)


def psp_eval(asked: Evaluate) -> None:
    """Measure what the options ask for, and print the numbers as a table and as a line of JSON."""
    _check_model(asked)
    _check_data(asked)
    _check_out(asked.out)
    if reason := obstacle("psp-eval"):
        raise PspError(reason)
    if asked.count and not asked.demo:
        raise PspError("--count is for --demo: all pictures of a folder are measured")
    metrics = demo_metrics(asked.device) if asked.demo else published_metrics(asked.weights, asked.device)
    with open_model(asked.engine, asked.checkpoint, asked.task, asked.device, asked.encoder, asked.precision) as model:
        shrunk = _factor(model.task, asked.target, asked.factor)
        lazy = _samples(asked, model, shrunk)
        values = measure(model, lazy, metrics)
        runtime = median_seconds(model, lazy[0]().source)
    report = summary(model, values, runtime) | {"data": str(asked.data or "drawn faces")}
    report |= {"factor": shrunk} if shrunk else {}
    if asked.out:
        with replacing(asked.out) as file:
            file.write(json.dumps(report | {"per_picture": values}, indent=1).encode())
    print(table(report, metrics))
    if asked.out:
        print(f"{asked.out}: the numbers of every picture")
    if not (asked.demo or asked.weights):
        print("similarity and LPIPS are not measured: give --weights, the folder of the published networks")
    print(json.dumps(report))


def _samples(asked: Evaluate, model: ModelUnderTest, shrunk: int | None) -> Sequence[LazySample]:
    if asked.data:
        return folder_samples(model, asked.data, asked.target, shrunk)
    return drawn_samples(model, asked.count or FACES, shrunk)


def _check_model(asked: Evaluate) -> None:
    if asked.engine and asked.checkpoint:
        raise PspError("give --engine or --checkpoint, not both")
    if not (asked.engine or asked.checkpoint or asked.demo):
        raise PspError("expected --engine ENGINE or --checkpoint CHECKPOINT with --data FOLDER, or --demo")
    if asked.encoder and not asked.checkpoint:
        raise PspError("--encoder goes with --checkpoint: engines and demo models say which encoder they have")


def _check_data(asked: Evaluate) -> None:
    if asked.demo and (asked.data or asked.target or asked.weights):
        raise PspError("--demo measures on drawn faces: leave out --data, --target and --weights")
    if not asked.demo and asked.data is None:
        raise PspError("give --data, the folder of test pictures, or --demo for drawn faces")


def _check_out(out: Path | None) -> None:
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise PspError(f"cannot write {out}: expected the name of a file in a folder that exists")


def _factor(task: Task, target: Path | None, given: int | None) -> int | None:
    """Return the factor that good pictures are shrunk by to be inputs; None where they are not."""
    if task.name != "super_resolution" or target:
        if given is not None:
            raise PspError("--factor is for super_resolution without --target, where good pictures are shrunk")
        return None
    return given or DEFAULT_FACTOR


def measure(
    model: ModelUnderTest, lazy: Sequence[LazySample], metrics: Sequence[Metric]
) -> dict[str, dict[str, float]]:
    """Compute every metric of every sample, by the sample's name. Samples load while the model runs."""
    from psp_train.progress import Progress

    values: dict[str, dict[str, float]] = {}
    with (
        Progress(f"evaluating {model.name}", len(lazy), unit="pictures") as progress,
        closing(parallel_map(lambda load: load(), lazy, THREADS, 2 * model.batch + THREADS)) as samples,
    ):
        while batch := list(islice(samples, model.batch)):
            outputs = resize_to_256(model.run(np.stack([sample.source for sample in batch])))
            targets = np.stack([sample.target for sample in batch])
            scores = {metric.name: metric.compare(outputs, targets) for metric in metrics}
            for index, sample in enumerate(batch):
                values[sample.name] = {name: float(score[index]) for name, score in scores.items()}
                progress.advance()
    return values


def median_seconds(model: ModelUnderTest, source: Array) -> float:
    """Time one picture, from array to array, once the model is warm: the median, in seconds."""
    batch, times = source[None], []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        model.run(batch)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def summary(model: ModelUnderTest, values: dict[str, dict[str, float]], runtime: float) -> dict[str, Any]:
    """Collect mean and standard deviation over the pictures of each metric, and what was measured where."""
    rows = list(values.values())
    metrics = {}
    for name in rows[0]:
        column = np.array([row[name] for row in rows])
        metrics[name] = {"mean": round(float(column.mean()), 6), "std": round(float(column.std()), 6)}
    about = {"model": model.name, "task": model.task.name, "pictures": len(rows), "metrics": metrics}
    return (
        about
        | {"seconds": round(runtime, 6), "device": model.device, "provider": model.provider}
        | {"precision": model.precision}
    )


def table(report: dict[str, Any], metrics: Sequence[Metric]) -> str:
    """Write a summary as aligned lines."""
    shrunk = f", shrunk by {report['factor']}" if "factor" in report else ""
    pictures = console.counted(report["pictures"], "picture")
    lines = [f"{report['model']}, task {report['task']}: {pictures} of {report['data']}{shrunk}"]
    lines.append(f"{'metric':<18}{'mean':>10}{'deviation':>11}")
    for metric in metrics:
        row = report["metrics"][metric.name]
        lines.append(f"{metric.name:<18}{row['mean']:>10.4f}{row['std']:>11.4f}  {metric.meaning}")
    where = f"{report['device']}, {report['provider']}, {report['precision']}"
    runtime = f"{report['seconds']:.4f}"
    lines.append(
        f"{'runtime':<18}{runtime:>10}{'':>11}  s per picture, median of {TIMED} warm runs at batch 1: {where}"
    )
    return "\n".join(lines)


app = console.make_app(Evaluate, psp_eval)
