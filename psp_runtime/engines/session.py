"""Open engines: ONNX Runtime and TensorRT behind one small interface.

The libraries are imported when an engine opens, never with the package: each machine needs only those of its engines.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines import devices
from psp_runtime.engines.contract import Arrays, empty_outputs
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.engines.onnx_session import OnnxSession
from psp_runtime.engines.openvino.session import OpenVINOSession
from psp_runtime.engines.precision import OPENVINO, Precision, check_on_gpu, choose, has_openvino, lacks_int8
from psp_runtime.errors import DeviceError, EngineError

__all__ = [
    "DEVICES",
    "Arrays",
    "OnnxSession",
    "OpenVINOSession",
    "Session",
    "plan_obstacle",
    "open_session",
    "run_batches",
]

DEVICES = ("auto", "cuda", "cpu")


class Asked(NamedTuple):
    """What is asked of a session: `device` and `precision` as their options, `runs` as far as they are known."""

    device: str
    precision: Precision
    runs: int | None


class Session(Protocol):
    """An open engine. `device` is what it really runs on: "cuda" or "cpu".

    `precision` is what it really multiplies in: "fp32", "fp16", "bf16" or "int8". `info.precision` is how the numbers
    of its file are stored.
    """

    path: Path
    info: EngineInfo
    device: str
    precision: str
    max_batch: int

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Give all outputs by name, for all inputs by name; the first axis of each is the batch, 1..max_batch."""

    def run_many(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[Arrays]:
        """`run` for each of many batches, in their order; a GPU takes the next one while the last is copied back."""

    def close(self) -> None:
        """Free the engine."""


def open_session(
    path: str | Path, device: str = "auto", runs: int | None = None, precision: Precision = "auto"
) -> Session:
    """Open an .onnx with ONNX Runtime or OpenVINO, any other engine as a TensorRT plan.

    `runs` says how often the engine will run, where that is known. On a CPU, OpenVINO is used where it is installed
    and there are enough runs to make up for its slow start; PSP_CPU=onnxruntime or PSP_CPU=openvino in the
    environment decides otherwise. For a single run ONNX Runtime takes less memory.

    `precision` is what it shall compute in: "fp32", "bf16" or "int8". "auto" is bf16 of an FP16 engine where OpenVINO
    runs it on a CPU that has bf16, else what the engine is made for (see `psp_runtime.engines.precision`).

    A plan that is not there, that this machine cannot run, or must not with device "cpu", is replaced by the .onnx of
    the same name beside it, with a warning; not with device "cuda". Raises `EngineError` and `DeviceError` in one line.
    """
    path, asked = Path(path), Asked(device, precision, runs)
    if device not in DEVICES:
        raise DeviceError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    path = find_engine(path, device)
    info = read_info(path)
    if path.suffix.lower() == ".onnx":
        return _open_onnx(path, info, asked)
    if device == "cpu":
        return _open_onnx_beside(path, info, asked, f"{path.name} runs on NVIDIA GPUs only")
    obstacle = plan_obstacle(path, info)
    if not obstacle:
        return _open_plan(path, info, asked)
    if device == "cuda":
        raise DeviceError(f"{path.name} needs {obstacle}, which this machine lacks")
    return _open_onnx_beside(path, info, asked, f"{path.name} needs {obstacle}")


def _open_plan(path: Path, info: EngineInfo, asked: Asked) -> Session:
    from psp_runtime.engines.tensorrt.session import TensorRTSession  # a start without plans does without its modules

    check_on_gpu(path, info, asked.precision)
    return TensorRTSession(path)


def _open_onnx(path: Path, info: EngineInfo, asked: Asked) -> Session:
    if asked.device == "cuda" or (asked.device == "auto" and devices.cuda_devices()):
        check_on_gpu(path, info, asked.precision)
        return OnnxSession(path, asked.device)
    choice = choose(path, info, asked.precision, asked.runs)
    if choice.library == OPENVINO:
        return OpenVINOSession(path, choice.precision)
    if choice.precision == "int8" and (lacking := lacks_int8()):
        warnings.warn(f"{path.name}: INT8 is slower than FP32 here, it needs {lacking}", stacklevel=3)
    elif choice.precision == "int8" and not has_openvino():
        install = "pip install '.[openvino]'"
        warnings.warn(f"{path.name}: ONNX Runtime runs INT8 slower than FP32, OpenVINO faster: {install}", stacklevel=3)
    return OnnxSession(path, asked.device, one_run=asked.runs == 1)


def _open_onnx_beside(plan: Path, info: EngineInfo, asked: Asked, reason: str) -> Session:
    onnx = plan.with_suffix(".onnx")
    if not onnx.is_file():
        raise DeviceError(f"{reason}, and there is no {onnx.name} beside it to run instead")
    other = read_info(onnx)
    for field in ("task", "checkpoint", "part"):
        wanted, found = getattr(info, field), getattr(other, field)
        if wanted != found:
            raise EngineError(f"{reason}, and {onnx.name} beside it is another engine: {field} {found}, not {wanted}")
    session = _open_onnx(onnx, other, asked)
    processor = "GPU" if session.device == "cuda" else "CPU"
    warnings.warn(f"{reason}: running {onnx.name} on the {processor} instead", stacklevel=3)
    return session


def plan_obstacle(path: Path, info: EngineInfo) -> str:
    """Say what running a plan lacks on this machine; empty when it can be tried."""
    from psp_runtime.engines.tensorrt.session import PLAN_MODULES, plan_module

    if devices.cuda_devices() == 0:
        return "an NVIDIA GPU with its driver"
    module = plan_module(path, info)
    if not devices.importable(module):
        others = [name for name in PLAN_MODULES.values() if name != module and devices.importable(name)]
        here = f" (here: {', '.join(others)})" if others else ""
        return f"the Python package {module} {info.backend_version}{here}"
    return "" if devices.importable("pycuda.driver") else "the Python package pycuda"


def run_batches(
    session: Session,
    inputs: Mapping[str, NDArray[Any]],
    batch: int,
    told: Callable[[int], object] = lambda pictures: None,
) -> Arrays:
    """Run an engine on any number of pictures, at most `batch` in one run; `told` hears of how many after each."""
    count, step = len(next(iter(inputs.values()))), min(batch, session.max_batch)
    batches = ({name: array[i : i + step] for name, array in inputs.items()} for i in range(0, count, step))
    parts: list[Arrays] = []
    for part in session.run_many(batches):
        parts.append(part)
        told(len(next(iter(part.values()))))
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return empty_outputs(session.info)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
