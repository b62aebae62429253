"""Everything that needs a GPU, in one command: tests, precision, plans, parity, times. Ends with one JSON line.

    python tools/gpu_check.py [--size 1024] [--work FOLDER] [--out gpu_check.json]
    python tools/gpu_check.py --only export_fp16 --only plan_fp16      # in pieces; --list names them
    env PYTHONPATH=$PWD python3.10 tools/gpu_check.py --only plan_fp16    # with the TensorRT of another Python

Where the packages are not installed, PYTHONPATH says where they are.

Each check runs in a process and a time limit of its own, so a crash or a hang is a result and the next one runs. What
is made and found stays in --work: later calls skip what succeeded (--again repeats it) and print all there is. The
plan checks need no PyTorch, only what `export_fp16` and so on left in --work, and count for each version of
TensorRT apart.

The model is the published architecture on seeded weights, `stressed` a 64² one with weights that overflow a plain half;
nothing is downloaded. Times are milliseconds, the median of 50 runs after 10 warm ones with quartiles: `host` from host
array to host array, `device` on the GPU, copies included (plans only). `pictures_per_s` is 20 batches through
`run_many`, host to host. `psnr` is that of the worst picture against PyTorch FP32 on the CPU, uint8, peak 255, in dB: a
check fails where it is less than 48 (FP32) or 40 (FP16). `timings_known`: an earlier build had timed some kernels.
"""

import argparse
import faulthandler
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gpu_checks as checks

from psp_export.plans.build import DEFAULT_LEVEL
from psp_runtime.engines.devices import cuda_devices, gpu_name

#: Characters kept of what a failed check printed.
KEPT = 6000


class Check(NamedTuple):
    """One check: what it does with --work and --size, and how many seconds it may take. `plan`: once per TensorRT."""

    run: Callable[..., dict[str, Any]]
    limit: int
    plan: bool = False


CHECKS = {
    "export_fp16": Check(partial(checks.export_model, "fp16"), 300),
    "export_fp32": Check(partial(checks.export_model, "fp32"), 300),
    "stressed": Check(checks.stressed, 300),
    "tests": Check(partial(checks.gpu_tests, "gpu and not slow"), 500),
    "sanitizer": Check(partial(checks.gpu_tests, "gpu and slow"), 500),
    "half": Check(checks.half, 300),
    "plan_tests": Check(checks.plan_tests, 200, plan=True),
    "plan_level_1": Check(partial(checks.plan, "fp16", 1, 1), 400, plan=True),
    "plan_fp16": Check(partial(checks.plan, "fp16", DEFAULT_LEVEL, 1), 580, plan=True),
    "plan_fp32": Check(partial(checks.plan, "fp32", DEFAULT_LEVEL, 1), 580, plan=True),
    "plan_stressed": Check(partial(checks.plan, "stressed", DEFAULT_LEVEL, 1), 400, plan=True),
    "plan_for_batches": Check(partial(checks.plan, "fp16", DEFAULT_LEVEL, 16), 580, plan=True),
    "plan_level_5": Check(partial(checks.plan, "fp16", 5, 1), 580, plan=True),
    "onnxruntime": Check(checks.onnx_runtime, 200),
    "ops": Check(partial(checks.script, "benchmarks/ops.py"), 300),
    "latency_fp16": Check(partial(checks.latency, "fp16", checks.OUR_ROWS), 580),
    "latency_fp32": Check(partial(checks.latency, "fp32", checks.OUR_ROWS), 580),
    "latency_peers": Check(partial(checks.latency, "fp32", checks.PEER_ROWS), 580),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="output size of the seeded model")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "psp_gpu_check")
    parser.add_argument("--only", action="append", choices=CHECKS, metavar="NAME", help="this check; may be repeated")
    parser.add_argument("--again", action="store_true", help="repeat what already succeeded")
    parser.add_argument("--list", action="store_true", help="name the checks and their time limits")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    parser.add_argument("--inside", choices=CHECKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work = options.work.resolve()
    if options.list:
        print("\n".join(f"{name:18}{check.limit:4} s" for name, check in CHECKS.items()))
        return
    if not cuda_devices():
        sys.exit("gpu_check needs an NVIDIA GPU with its driver: none was found")
    if options.inside:
        faulthandler.dump_traceback_later(CHECKS[options.inside].limit - 5)  # where it is when it takes too long
        print(json.dumps(CHECKS[options.inside].run(work=options.work / str(options.size), size=options.size)))
        return
    for name in options.only or CHECKS:
        run_apart(name, options)
    report(options)


def run_apart(name: str, options: argparse.Namespace) -> None:
    """Run a check in its own process, and keep its result or how it failed."""
    file = checks.fresh(results_folder(options)) / f"{label(name)}.json"
    if file.exists() and not options.again and "failed" not in json.loads(file.read_text()):
        return
    print(f"{file.stem} …", file=sys.stderr, flush=True)
    start = time.perf_counter()
    command = [sys.executable, __file__, "--inside", name, "--work", str(options.work), "--size", str(options.size)]
    result = output_of(command, CHECKS[name].limit)
    result |= {"seconds": round(time.perf_counter() - start, 1), "gpu": gpu_name(), "python": platform.python_version()}
    file.write_text(json.dumps(result))


def output_of(command: list[str], limit: int) -> dict[str, Any]:
    """The JSON a check prints last; why there is none, otherwise."""
    # A session of its own: what the check started ends with it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=checks.ROOT, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate()
        sys.stderr.write(err)
        return {"failed": f"{err.strip()[-KEPT:]}\ntook more than {limit} s".strip()}
    sys.stderr.write(err)
    if process.returncode:
        return {"failed": f"exit {process.returncode}: {err.strip()[-KEPT:]}"}
    return json.loads(out.strip().splitlines()[-1])


def results_folder(options: argparse.Namespace) -> Path:
    """Where the results for one output size are kept."""
    return options.work / str(options.size) / "results"


def label(name: str) -> str:
    """What a result is kept under."""
    return ".".join(filter(None, [name, *checks.tensorrt()])) if CHECKS[name].plan else name


def report(options: argparse.Namespace) -> None:
    """All results there are: a line each, then one of JSON."""
    files = sorted(results_folder(options).glob("*.json"))
    results = {file.stem: json.loads(file.read_text()) for file in files}
    for name, result in results.items():
        # Of tests, how many passed and were skipped.
        words = result.get("failed") or result.get("last_line") or "ok"
        print(f"{name:32}{words.splitlines()[-1][:120]}")
    text = json.dumps({"command": " ".join(sys.argv), "size": options.size, "checks": results})
    if options.out:
        checks.fresh(options.out.parent)
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
