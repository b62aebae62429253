"""What the working folder of psp-run holds, and what is expected of a run in it."""

from pathlib import Path

import numpy as np
from cli_runs import Outcome
from PIL import Image
from tiny_engines import expected_output

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 256, 256, 3), np.uint8)


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def is_output_of(path: Path | str, pixels: np.ndarray) -> bool:
    latents = np.float32(pixels.mean()) * np.arange(32, dtype=np.float32) / 2550
    difference = np.asarray(Image.open(path)).astype(int) - expected_output(pixels, latents)
    return bool(np.abs(difference).max() <= 1)


def one_error(outcome: Outcome, code: int = 2) -> str:
    """The text of the one line on stderr; nothing else may be printed."""
    assert outcome[0] == code and outcome[1] == ""
    assert outcome[2].startswith("error: ") and outcome[2].count("\n") == 1
    return outcome[2].removeprefix("error: ").strip()
