"""The custom operators against their plain-torch form, and against the speed of a copy.

    python benchmarks/ops.py [--size 1024] [--repeats 7]
    python benchmarks/ops.py --engine [--fp16]         # also engines with plugins and decomposed: needs TensorRT

Kernels: tensors of the last layers of a published generator, forward and backward, in FP16, planes and channels-last.
Each side is a CUDA graph of 24 calls, so that the time is the GPU's and not Python's, on 6 to 24 tensors in turn (of
200 MB together, where that many suffice), each call with a result of its own, so that they come from memory and not
from a cache; the graphs take turns, and before anything is timed both sides must agree within a few roundings.

Cost model: memory is the bound. What must move is every input once and the result once (backward, the activation reads
two tensors); the share of copy speed is those bytes over the time, against those of `copy_` on a tensor of the same
size in the same run. Plain torch moves them several times: the activation once each for sum, leaky ReLU and gain,
and up-sampling writes the zeros it inserts.

A training step is forward and backward of a generator of the published widths through its styles, batch 2, under
FP16 autocast, with kernels and without in turns. Engines are the bundled demo model and are timed from uint8 host
array to uint8 host array.

Times are medians of --repeats with quartiles. Without a GPU the graphs are plain loops and both sides the plain form:
that shows that the script works, and nothing else. The last line is JSON.
"""

import argparse
import contextlib
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from psp_export.export import Options, export
from psp_runtime.engines import contract
from psp_runtime.engines.session import open_session
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.networks import Generator, GeneratorConfig
from psp_train.ops import fused_bias_leaky_relu, plain_torch, upfirdn2d
from psp_train.ops.cuda import obstacle

CALLS, WARM = 24, 3
#: Bytes of the tensors that take turns, several times the cache of an H200 (50 MB): FEWEST tensors to CALLS of them.
TURNING, FEWEST = 200_000_000, 6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = {"planes": torch.contiguous_format, "channels-last": torch.channels_last}
SIDES = {"kernel": contextlib.nullcontext, "plain": plain_torch}
Run = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="side of the largest tensor and of the generator")
    parser.add_argument("--repeats", type=int, default=7, help="what medians and quartiles are of")
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--fp16", action="store_true", help="precision of the engines")
    options = parser.parse_args()
    if options.repeats < 2 or options.size < 8:
        parser.error("--repeats takes 2 or more, for quartiles; --size 8 or more")
    plain = obstacle(0) if DEVICE == "cuda" else ""
    if plain:
        raise SystemExit(f"both sides would be plain torch: {plain}")
    report = {
        "gpu": torch.cuda.get_device_name() if DEVICE == "cuda" else None,
        "kernels": "" if DEVICE == "cuda" else "no GPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "operators": operators(options.size, options.repeats),
        "training_step": training_step(options.size, options.repeats),
    }
    if options.engine:
        report["engine"] = engines("fp16" if options.fp16 else "fp32", options.repeats)
    print(json.dumps(report))


def operators(size: int, repeats: int) -> list[dict[str, object]]:
    """Every case as a row of the table."""
    print(f"{'milliseconds, median (quartiles)':<44}{'kernel':>24}{'plain torch':>24}{'speed-up':>9}{'of copy':>8}")
    rows = []
    for channels, side in ((32, size), (64, size // 2), (512, max(size // 16, 8))):
        for layout, memory_format in LAYOUTS.items():
            shape = (1, channels, side, side)
            count = turns(2 * math.prod(shape))
            tensors = [torch.randn(shape, device=DEVICE, dtype=torch.float16) for _ in range(count)]
            tensors = [x.to(memory_format=memory_format) for x in tensors]
            copies = captured([lambda x=x: torch.empty_like(x).copy_(x) for x in tensors])
            bytes_per_second = 2 * tensors[0].nbytes / timed({"copy": copies}, repeats, CALLS)["copy"].median
            every = [cases(x) for x in tensors]
            for name, (_, moved) in every[0].items():
                times = timed(both_sides([runs[name][0] for runs in every], name), repeats, CALLS)
                share = moved / bytes_per_second / times["kernel"].median
                rows.append(row(f"{name}, {channels} x {side}², {layout}", times, share))
    return rows


def turns(nbytes: int) -> int:
    """How many tensors of this size take turns."""
    return min(CALLS, max(FEWEST, TURNING // nbytes))


def both_sides(runs: list[Run], name: str) -> dict[str, Run]:
    """CALLS calls of each side. Raises `SystemExit` when their results differ."""
    graphs, results = {}, {}
    for side, context in SIDES.items():
        with context():
            results[side], graphs[side] = runs[0]().float(), captured(runs)
    difference = (results["kernel"] - results["plain"]).abs().max().item()
    if not difference <= 0.01 * results["plain"].abs().max().item():
        raise SystemExit(f"{name}: the sides differ by {difference:.3g}: nothing was timed")
    return graphs


def cases(x: torch.Tensor) -> dict[str, tuple[Run, int]]:
    """The calls of a generator around x [B,C,H,W], and the bytes each must move."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device)
    fir, bias = torch.outer(taps, taps) / 16, torch.zeros(x.shape[1], device=x.device)
    odd = torch.nn.functional.pad(x, (1, 0, 1, 0))  # what the transposed convolution leaves: an odd side
    half = x[:, :, ::2, ::2].contiguous(
        memory_format=torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
    )
    y = fused_bias_leaky_relu(x, bias)
    gradient = torch.ops.psp.leaky_relu_gradient
    return {
        "bias, leaky ReLU, gain": (lambda: fused_bias_leaky_relu(x, bias), 2 * x.nbytes),
        "its gradient": (lambda: gradient(x, y, 0.2, 1.4), 3 * x.nbytes),
        "FIR": (lambda: upfirdn2d(odd, fir, pad=(1, 1)), odd.nbytes + x.nbytes),
        "up by 2": (lambda: upfirdn2d(half, fir, up=2, pad=(2, 1)), half.nbytes + x.nbytes),
        "down by 2": (lambda: upfirdn2d(x, fir, down=2, pad=(1, 1)), half.nbytes + x.nbytes),
    }


def training_step(size: int, repeats: int) -> dict[str, object]:
    """Forward and backward of a generator through its styles."""
    generator = Generator(GeneratorConfig(size=size)).to(DEVICE).requires_grad_(False)
    w = torch.randn(2, generator.config.styles, generator.config.style_dim, device=DEVICE, requires_grad=True)

    def step(side: str) -> None:
        with SIDES[side](), torch.autocast(DEVICE, torch.float16 if DEVICE == "cuda" else torch.bfloat16):
            loss = generator(w).float().square().mean()
            torch.autograd.grad(loss, w)

    times = timed({side: lambda side=side: step(side) for side in SIDES}, repeats)
    return row(f"step of the generator, 2 x {size}²", times)


def engines(precision: str, repeats: int) -> dict[str, object]:
    """The demo model as a plan with plugins, and decomposed: one picture, from host array to host array."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        runs = {}
        for side, custom in (("kernel", True), ("plain", False)):
            output = Path(folder) / side
            options = Options(output, precision, "tensorrt", verify=False, custom_ops=custom)
            export(load_demo_checkpoint("inversion"), options)
            session = stack.enter_context(contextlib.closing(open_session(output.with_suffix(".trt"), "cuda")))
            info = session.info
            if info.custom_ops != custom:
                raise SystemExit("the plan was built without plugins: nothing to compare")
            inputs = {name: tensor.zeros(1) for name, tensor in contract.inputs(info).items()}
            runs[side] = lambda session=session, inputs=inputs: [session.run(inputs) for _ in range(CALLS)]
        return row(f"engine of the demo model, {precision}", timed(runs, repeats, CALLS))


def captured(runs: list[Run]) -> Run:
    """CALLS calls, the runs in turn, as one CUDA graph, or as a loop where there is no GPU."""
    if DEVICE == "cpu":
        return lambda: [runs[call % len(runs)]() for call in range(CALLS)]
    runs[0]()  # loads the kernels, which a capture must not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [runs[call % len(runs)]() for call in range(CALLS)]
    del results  # until here, so that every call writes to memory of its own
    return graph.replay


class Times(NamedTuple):
    """Quartiles, in seconds."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{1e3 * self.median:.3f} ({1e3 * self.low:.3f}-{1e3 * self.high:.3f})"


def timed(runs: dict[str, Run], repeats: int, calls: int = 1) -> dict[str, Times]:
    """Seconds per call of runs that make `calls` of them, the sides taking turns."""
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for number in range(WARM + repeats):
        for side, run in runs.items():
            synchronize()
            start = time.perf_counter()
            run()
            synchronize()
            if number >= WARM:
                seconds[side].append((time.perf_counter() - start) / calls)
    return {side: Times(*statistics.quantiles(values, n=4, method="inclusive")) for side, values in seconds.items()}


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def row(name: str, times: dict[str, Times], share: float | None = None) -> dict[str, object]:
    """Print a row of the table, and give it as what goes into the JSON line."""
    kernel, plain = times["kernel"], times["plain"]
    speedup = plain.median / kernel.median
    print(f"{name:<44}{kernel!s:>24}{plain!s:>24}{speedup:>8.2f}x" + (f"{share:>8.0%}" if share else ""), flush=True)
    milliseconds = {side: [round(1e3 * value, 4) for value in values] for side, values in times.items()}
    shares = {"share_of_copy": round(share, 3)} if share else {}
    return {"case": name, "ms_quartiles": milliseconds, "speedup": round(speedup, 2), **shares}


if __name__ == "__main__":
    main()
