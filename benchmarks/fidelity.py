"""Measure what INT8 costs the bundled models, on drawn faces that nothing was calibrated on: the table of precision.md.

    python benchmarks/fidelity.py [TASK ...]

For each task: PSNR against the FP32 engine, mean and worst; how much further from the faces that the pictures should
show; the size against FP32, and the rung of the ladder. Both forms run in ONNX Runtime, which computes 8 bits as they
are written; with OpenVINO installed, the CPU's form also runs there, in whatever instructions this CPU has.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

from psp_export.export import Exporter, Options
from psp_export.int8.layouts import CPU, GPU
from psp_export.verify.cases import faces
from psp_export.verify.parity import psnr
from psp_runtime.engines import contract
from psp_runtime.engines.session import OnnxSession, OpenVINOSession
from psp_runtime.tasks import get_task
from psp_train import demo
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.data.samples import degrade
from psp_train.drawn.dataset import HELD_OUT_SEED
from psp_train.drawn.faces import draw, sample, with_parameters
from psp_train.recipes import Recipe

FACES = 40
TASKS = sorted(path.stem.removeprefix("demo_") for path in demo.WEIGHTS.glob("demo_*.safetensors"))


def held_out(info) -> tuple[np.ndarray, np.ndarray]:
    """Draw the inputs of a task, and the faces it should make of them, uint8 [FACES,256,256,3]."""
    vectors, rng, task = sample(FACES, HELD_OUT_SEED), np.random.default_rng(0), get_task(info.task)
    if info.task == "frontalization":
        targets = [draw(with_parameters(z, yaw=0)).image for z in vectors]
    else:
        targets = [draw(z).image for z in vectors]
    drawn = faces(info.input, info.classes, FACES, HELD_OUT_SEED)
    return np.stack([degrade(task, picture, rng, Recipe.factors) for picture in drawn]), np.stack(targets)


def run(session, images: np.ndarray) -> np.ndarray:
    """Translate one picture after the other."""
    each = [session.run(contract.full_inputs(session.info, image[None]))["output"] for image in images]
    session.close()
    return np.concatenate(each)


def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """PSNR of every picture, dB."""
    return np.array([psnr(x.astype(int) - y) for x, y in zip(a, b)])


def measure(task: str, folder: Path) -> None:
    """Export a task in INT8, and print a row for each form."""
    exporter = Exporter(
        load_demo_checkpoint(task), Options(folder / "psp", "int8"), folder / "psp", lambda *words: None
    )
    exporter.write_onnx()
    cpu, (gpu,) = exporter.engines[0], exporter.quantiser.write(GPU, exporter._folder("gpu") / "psp")
    source = exporter.quantiser.sources[0]
    images, targets = held_out(source.info)
    exact = run(OnnxSession(source.path, "cpu"), images)
    forms = [(CPU.processor, cpu, OnnxSession), (GPU.processor, gpu, OnnxSession)]
    if importlib.util.find_spec("openvino"):
        forms.append(("cpu, OpenVINO here", cpu, lambda path, device: OpenVINOSession(path)))
    for name, file, open_it in forms:
        found = run(open_it(file.path, "cpu"), images)
        against, loss = differences(found, exact), differences(exact, targets) - differences(found, targets)
        share = file.path.stat().st_size / source.path.stat().st_size
        numbers = f"{against.mean():.1f} / {against.min():.1f} | {loss.mean():.3f} | {share:.3f} | {file.note}"
        print(f"| {task} | {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    for task in sys.argv[1:] or [task for task in TASKS if task != "generator"]:
        with tempfile.TemporaryDirectory() as folder:
            measure(task, Path(folder))
