"""The folder the verbs are tried in: its files, and what is read of what a run has made."""

import json
from pathlib import Path

import numpy as np
from cli_runs import Outcome
from PIL import Image
from tiny_family import STYLE_DIM, STYLES

import psp_runtime

RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (3, 4, 4, 3), np.uint8), np.ones((1, 64, 64, 1), np.uint8))
LABELS = np.kron(RNG.integers(1, 19, (16, 16), np.uint8), np.ones((16, 16), np.uint8))
DIRECTION = RNG.normal(0, 0.2, (STYLES, STYLE_DIM)).astype(np.float32)
TASKS = {
    "psp": ("rgb", {}),
    "sketch": ("sketch", {}),
    "seg": ("labels", {}),
    "sr": ("rgb", {"task": "super_resolution", "mix_layers": (4, 5, 6, 7), "mix_alpha": 0.5}),
    "inpaint": ("rgb", {"task": "inpainting"}),
}


def read(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


def new(*known: str) -> list[str]:
    """The files in the working folder that a run has made."""
    before = {"engines", "a.png", "b.png", "c.png", "map.png", "smile.npy", "latents.npy", *known}
    return sorted(path.name for path in Path().iterdir() if path.name not in before)


def note(name: str) -> dict:
    return json.loads(Image.open(name).text["psp"])


def pipeline(engine: str = "psp") -> psp_runtime.Pipeline:
    return psp_runtime.load(f"engines/{engine}.onnx", "cpu")


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= 1


def mistake(outcome: Outcome, *known: str) -> str:
    """The one line of a mistake, and no new file."""
    code, out, err = outcome
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, outcome
    assert new(*known) == []
    return err.removeprefix("error: ").strip()
