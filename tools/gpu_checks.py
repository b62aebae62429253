"""The checks of `gpu_check.py`: each is given the folder --work and the output size, and returns what it found."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_measures import BATCHES, Cases, Inputs, Result, load_cases, measure, save_cases, seconds_since, worst_psnr

from psp_export.plans.build import TENSORRT, BuildSettings, build_plan, choose_flavour
from psp_runtime.engines.libraries import import_onnxruntime
from psp_runtime.engines.session import OnnxSession
from psp_runtime.engines.tensorrt.session import TensorRTSession

ROOT = Path(__file__).parents[1]
#: The least PSNR of each precision, as psp-export wants it (`psp_export.verify.parity`, which needs PyTorch).
GATES = {"fp32": 48.0, "fp16": 40.0, "int8": 35.0}
#: Rows of `benchmarks/latency.py` that are measured in one go: of networks of ours, and those of others beside pSp.
OUR_ROWS = ("W encoder", "naive W+", "pSp inversion", "pSp frontalization")
PEER_ROWS = ("pSp inversion", "ALAE", "IDInvert", "Rotate-and-Render")


def export_model(precision: str, work: Path, size: int) -> Result:
    """The ONNX file everything else runs, and the reference's pictures, which they are compared with."""
    from psp_export.export import Options, engine_info, export
    from psp_export.verify.cases import reference_cases

    checkpoint, start = published(size), time.perf_counter()
    folder = fresh(work / precision)
    options = Options(folder / "psp", precision, "onnx", verify=False, max_batch=max(BATCHES))
    files = export(checkpoint, options)
    found = {"export_s": seconds_since(start)} | megabytes(files[0].path)
    cases = reference_cases(checkpoint.model, engine_info(checkpoint, options))
    save_cases(folder, [(case.inputs, case.expected) for case in cases])
    return found


def published(size: int) -> Any:
    """The published architecture for one output size, on seeded weights, as a loaded checkpoint."""
    sys.path.append(str(ROOT / "benchmarks"))
    from measure.workloads import Workload, seeded_checkpoint

    return seeded_checkpoint(Workload(size))


def stressed(work: Path, size: int) -> Result:
    """Weights that overflow a plain half: every half tensor between modules must be finite, computed on the GPU."""
    sys.path.append(str(ROOT / "tests" / "support"))
    import torch
    from hardened import harden_encoder, harden_generator
    from models import golden_model

    from psp_export.export import Options, engine_info, export
    from psp_export.verify.cases import reference_cases
    from psp_runtime.tasks import TASKS
    from psp_train.checkpoints.psp import Checkpoint

    model = golden_model("psp_64", 64)
    harden_generator(model)
    harden_encoder(model)
    configs = (model.encoder.config, model.decoder.config)
    checkpoint = Checkpoint(model, TASKS["inversion"], *configs, "1" * 64, "none", "stressed")
    info = engine_info(checkpoint, Options(precision="fp16"))
    cases = reference_cases(model, info)
    folder = fresh(work / "stressed")
    export(checkpoint, Options(folder / "psp", "fp16", "onnx"))
    save_cases(folder, [(case.inputs, case.expected) for case in cases])
    with torch.no_grad():
        return torch_half(checkpoint, cases)


def half(work: Path, size: int) -> Result:
    """The deployable form of the published architecture in torch half on the GPU."""
    import torch

    from psp_export.export import Options, engine_info
    from psp_export.verify.cases import reference_cases

    checkpoint = published(size)
    cases = reference_cases(checkpoint.model, engine_info(checkpoint, Options(precision="fp16")))
    with torch.no_grad():
        return torch_half(checkpoint, cases)


def torch_half(checkpoint: Any, cases: Cases) -> Result:
    """Parity of the deployable form in half on the GPU, and the largest value any of its modules gives."""
    import torch

    from psp_export.export import Options, deployable, engine_info

    module = deployable(checkpoint.model, engine_info(checkpoint, Options(precision="fp16"))).cuda()
    peaks: dict[str, float] = {}

    def watch(name: str, _: Any, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dtype == torch.half:
            peaks[name] = max(peaks.get(name, 0.0), largest(output))

    for name, part in module.named_modules():
        part.register_forward_hook(partial(watch, name))

    def run(inputs: Inputs) -> np.ndarray:
        return module(*(torch.from_numpy(inputs[name]).cuda() for name in ("image", "style", "alpha")))[0].cpu().numpy()

    psnr = min(worst_psnr(run(case.inputs), case.expected) for case in cases)
    name = max(peaks, key=peaks.__getitem__)
    found = {"psnr": psnr, "half_tensors": len(peaks), "largest": round(peaks[name], 1), "in": name}
    if not np.isfinite(peaks[name]):
        raise ArithmeticError(f"not finite: {found}")
    return agreeing(found, "fp16")


def agreeing(found: Result, precision: str) -> Result:
    """What was found, if its pictures agree with the reference's. Raises `ArithmeticError` if not."""
    if not found["psnr"] >= GATES[precision]:
        raise ArithmeticError(f"less than {GATES[precision]} dB: {found}")
    return found


def largest(values: Any) -> float:
    """The largest magnitude in a tensor; infinity where one is not finite."""
    found = float(values.abs().amax())
    return found if np.isfinite(found) else np.inf


def plan(model: str, level: int, tuned_batch: int, work: Path, size: int) -> Result:
    """Build a plan of one exported model and run it with and without CUDA graphs."""
    flavour, version = tensorrt()
    if flavour is None:
        raise RuntimeError("no TensorRT is installed in this Python")
    name = f"{model}-{flavour}-{version}-{level}-{tuned_batch}.trt"
    source, target, start = work / model / "psp.onnx", work / name, time.perf_counter()
    cache = work / f"{flavour}-{version}.timing" if flavour == TENSORRT else None
    known = bool(cache and cache.is_file())
    settings = BuildSettings(timing_cache=cache, level=level, tuned_batch=tuned_batch)

    def tell(words: str) -> None:
        """A build that takes too long leaves what it was at."""
        print(f"{seconds_since(start):7.2f} s {words[:200]}", file=sys.stderr)

    info = build_plan(source, target, flavour, settings, tell)
    result: Result = {"version": info.backend_version, "build_s": seconds_since(start), "timings_known": known}
    result |= megabytes(target)
    ours: list[warnings.WarningMessage] = []
    for name, cuda_graphs in (("graphs", True), ("plain", False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result[name] = measure(partial(TensorRTSession, target, cuda_graphs), load_cases(source.parent))
        result[name]["warnings"] = sorted({str(warning.message) for warning in caught})
        agreeing(result[name], info.precision)
        ours += [warning for warning in caught if warning.category is UserWarning]
    if ours:  # of graphs that were not recorded, for example: the times would be those of something else
        raise RuntimeError(str(result))
    return result


def tensorrt() -> tuple[str | None, str]:
    """The TensorRT of this Python that plans are built with, and its version."""
    flavour = choose_flavour()
    return flavour, importlib.import_module(flavour).__version__ if flavour else ""


def onnx_runtime(work: Path, size: int) -> Result:
    """ONNX Runtime's CUDA provider on the same ONNX files, for comparison."""
    found: Result = {"version": import_onnxruntime().__version__}
    for precision in GATES:
        open_session = partial(OnnxSession, work / precision / "psp.onnx", "cuda")
        found[precision] = agreeing(measure(open_session, load_cases(work / precision)), precision)
    return found


def latency(precision: str, rows: Sequence[str], work: Path, size: int) -> Result:
    """Rows of the benchmark with the libraries that can use the GPU: files of others would be made for nothing."""
    backends = ["torch"]
    if "CUDAExecutionProvider" in import_onnxruntime().get_available_providers():
        backends.append("onnxruntime")
    if choose_flavour():
        backends.append("tensorrt")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # FP32 is FP32: by default, torch's convolutions are TF32
    chosen = [word for backend in backends for word in ("--backend", backend)]
    chosen += [word for row in rows for word in ("--row", row)]
    words = ["--size", str(size), "--precision", precision, *chosen]
    found = script("benchmarks/latency.py", *words, work=work, size=size)
    # One baseline cannot be exported; whatever else was not measured should have been.
    lost = {reason: what for reason, what in found["notes"].items() if "cannot be exported" not in reason}
    if lost:
        raise RuntimeError(f"not measured: {lost}")
    return found


def gpu_tests(marks: str, work: Path, size: int) -> Result:
    """The tests with these marks, one of which is `gpu`: no GPU is then a failure, not a skip."""
    os.environ |= {"PSP_REQUIRE_GPU": "1", "OMP_NUM_THREADS": "1"}  # tiny references: threads would only wait
    # Only the files that hold some: others import packages that need no GPU and need not be here.
    marked = re.compile(r"^@pytest\.mark\.gpu$", re.MULTILINE)
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if marked.search(file.read_text())]
    found = script("-m", "pytest", "-ra", "-m", marks, *files, work=work, size=size)
    if "passed" not in found["last_line"]:
        raise RuntimeError(f"nothing was tested: {found['last_line']}")
    return found


def plan_tests(work: Path, size: int) -> Result:
    """The tests of plans that need no PyTorch, by the TensorRT of this Python."""
    os.environ["PSP_REQUIRE_GPU"] = "1"
    found = script("-m", "pytest", "-ra", str(ROOT / "tests" / "plans" / "test_gpu_plans.py"), work=work, size=size)
    if "skipped" in found["last_line"]:
        raise RuntimeError(f"no plan can run here: {found['last_line']}")
    return found


def script(*command: str, work: Path, size: int) -> Result:
    """A script of this repository; its last line is the result if it is JSON.

    What it prints is passed on at once: a script that is stopped for its time leaves that too.
    """
    last, environment = "", os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            sys.stderr.write(line)
            last = line.strip() or last
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {last[-200:]}")
    return json.loads(last) if last.startswith("{") else {"last_line": last}


def fresh(folder: Path) -> Path:
    """A folder that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def megabytes(path: Path) -> Result:
    return {"megabytes": round(path.stat().st_size / 1e6, 1)}
