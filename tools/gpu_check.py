"""Everything that needs a GPU, in one call: tests, precision, plans, parity, times. Ends with one JSON line.

    python tools/gpu_check.py [--size 1024] [--out benchmarks/results/gpu_check.json]

The model is the published architecture on seeded weights (psp_train/seeded.py), so nothing is downloaded. Each check
runs even if an earlier one failed; a failure is part of the result. Times are the median of 50 runs after 10 warm
ones, batch 1, from uint8 host array to uint8 host array.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from psp_export import engine, verify
from psp_export.export import Options, Written, deployable, engine_info, export
from psp_runtime.sessions import cuda_devices, open_session
from psp_runtime.tasks import TASKS
from psp_train.checkpoints import Checkpoint
from psp_train.networks import PSP, EncoderConfig, GeneratorConfig
from psp_train.seeded import seeded_state_dict

WARM, RUNS = 10, 50


def seeded_checkpoint(size: int) -> Checkpoint:
    """The published architecture for one output size, on seeded weights."""
    generator = GeneratorConfig(size=size)
    encoder = EncoderConfig(styles=generator.styles)
    with torch.device("meta"):
        model = PSP(encoder, generator)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in seeded_state_dict(shapes).items()}
    model.load_state_dict(state, assign=True)
    model.latent_avg = torch.zeros(generator.styles, generator.style_dim)
    model.eval().requires_grad_(False)
    return Checkpoint(model, TASKS["inversion"], encoder, generator, "0" * 64, "seeded weights", "seeded")


def gpu_tests() -> dict:
    """The tests marked `gpu`, with skips turned into failures."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests"]
    done = subprocess.run(command, env=os.environ | {"PSP_REQUIRE_GPU": "1"}, capture_output=True, text=True)
    return {"exit": done.returncode, "last_line": (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]}


@torch.no_grad()
def half_on_gpu(checkpoint: Checkpoint) -> dict:
    """The deployable form in torch half on the GPU, against torch FP32 on the CPU."""
    info = engine_info(checkpoint, Options(precision="fp16"))
    cases = verify.reference_cases(checkpoint.model, info)
    module = deployable(checkpoint.model, info).cuda()

    def run(inputs):
        return module(*(torch.from_numpy(inputs[name]).cuda() for name in ("image", "style", "alpha")))[0].cpu().numpy()

    return verify.compare(run, info, cases).to_metadata()


def engines(checkpoint: Checkpoint, precision: str, folder: Path) -> dict:
    """Export (which verifies the plan on the GPU), then time every engine file there is."""
    files = export(checkpoint, Options(folder / precision, precision))
    inputs = verify.reference_cases(checkpoint.model, engine_info(checkpoint, Options()))[0].inputs
    return {f.path.name: attempt(lambda file=f: time_engine(file, inputs)) for f in files if f.part == "full"}


def time_engine(file: Written, inputs: dict) -> dict:
    """One engine on the GPU, from host array to host array."""
    session = open_session(file.path, "cuda")
    try:
        return {"parity": file.parity, "megabytes": round(file.path.stat().st_size / 1e6, 1)} | timed(
            lambda: session.run(inputs)
        )
    finally:
        session.close()


def timed(run: Callable[[], object]) -> dict:
    """Median and quartiles in milliseconds."""
    for _ in range(WARM):
        run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(times, n=4)
    return {"ms_median": round(median, 3), "ms_quartiles": [round(low, 3), round(high, 3)]}


def attempt(check: Callable[[], dict]) -> dict:
    """The result of a check, or how it failed: the next one still runs."""
    try:
        return check()
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="output size of the seeded model")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    if not cuda_devices():
        sys.exit("gpu_check needs an NVIDIA GPU with its driver: none was found")
    checkpoint = seeded_checkpoint(options.size)
    result = {
        "command": " ".join(sys.argv),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "torch sees none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tensorrt": engine.choose_flavour(),
        "tests": attempt(gpu_tests),
        "torch_half": attempt(lambda: half_on_gpu(checkpoint)),
    }
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "fp16"):
            result[precision] = attempt(lambda precision=precision: engines(checkpoint, precision, Path(folder)))
    text = json.dumps(result)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
