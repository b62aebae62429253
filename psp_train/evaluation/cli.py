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
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer

from psp_runtime import console
from psp_runtime.console import Device
from psp_runtime.disk import replacing
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

app = console.new_app()


def main() -> NoReturn:
    """Run the `psp-eval` command."""
    console.run(app)


@app.command(no_args_is_help=True, cls=console.Command)
def psp_eval(
    engine: Annotated[Path | None, typer.Option(help="The engine to measure: .onnx or .trt.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Or the pSp checkpoint (.pt), which runs in PyTorch.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Measure on drawn faces: the bundled demo model, if no other is given.")
    ] = False,
    task: Annotated[
        str | None, typer.Option(help="Task of the demo model, or of a checkpoint that names none.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Kind of a checkpoint's encoder, where its file does not say.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of test inputs and sub-folders; degraded as in training.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Folder of the pictures that should come out, paired by name.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the published networks that similarity and LPIPS need.")
    ] = None,
    factor: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_FACTOR, help=f"Super-resolution: shrink by this factor ({DEFAULT_FACTOR})."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help=f"Faces to draw with --demo ({FACES}).")] = None,
    device: Annotated[Device, typer.Option(help="auto: the GPU if it can be used here, else the CPU.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Also write the numbers of every picture, as JSON.")] = None,
) -> None:
    """Measure a model: similarity, LPIPS and MSE to the targets (by default the inputs themselves), and runtime.

    With --demo, networks trained on drawn faces stand in for the published ones: feature and identity distance.
    """
    _check_model(engine, checkpoint, demo, encoder)
    _check_data(demo, data, target, weights)
    _check_out(out)
    if reason := obstacle("psp-eval"):
        raise PspError(reason)
    if count and not demo:
        raise PspError("--count is for --demo: all pictures of a folder are measured")
    metrics = demo_metrics(device) if demo else published_metrics(weights, device)
    with open_model(engine, checkpoint, task, device, encoder) as model:
        shrunk = _factor(model.task, target, factor)
        lazy = folder_samples(model, data, target, shrunk) if data else drawn_samples(model, count or FACES, shrunk)
        values = measure(model, lazy, metrics)
        runtime = median_seconds(model, lazy[0]().source)
    report = summary(model, values, runtime) | {"data": str(data or "drawn faces")}
    report |= {"factor": shrunk} if shrunk else {}
    if out:
        with replacing(out) as file:
            file.write(json.dumps(report | {"per_picture": values}, indent=1).encode())
    print(table(report, metrics))
    if out:
        print(f"{out}: the numbers of every picture")
    if not (demo or weights):
        print("similarity and LPIPS are not measured: give --weights, the folder of the published networks")
    print(json.dumps(report))


def _check_model(engine: Path | None, checkpoint: Path | None, demo: bool, encoder: str | None) -> None:
    if engine and checkpoint:
        raise PspError("give --engine or --checkpoint, not both")
    if not (engine or checkpoint or demo):
        raise PspError("expected --engine ENGINE or --checkpoint CHECKPOINT with --data FOLDER, or --demo")
    if encoder and not checkpoint:
        raise PspError("--encoder goes with --checkpoint: engines and demo models say which encoder they have")


def _check_data(demo: bool, data: Path | None, target: Path | None, weights: Path | None) -> None:
    if demo and (data or target or weights):
        raise PspError("--demo measures on drawn faces: leave out --data, --target and --weights")
    if not demo and data is None:
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
    return about | {"seconds": round(runtime, 6), "device": model.device, "provider": model.provider}


def table(report: dict[str, Any], metrics: Sequence[Metric]) -> str:
    """Write a summary as aligned lines."""
    shrunk = f", shrunk by {report['factor']}" if "factor" in report else ""
    lines = [f"{report['model']}, task {report['task']}: {report['pictures']} pictures of {report['data']}{shrunk}"]
    lines.append(f"{'metric':<18}{'mean':>10}{'deviation':>11}")
    for metric in metrics:
        row = report["metrics"][metric.name]
        lines.append(f"{metric.name:<18}{row['mean']:>10.4f}{row['std']:>11.4f}  {metric.meaning}")
    where = f"{report['device']}, {report['provider']}"
    runtime = f"{report['seconds']:.4f}"
    lines.append(
        f"{'runtime':<18}{runtime:>10}{'':>11}  s per picture, median of {TIMED} warm runs at batch 1: {where}"
    )
    return "\n".join(lines)
