"""What `psp-eval` measures: a model as one function, and the samples it is given.

An engine runs as it does in production, without PyTorch; a checkpoint runs in PyTorch FP32. Both are uint8 in, uint8
out, so they are measured alike. torch is imported when it is needed: `psp-eval --help` is quick.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import psp_runtime
from psp_runtime.engines.devices import gpu_name
from psp_runtime.engines.precision import Precision
from psp_runtime.errors import PspError
from psp_runtime.pictures.label_classes import NAMES
from psp_runtime.pictures.loading import load
from psp_runtime.tasks import Task, get_task
from psp_train.evaluation.metrics import resize_to_256, torch_device

if TYPE_CHECKING:
    from psp_train.checkpoints.psp import Checkpoint
    from psp_train.data.folders import SampleFiles

Array = np.ndarray


class EvaluationSample(NamedTuple):
    """A name, the model's input uint8 [256,256,3], [256,256,1] or ids [256,256], and the target uint8 [256,256,3]."""

    name: str
    source: Array
    target: Array


#: Loads or draws one sample.
LazySample = Callable[[], EvaluationSample]


@dataclass(frozen=True)
class ModelUnderTest:
    """What is measured: `run` takes inputs uint8 [B,256,256,...], B <= `batch`, and gives pictures uint8 [B,H,W,3]."""

    name: str
    task: Task
    classes: int
    batch: int
    device: str
    provider: str
    precision: str
    run: Callable[[Array], Array]


@contextmanager
def open_model(
    engine: Path | None,
    checkpoint: Path | None,
    task: str | None,
    device: str,
    encoder: str | None = None,
    precision: Precision = "auto",
) -> Iterator[ModelUnderTest]:
    """Open the engine, the checkpoint (`encoder` is as for `load_checkpoint`), or else the bundled model of a task.

    Raises `PspError` for a file that cannot be opened or is for another task.
    """
    if engine is None:
        from psp_train.checkpoints.psp import load_checkpoint, load_demo_checkpoint

        loaded = load_checkpoint(checkpoint, task, encoder) if checkpoint else load_demo_checkpoint(task)
        yield torch_model(loaded, device)
        return
    with psp_runtime.load(engine, device, precision) as pipeline:
        info = pipeline.info
        if task not in (None, info.task):
            raise PspError(f"--task {task} contradicts {engine}, which is for {info.task}")
        where = gpu_name() if pipeline.device == "cuda" else "cpu"
        onnx = "CUDAExecutionProvider" if pipeline.device == "cuda" else "CPUExecutionProvider"
        provider = onnx if info.backend == "onnx" else f"{info.backend} {info.backend_version}"
        known = get_task(info.task)

        def translate(pixels: Array) -> Array:
            return pipeline.translate(pixels).output

        yield ModelUnderTest(
            engine.name, known, info.classes, pipeline.batch, where, provider, pipeline.precision, translate
        )


def torch_model(checkpoint: "Checkpoint", device: str) -> ModelUnderTest:
    """Run a loaded checkpoint in PyTorch FP32 on `device`: "auto", "cuda" or "cpu"."""
    import torch

    from psp_train.networks.psp import to_input, to_picture

    place = torch_device(device)
    network, kind = checkpoint.model.to(place).eval(), checkpoint.task.input
    classes = checkpoint.encoder.input_channels

    @torch.inference_mode()
    def run(pixels: Array) -> Array:
        x = to_input(torch.from_numpy(pixels).to(place), kind, classes)
        return to_picture(network(x)[0]).cpu().numpy()

    cuda = place.type == "cuda"
    where, provider = gpu_name() if cuda else "cpu", f"PyTorch {torch.__version__}"
    return ModelUnderTest(checkpoint.name, checkpoint.task, classes, 8 if cuda else 1, where, provider, "fp32", run)


def folder_samples(model: ModelUnderTest, data: Path, target: Path | None, factor: int | None) -> list[LazySample]:
    """List the pictures of a folder; each is its own target, degraded first, unless there is a folder of targets."""
    from psp_train.data.folders import find_samples

    return [partial(_load, model, files, data, factor) for files in find_samples(model.task, data, target, None)]


def _load(model: ModelUnderTest, files: "SampleFiles", data: Path, factor: int | None) -> EvaluationSample:
    height = model.task.input_height
    target = load(files.target, "rgb", height=height)
    if files.paired:
        source = load(files.source, model.task.input, classes=model.classes, height=height)
    else:
        source = _degrade(model.task, target, factor)
    return EvaluationSample(files.source.relative_to(data).as_posix(), source, resize_to_256(target[None])[0])


def drawn_samples(model: ModelUnderTest, count: int, factor: int | None) -> list[LazySample]:
    """List drawn faces that no training saw. Raises `PspError` for tasks that have none."""
    from psp_train.drawn import sample
    from psp_train.drawn.dataset import HELD_OUT_SEED

    task = model.task
    if task.name == "toonify":
        raise PspError("there are no drawn faces for task toonify: give --data")
    if task.input == "labels" and model.classes < len(NAMES):
        raise PspError(f"{model.name} knows {model.classes} classes, but drawn faces have {len(NAMES)}: give --data")
    vectors = sample(count, HELD_OUT_SEED)
    return [partial(_draw, task, f"face {i}", vector, factor) for i, vector in enumerate(vectors)]


def _draw(task: Task, name: str, vector: Array, factor: int | None) -> EvaluationSample:
    from psp_train.drawn import draw, with_parameters

    face = draw(vector)
    if task.name == "frontalization":  # of a drawn face the other view is known
        return EvaluationSample(name, face.image, draw(with_parameters(vector, yaw=0)).image)
    source = {"rgb": face.image, "sketch": face.sketch[..., None], "labels": face.labels}[task.input]
    return EvaluationSample(name, _degrade(task, source, factor), face.image)


def _degrade(task: Task, pixels: Array, factor: int | None) -> Array:
    """Do what the task has to undo; nothing here is drawn at random, with one factor to choose from."""
    from psp_train.data.samples import degrade

    return degrade(task, pixels, np.random.default_rng(0), (factor or 1,))
