"""Seconds of `psp mix -n N` with encoder and generator beside the engine against N runs of the whole engine.

    python benchmarks/mixing.py [--size 1024] [--small] [--mix 8] [--fp16] [--repeats 3]

The published architecture (--small: the widths of the bundled demo model) on seeded weights is opened twice: with its
parts in sight, and without. Both mix the same N styles into the same picture; they take turns, and before anything is
timed their pictures must agree within one level. On a CPU, PSP_CPU=onnxruntime or openvino chooses what runs them.

Cost model, 2 x multiply-accumulate, with the published widths at 1024: encoder E = 145 GFLOP, generator G = 151 GFLOP
(119 and 91 at 256). N whole runs need N (E + G), with parts it is E + N G: 1.75 times less for N = 8 at 1024.

Times are medians of --repeats, opening the files not counted. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine
from measure.backends import default_device
from measure.workloads import FULL, Workload, our_engine

from psp_runtime import load
from psp_runtime.pipeline import Pipeline

SIDES = ("whole", "parts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--small", action="store_true", help="the widths of the bundled demo model, up to 256 pixels")
    parser.add_argument("--mix", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fp16", action="store_true")
    options = parser.parse_args()
    precision = "fp16" if options.fp16 else "fp32"
    engine = our_engine(Workload(options.size, 1, options.small), FULL, precision)
    with tempfile.TemporaryDirectory() as folder:
        # Another name: what lies beside it does not belong to it.
        alone = Path(folder) / "alone.onnx"
        for ending in ("", ".mapping"):
            alone.with_name(f"alone{ending}.onnx").symlink_to(engine.with_name(f"{engine.stem}{ending}.onnx"))
        with load(alone) as whole, load(engine) as parts:
            report = compare({"whole": whole, "parts": parts}, options.mix, options.repeats)
            report["session"] = type(whole.session).__name__
    facts = {"benchmark": "mixing", "size": options.size, "small": options.small, "precision": precision}
    print(json.dumps(facts | {"mix": options.mix, "machine": machine.describe(default_device())} | report))


def compare(sides: dict[str, Pipeline], count: int, repeats: int) -> dict[str, object]:
    """Times of both sides, taking turns. Raises `SystemExit` when their pictures differ."""
    assert sides["parts"].parts.usable and not sides["whole"].parts.usable
    styles = sides["whole"].styles(count, seed=0)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    pictures = {name: side.mix(pixels, styles).astype(int) for name, side in sides.items()}  # also warms up
    difference = int(np.abs(pictures["whole"] - pictures["parts"]).max())
    if difference > 1:
        raise SystemExit(f"the pictures differ by {difference} levels: nothing was timed")
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(repeats):
        for name in SIDES:
            start = time.perf_counter()
            sides[name].mix(pixels, styles)
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name in SIDES:
        print(f"{name:6} {count} pictures: {median[name]:.2f} s ({min(times[name]):.2f} to {max(times[name]):.2f})")
    speedup = round(median["whole"] / median["parts"], 3)
    seconds = {name: [round(value, 3) for value in values] for name, values in times.items()}
    return {"seconds": seconds, "speedup": speedup, "max_difference": difference, "cores": os.cpu_count()}


if __name__ == "__main__":
    main()
