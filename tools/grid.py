"""`make grid`: what the exported FP16 demo engines make of held-out drawn faces -> docs/tasks.png, docs/inversion.png.

    python tools/grid.py

docs/tasks.png has a column for each task: its name, the input, an arrow, the output. In docs/inversion.png rows
alternate between inputs and outputs. Prints the mean PSNR of inversion over 200 faces; the last line is JSON.
"""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from psp_export.export import Options, export
from psp_export.verify.parity import psnr
from psp_runtime import load
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.loading import resize
from psp_runtime.pictures.previews import preview
from psp_runtime.tasks import get_task
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.data.samples import degrade
from psp_train.drawn.faces import Face, draw, sample

HELD_OUT_SEED, FACES = 2, 200  # the seed the training script never trains on
COLUMNS, ROWS, CELL = 8, 2, 160
INVERSION, TASKS = Path("docs/inversion.png"), Path("docs/tasks.png")
#: Measures of docs/tasks.png in pixels: a picture, between columns, a title, an arrow.
SIDE, GAP, TITLE, ARROW = 256, 16, 44, 40
INK = "#1d2733"


class Column(NamedTuple):
    """A task, the title of its column, which held-out face it shows, and how small super-resolution finds it."""

    task: str
    title: str
    face: int
    factor: int = 1


SHOWN = (
    Column("inversion", "inversion", 9),
    Column("frontalization", "frontalization", 28),
    Column("sketch", "sketch to face", 15),
    Column("segmentation", "label map to face", 17),
    Column("super_resolution", "super-resolution", 19, factor=16),
    Column("inpainting", "inpainting", 26),
)


def main() -> None:
    faces = [draw(z) for z in sample(FACES, HELD_OUT_SEED)]
    with tempfile.TemporaryDirectory() as folder:
        save(strip(faces, Path(folder)), TASKS)
        inputs = np.stack([face.image for face in faces])
        with load(Path(folder) / "inversion.onnx") as pipeline:
            outputs = np.concatenate([pipeline.translate(part).output for part in np.array_split(inputs, FACES // 8)])
    values = np.array([psnr(a.astype(int) - b) for a, b in zip(inputs, outputs, strict=True)])
    save(grid(inputs, outputs), INVERSION)
    print(f"{TASKS}, {INVERSION}: held-out faces over what the engines make of them")
    print(json.dumps({"faces": FACES, "psnr_mean": round(values.mean(), 2), "psnr_min": round(values.min(), 2)}))


def strip(faces: list[Face], folder: Path) -> np.ndarray:
    """Every task side by side, uint8 [H,W,3]; its engines stay in a folder."""
    sheet = Image.new("RGB", (len(SHOWN) * (SIDE + GAP) - GAP, TITLE + 2 * SIDE + ARROW), "white")
    for place, column in enumerate(SHOWN):
        given = source(column, faces[column.face])
        made = output(column.task, given, folder)
        paste(sheet, place, column, preview(given[None], get_task(column.task).input)[0], made)
    return np.asarray(sheet)


def source(column: Column, face: Face) -> np.ndarray:
    """The input of a task, uint8: picture [256,256,3], sketch [256,256,1] or class ids [256,256]."""
    task = get_task(column.task)
    if task.input == "labels":
        return face.labels
    if task.input == "sketch":
        return face.sketch[..., None]
    return degrade(task, face.image, np.random.default_rng(0), (column.factor,))


def output(task: str, given: np.ndarray, folder: Path) -> np.ndarray:
    """The picture that a task's exported engine makes, uint8 [256,256,3]."""
    export(load_demo_checkpoint(task), Options(folder / task, "fp16", "onnx"))
    with load(folder / f"{task}.onnx") as pipeline:
        return pipeline.translate(given[None]).output[0]


def paste(sheet: Image.Image, place: int, column: Column, given: np.ndarray, made: np.ndarray) -> None:
    """Put a column where it belongs: title, input, arrow, output."""
    left, pen = place * (SIDE + GAP), ImageDraw.Draw(sheet)
    middle, below = left + SIDE // 2, TITLE + SIDE
    pen.text((middle, TITLE // 2), column.title, fill=INK, font=ImageFont.load_default(28), anchor="mm")
    sheet.paste(Image.fromarray(given), (left, TITLE))
    pen.line([(middle, below + 8), (middle, below + ARROW - 16)], fill=INK, width=4)
    tip = below + ARROW - 6
    pen.polygon([(middle - 10, tip - 12), (middle + 10, tip - 12), (middle, tip)], fill=INK)
    sheet.paste(Image.fromarray(made), (left, below + ARROW))


def grid(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """ROWS times a row of inputs above its row of outputs."""
    rows = []
    for row in range(ROWS):
        part = slice(row * COLUMNS, (row + 1) * COLUMNS)
        rows += [np.hstack([resize(picture, CELL) for picture in source[part]]) for source in (inputs, outputs)]
    return np.vstack(rows)


if __name__ == "__main__":
    main()
