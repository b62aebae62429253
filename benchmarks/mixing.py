"""Seconds of `psp-run --mix N` with encoder and generator beside the engine against N runs of the whole engine.

    python benchmarks/mixing.py [--size 1024] [--mix 8] [--fp16] [--repeats 3]
    python benchmarks/mixing.py --demo

An encoder and a generator of the published widths (--demo: the bundled model) with fresh weights are exported with
their parts and opened twice: with the parts in sight, and without. Both mix the same N styles into the same picture;
they take turns, and before anything is timed their pictures must agree within one level.

Cost model, 2 x multiply-accumulate, with the published widths at 1024: encoder E = 145 GFLOP, generator G = 151 GFLOP
(119 and 91 at 256). N whole runs need N (E + G), with parts it is E + N G: 1.75 times less for N = 8 at 1024.

Times are the best of --repeats, opening the files not counted. The last line is JSON.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from psp_export.export import Options, export
from psp_runtime import load
from psp_runtime.pipeline import Pipeline
from psp_runtime.tasks import get_task
from psp_train.checkpoints import Checkpoint, load_demo_checkpoint
from psp_train.networks import PSP, EncoderConfig, GeneratorConfig

SIDES = ("whole", "parts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--mix", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--demo", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = load_demo_checkpoint("inversion") if options.demo else fresh_checkpoint(options.size)
        write_engines(checkpoint, Path(folder), "fp16" if options.fp16 else "fp32")
        del checkpoint
        with load(Path(folder) / "whole.onnx") as whole, load(Path(folder) / "parts.onnx") as parts:
            report = compare({"whole": whole, "parts": parts}, options.mix, options.repeats)
    report |= {"size": 256 if options.demo else options.size, "precision": "fp16" if options.fp16 else "fp32"}
    print(json.dumps(report | {"demo": options.demo, "mix": options.mix, "cores": os.cpu_count()}))


def fresh_checkpoint(size: int) -> Checkpoint:
    """The published widths with fresh weights: the time does not depend on their values."""
    torch.manual_seed(0)
    generator = GeneratorConfig(size=size)
    encoder = EncoderConfig(styles=generator.styles)
    model = PSP(encoder, generator).eval().requires_grad_(False)
    return Checkpoint(model, get_task("inversion"), encoder, generator, "00" * 32, "benchmark", "fresh weights")


def write_engines(checkpoint: Checkpoint, folder: Path, precision: str) -> None:
    """parts.onnx with its parts, and whole.onnx, the same engine without them."""
    export(checkpoint, Options(folder / "parts", precision, "onnx", verify=False, parts=True), print)
    for ending in ("", ".mapping"):
        os.link(folder / f"parts{ending}.onnx", folder / f"whole{ending}.onnx")


def compare(sides: dict[str, Pipeline], count: int, repeats: int) -> dict[str, object]:
    """Best times of both sides, taking turns; raises when their pictures differ."""
    styles = sides["whole"].styles(count, seed=0)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    pictures = {name: side.mix(pixels, styles).astype(int) for name, side in sides.items()}  # also warms up
    difference = int(np.abs(pictures["whole"] - pictures["parts"]).max())
    if difference > 1:
        raise SystemExit(f"the pictures differ by {difference} levels: nothing was timed")
    best = dict.fromkeys(SIDES, float("inf"))
    for _ in range(repeats):
        for name in SIDES:
            start = time.perf_counter()
            sides[name].mix(pixels, styles)
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{count} whole runs {best['whole']:.2f} s, with parts {best['parts']:.2f} s ({sides['whole'].device})")
    speedup = round(best["whole"] / best["parts"], 3)
    return {"seconds": {n: round(s, 3) for n, s in best.items()}, "speedup": speedup, "max_difference": difference}


if __name__ == "__main__":
    main()
