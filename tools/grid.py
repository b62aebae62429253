"""`make grid`: held-out drawn faces and what the exported FP16 demo engine makes of them -> docs/inversion.png.

    python tools/grid.py

Rows alternate between inputs and outputs. Prints the mean PSNR over 200 held-out faces; the last line is JSON.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from psp_export.export import Options, export
from psp_export.verify.parity import psnr
from psp_runtime import load
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.loading import resize
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.drawn.faces import draw, sample

HELD_OUT_SEED, FACES = 2, 200  # the seed the training script never trains on
COLUMNS, ROWS, CELL = 8, 2, 160
TARGET = Path("docs/inversion.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        export(load_demo_checkpoint("inversion"), Options(Path(folder) / "psp", "fp16", "onnx"))
        with load(Path(folder) / "psp.onnx") as pipeline:
            inputs = np.stack([draw(z).image for z in sample(FACES, HELD_OUT_SEED)])
            outputs = np.concatenate([pipeline.translate(part).output for part in np.array_split(inputs, FACES // 8)])
    values = np.array([psnr(a.astype(int) - b) for a, b in zip(inputs, outputs, strict=True)])
    save(grid(inputs, outputs), TARGET)
    print(f"{TARGET}: held-out faces over what the engine makes of them")
    print(json.dumps({"faces": FACES, "psnr_mean": round(values.mean(), 2), "psnr_min": round(values.min(), 2)}))


def grid(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """ROWS times a row of inputs above its row of outputs."""
    rows = []
    for row in range(ROWS):
        part = slice(row * COLUMNS, (row + 1) * COLUMNS)
        rows += [np.hstack([resize(picture, CELL) for picture in source[part]]) for source in (inputs, outputs)]
    return np.vstack(rows)


if __name__ == "__main__":
    main()
