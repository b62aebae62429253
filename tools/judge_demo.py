"""How good the bundled demo encoders are, task by task, on faces none of them was trained on.

    python tools/judge_demo.py [TASK ...]

Draws FACES held-out faces, runs each demo model on them and judges the results: frontalization by the yaw of the
result, segmentation and sketch by the label map of the result against the drawn one, inversion, super-resolution and
inpainting by PSNR; each beside the mean of the training faces, which ignores the input. Writes a grid (input, target,
output) of each task to docs/tasks/, prints a table, and ends with one JSON line.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from psp_export.verify import parity as verify
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.loading import resize
from psp_runtime.pictures.previews import preview
from psp_runtime.pictures.transforms import triangle
from psp_runtime.tasks import get_task
from psp_train import demo
from psp_train.checkpoints.psp import load_checkpoint
from psp_train.data.samples import degrade
from psp_train.drawn.faces import draw, parameters, sample, with_parameters
from psp_train.drawn.judges import Judges, load_judges
from psp_train.networks.psp import PSP, to_input, to_picture

FACES, SEED, TRAIN_SEED = 200, 2, 1
COLUMNS, CELL = 8, 160
FOLDER = Path("docs/tasks")

Array = np.ndarray
Score = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--models", type=Path, help="folder of TASK.pt to judge instead of the bundled models")
    options = parser.parse_args()
    judges, drawn = load_judges(), Held()
    results = {}
    for name in options.tasks:
        results[name] = judge(name, drawn, judges, options.models)
        print(f"{name:22}", "  ".join(f"{key} {value:.3f}" for key, value in results[name].items()), flush=True)
    print(json.dumps({"faces": FACES, "seed": SEED, "results": results}))


class Held:
    """The held-out faces: pictures [N,256,256,3], labels [N,256,256], sketches [N,256,256,1], and the mean face."""

    def __init__(self) -> None:
        self.vectors = sample(FACES, SEED)
        drawings = [draw(z) for z in self.vectors]
        self.pictures, self.labels = (np.stack([d[i] for d in drawings]) for i in (0, 1))
        self.sketches = np.stack([d.sketch for d in drawings])[..., None]
        self.yaw = np.array([parameters(z)["yaw"] for z in self.vectors])
        frontal = [draw(with_parameters(z, yaw=0)).image for z in self.vectors]
        self.frontal = np.stack(frontal)
        training = np.stack([draw(z).image for z in sample(500, TRAIN_SEED)])
        self.mean = np.repeat(training.mean(0).astype(np.uint8)[None], FACES, axis=0)


def judge(name: str, held: Held, judges: Judges, models: Path | None = None) -> Score:
    """Run a case; keep its grid; return its numbers, those of the mean face named `mean_face_…`."""
    task, source, target, score = CASES[name](held)
    outputs = translate(load_checkpoint(models / f"{task}.pt").model if models else demo.load_demo(task), task, source)
    save_grid(name, task, source, target, outputs)
    ours, baseline = score(outputs, judges), score(held.mean, judges)
    return ours | {f"mean_face_{key}": value for key, value in baseline.items() if "input" not in key}


@torch.no_grad()
def translate(model: PSP, task: str, source: Array) -> Array:
    """The model's pictures, uint8 [N,256,256,3]."""
    kind = get_task(task).input
    parts = [torch.from_numpy(part) for part in np.array_split(source, max(1, len(source) // 8))]
    return np.concatenate([to_picture(model(to_input(p, kind, get_task(task).channels))[0]).numpy() for p in parts])


def save_grid(name: str, task: str, source: Array, target: Array, outputs: Array) -> None:
    rows = (preview(source[:COLUMNS], get_task(task).input), target[:COLUMNS], outputs[:COLUMNS])
    FOLDER.mkdir(parents=True, exist_ok=True)
    cells = [np.hstack([resize(picture, CELL) for picture in row]) for row in rows]
    save(np.vstack(cells), FOLDER / f"{name}.jpg")


# ---- Cases: task, inputs, targets, and how results are scored -------------------------------------------------


def inversion(held: Held):
    return "inversion", held.pictures, held.pictures, similar(held.pictures)


def frontalization(held: Held):
    def score(outputs: Array, judges: Judges) -> Score:
        yaw = apply(judges.yaw, outputs)
        distance = apply(judges.identity, outputs, held.pictures)
        return {"yaw": float(np.abs(yaw).mean()), "identity_distance": float(distance.mean())}

    def with_input(outputs: Array, judges: Judges) -> Score:
        return score(outputs, judges) | {"input_yaw": float(np.abs(held.yaw).mean())}

    return "frontalization", held.pictures, held.frontal, with_input


def sketch(held: Held):
    return "sketch", held.sketches, held.pictures, same_labels(held.labels)


def segmentation(held: Held):
    return "segmentation", held.labels, held.pictures, same_labels(held.labels)


def inpainting(held: Held):
    task, hidden = get_task("inpainting"), triangle()
    source = np.stack([degrade(task, p, np.random.default_rng(0), ()) for p in held.pictures])

    def score(outputs: Array, judges: Judges) -> Score:
        inside = psnr(outputs[:, hidden], held.pictures[:, hidden])
        return similar(held.pictures)(outputs, judges) | {"psnr_hidden": inside}

    return "inpainting", source, held.pictures, score


def super_resolution(factor: int):
    def case(held: Held):
        task, rng = get_task("super_resolution"), np.random.default_rng(0)
        source = np.stack([degrade(task, p, rng, (factor,)) for p in held.pictures])

        def score(outputs: Array, judges: Judges) -> Score:
            return similar(held.pictures)(outputs, judges) | {"psnr_of_input": psnr(source, held.pictures)}

        return "super_resolution", source, held.pictures, score

    return case


def similar(target: Array) -> Callable[[Array, Judges], Score]:
    """PSNR, mean and worst, and feature distance to the target pictures."""

    def score(outputs: Array, judges: Judges) -> Score:
        distance = float(apply(judges.perceptual, outputs, target).mean())
        return {"psnr": psnr(outputs, target), "psnr_worst": min(psnrs(outputs, target)), "feature_distance": distance}

    return score


def same_labels(labels: Array) -> Callable[[Array, Judges], Score]:
    """Pixel accuracy and mean IoU (over the classes drawn) of the results' label maps, at 128x128."""
    truth = labels[:, ::2, ::2]

    def score(outputs: Array, judges: Judges) -> Score:
        found = apply(judges.segmenter, outputs)
        ious = [np.sum((found == c) & (truth == c)) / np.sum((found == c) | (truth == c)) for c in np.unique(truth)]
        return {"accuracy": float((found == truth).mean()), "mean_iou": float(np.mean(ious))}

    return score


@torch.no_grad()
def apply(network: Callable[..., torch.Tensor], *pictures: Array) -> Array:
    """A judge's values for uint8 pictures [N,H,W,3], in parts."""
    parts = zip(*(np.array_split(p, 25) for p in pictures), strict=True)
    return np.concatenate([network(*(to_input(torch.from_numpy(p), "rgb", 3) for p in part)).numpy() for part in parts])


def psnr(a: Array, b: Array) -> float:
    """Mean over the pictures of their PSNR, dB."""
    return float(np.mean(psnrs(a, b)))


def psnrs(a: Array, b: Array) -> list[float]:
    """PSNR of every picture, dB."""
    return [float(verify.psnr(difference)) for difference in a.astype(np.float64) - b]


CASES: dict[str, Callable] = {
    "inversion": inversion,
    "frontalization": frontalization,
    "sketch": sketch,
    "segmentation": segmentation,
    "super_resolution_8": super_resolution(8),
    "super_resolution_16": super_resolution(16),
    "inpainting": inpainting,
}


if __name__ == "__main__":
    main()
