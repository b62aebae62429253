"""The paper's ablation (table 2) on drawn faces: pSp, naive W+ and W encoders, same data, same steps, several seeds.

    python benchmarks/ablation.py --work runs/ablation --steps 250

Every encoder has the same backbone and is trained by psp-train's own loop on the inversion recipe over the bundled
generator. Judged on held-out faces by MSE (pictures in [-1,1]) and feature distance, which is not LPIPS: see
psp_train/drawn/judges.py; the feature distance is also what they are trained on, MSE too. The runtime column is the
encoder and generator in plain torch, one picture. A run is kept as soon as it is done: start again to continue. Prints
a table and ends with one JSON line.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch

from psp_train import recipes
from psp_train.checkpoints.psp import load_checkpoint
from psp_train.drawn.faces import draw, sample
from psp_train.drawn.judges import load_judges
from psp_train.networks import PSP
from psp_train.networks.psp import to_input
from psp_train.training.build import build
from psp_train.training.distributed import Process
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings
from psp_train.training.trainer import Trainer

KINDS, SEEDS = ("psp", "naive_wplus", "w"), (0, 1, 2)
FACES, HELD_OUT_SEED = 200, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--data", type=Path, help="folder of drawn faces (default: WORK/drawn)")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--only", nargs="*", help="train these runs only, as KIND_SEED, and judge nothing")
    options = parser.parse_args()
    runs = {f"{kind}_{seed}": (kind, seed) for seed in SEEDS for kind in KINDS}
    for name in options.only or runs:
        train(options, name, *runs[name])
    if not options.only:
        report(options, {name: judge(options.work / name / f"step_{options.steps:08}.pt") for name in runs})


def train(options: argparse.Namespace, name: str, kind: str, seed: int) -> None:
    """Train one encoder, or what is left of its training."""
    changes = recipes.DEMO | {"encoder": kind, "seed": seed, "steps": options.steps}
    recipe = recipes.make_recipe("inversion", None, changes)
    out, data = options.work / name, options.data or options.work / "drawn"
    every = dict(log_every=10, validate_every=options.steps, save_every=50)
    settings = Settings(recipe, out, data=data, demo=True, held_out=16, compile=True, workers=0, **every)
    folder = RunFolder(out)
    if folder.steps()[-1:] == [options.steps]:
        return
    trainer = Trainer(settings, build(settings), Process(0, 1, torch.device("cpu")))
    if not (out / "run.json").exists():
        folder.create(settings.to_json())
    trainer.run()


@torch.no_grad()
def judge(path: Path) -> dict[str, float]:
    """MSE and feature distance on held-out faces, and seconds per picture."""
    model, perceptual = load_checkpoint(path).model, load_judges().perceptual
    pictures = np.stack([draw(z).image for z in sample(FACES, HELD_OUT_SEED)])
    mse, distance = [], []
    for part in np.array_split(pictures, FACES // 8):
        target = to_input(torch.from_numpy(part), "rgb", 3)
        output = model(target)[0].clamp(-1, 1)
        mse += (output - target).square().mean((1, 2, 3)).tolist()
        distance += perceptual(output, target).tolist()
    return {"mse": mean(mse), "feature_distance": mean(distance), "seconds": runtime(model)}


def runtime(model: PSP) -> float:
    """Median seconds of one warm picture."""
    x, seconds = torch.zeros(1, 3, 256, 256), []
    for _ in range(12):
        start = time.perf_counter()
        model(x)
        seconds.append(time.perf_counter() - start)
    return median(seconds[2:])


def report(options: argparse.Namespace, results: dict[str, dict[str, float]]) -> None:
    """Table and JSON line: mean and standard deviation over the seeds."""
    print(f"{'encoder':14}{'feature distance':>22}{'MSE':>20}{'s/picture':>12}")
    rows = {}
    for kind in KINDS:
        values = [results[f"{kind}_{seed}"] for seed in SEEDS]
        rows[kind] = {key: [v[key] for v in values] for key in values[0]}
        d, m, s = rows[kind]["feature_distance"], rows[kind]["mse"], rows[kind]["seconds"]
        print(f"{kind:14}{mean(d):14.4f} ± {stdev(d):.4f}{mean(m):12.4f} ± {stdev(m):.4f}{median(s):12.4f}")
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({"steps": options.steps, "seeds": SEEDS, "torch": torch.__version__} | machine | {"runs": rows}))


if __name__ == "__main__":
    main()
