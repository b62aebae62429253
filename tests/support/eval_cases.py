"""Pictures and models to measure."""

from pathlib import Path

import numpy as np
from PIL import Image
from tiny_engines import expected_output

from psp_runtime.tasks import TASKS
from psp_train.evaluation.metrics import resize_to_256
from psp_train.evaluation.models import (
    ModelUnderTest,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), np.uint8)
NAMES = ["a.png", "b.png", "more/a.png"]


def save_pictures(pictures: dict[str, np.ndarray], folder: str) -> None:
    """Write pictures by their names."""
    for name, pixels in pictures.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def of_tiny_engine(pixels):
    """What the tiny engine makes of pictures, at 256x256."""
    ramp = np.arange(32, dtype=np.float32) / 2550
    return resize_to_256(np.stack([expected_output(p, np.float32(p.mean()) * ramp) for p in pixels]))


def model_under_test(run=lambda pixels: pixels, task="inversion", batch=2, classes=19) -> ModelUnderTest:
    """A model that is any function of pictures."""
    return ModelUnderTest("fake", TASKS[task], classes, batch, "cpu", "none", "fp32", run)


def values_of(outputs, targets):
    """The MSE of pictures in [-1,1], written out."""
    return np.mean((outputs / 127.5 - 1 - (targets / 127.5 - 1)) ** 2, axis=(1, 2, 3))
