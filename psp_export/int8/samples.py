"""Choose the pictures of an INT8 export: on most of them its scales are measured, the others judge it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psp_export.verify.cases import CALIBRATION_SEED, faces
from psp_runtime.console import counted
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.pictures.folders import list_pictures
from psp_runtime.pictures.loading import load_input
from psp_runtime.tasks import INPUT_SIZE, get_task
from psp_train.data.samples import degrade
from psp_train.recipes import Recipe

#: Pictures calibrated on at least. Fewer leave the rare large values out, and the worst picture pays for it.
LEAST = 128
#: Pictures that are not calibrated on.
HELD_OUT = 16
#: Pictures calibrated on at most: more change little and take long.
MOST = 512


@dataclass(frozen=True)
class Samples:
    """Inputs of a task as the engine takes them, uint8 [N,height,256,...]."""

    calibration: np.ndarray
    held_out: np.ndarray

    def to_metadata(self) -> dict[str, int | str]:
        """Give the `calibration` field of an engine's metadata."""
        return {"pictures": len(self.calibration), "sha256": hashlib.sha256(self.calibration.tobytes()).hexdigest()}


def expected() -> str:
    """Say what a folder must hold."""
    return f"at least {LEAST + HELD_OUT} inputs of the task ({LEAST} to calibrate on, {HELD_OUT} to judge the engine)"


def check_folder(folder: Path) -> list[Path]:
    """List the pictures of a folder. Raises `PspError` for one that leaves fewer than `LEAST` to calibrate on."""
    found = list_pictures(folder)
    if len(found.pictures) < LEAST + HELD_OUT:
        left_out, pictures = found.words(), counted(len(found.pictures), "picture")
        raise PspError(
            f"--calibrate {folder} holds {pictures}, expected {expected()}" + (f"; {left_out}" if left_out else "")
        )
    return found.pictures


def from_folder(folder: Path, info: EngineInfo) -> Samples:
    """Load the inputs of a task from a folder; of a large one every n-th. Raises `PictureError` as `load_input`."""
    paths = check_folder(folder)
    chosen = [paths[i] for i in evenly(len(paths), min(len(paths), MOST + HELD_OUT))]
    return divided(np.stack([load_input(path, info) for path in chosen]))


def drawn(info: EngineInfo) -> Samples:
    """Draw faces as inputs of a task: what the bundled models were trained on, but other faces."""
    pictures = faces(info.input, info.classes, LEAST + HELD_OUT, CALIBRATION_SEED)
    rng, task = np.random.default_rng(CALIBRATION_SEED), get_task(info.task)
    margin = (INPUT_SIZE - info.input_height) // 2
    degraded = [degrade(task, picture, rng, Recipe.factors) for picture in pictures]
    return divided(np.stack(degraded)[:, margin : INPUT_SIZE - margin])


def divided(pictures: np.ndarray) -> Samples:
    """Hold `HELD_OUT` pictures out, evenly spaced, so that both halves have what a sorted folder has."""
    held = evenly(len(pictures), HELD_OUT)
    return Samples(np.delete(pictures, held, axis=0), pictures[held])


def evenly(count: int, chosen: int) -> list[int]:
    """Choose indices below `count`, evenly spaced, from the first on."""
    return [index * count // chosen for index in range(chosen)]
