"""Open engines: ONNX Runtime and TensorRT behind one small interface.

The libraries are imported when an engine opens, never with the package: each machine needs only those of its engines.
"""

import importlib.util
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines import devices
from psp_runtime.engines.contract import Arrays, empty_outputs
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.engines.onnx_session import OnnxSession
from psp_runtime.engines.openvino_session import OpenVINOSession
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

#: OpenVINO takes seconds longer to open an engine: this many runs make up for it.
OPENVINO_FROM_RUNS = 20


class Session(Protocol):
    """An open engine. `device` is what it really runs on: "cuda" or "cpu"."""

    path: Path
    info: EngineInfo
    device: str
    max_batch: int

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Give all outputs by name, for all inputs by name; the first axis of each is the batch, 1..max_batch."""

    def run_many(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[Arrays]:
        """`run` for each of many batches, in their order; a GPU takes the next one while the last is copied back."""

    def close(self) -> None:
        """Free the engine."""


def open_session(path: str | Path, device: str = "auto", runs: int | None = None) -> Session:
    """Open an .onnx with ONNX Runtime or OpenVINO, any other engine as a TensorRT plan.

    `runs` says how often the engine will run, where that is known. On a CPU, OpenVINO is used where it is installed
    and there are enough runs to make up for its slow start; PSP_CPU=onnxruntime or PSP_CPU=openvino in the
    environment decides otherwise. For a single run ONNX Runtime takes less memory.

    A plan that is not there, that this machine cannot run, or must not with device "cpu", is replaced by the .onnx of
    the same name beside it, with a warning; not with device "cuda". Raises `EngineError` and `DeviceError` in one line.
    """
    path = Path(path)
    if device not in DEVICES:
        raise DeviceError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    path = find_engine(path, device)
    info = read_info(path)
    if path.suffix.lower() == ".onnx":
        return _open_onnx(path, device, runs)
    if device == "cpu":
        return _open_onnx_beside(path, info, device, runs, f"{path.name} runs on NVIDIA GPUs only")
    obstacle = plan_obstacle(path, info)
    if not obstacle:
        return _open_plan(path)
    if device == "cuda":
        raise DeviceError(f"{path.name} needs {obstacle}, which this machine lacks")
    return _open_onnx_beside(path, info, device, runs, f"{path.name} needs {obstacle}")


def _open_plan(path: Path) -> Session:
    from psp_runtime.engines.tensorrt.session import TensorRTSession  # a start without plans does without its modules

    return TensorRTSession(path)


def _open_onnx(path: Path, device: str, runs: int | None) -> Session:
    on_cpu = device == "cpu" or (device == "auto" and not devices.cuda_devices())
    if on_cpu and _prefers_openvino(runs):
        return OpenVINOSession(path)
    return OnnxSession(path, device, one_run=runs == 1)


def _prefers_openvino(runs: int | None) -> bool:
    choice = os.environ.get("PSP_CPU", "")
    if choice not in ("", "onnxruntime", "openvino"):
        raise EngineError(f"PSP_CPU={choice}: expected onnxruntime or openvino")
    if choice:
        return choice == "openvino"
    return (runs is None or runs >= OPENVINO_FROM_RUNS) and importlib.util.find_spec("openvino") is not None


def _open_onnx_beside(plan: Path, info: EngineInfo, device: str, runs: int | None, reason: str) -> Session:
    onnx = plan.with_suffix(".onnx")
    if not onnx.is_file():
        raise DeviceError(f"{reason}, and there is no {onnx.name} beside it to run instead")
    other = read_info(onnx)
    for field in ("task", "checkpoint", "part"):
        wanted, found = getattr(info, field), getattr(other, field)
        if wanted != found:
            raise EngineError(f"{reason}, and {onnx.name} beside it is another engine: {field} {found}, not {wanted}")
    session = _open_onnx(onnx, device, runs)
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


def run_batches(session: Session, inputs: Mapping[str, NDArray[Any]], batch: int) -> Arrays:
    """Run an engine on any number of pictures, at most `batch` in one run."""
    count, step = len(next(iter(inputs.values()))), min(batch, session.max_batch)
    batches = ({name: array[i : i + step] for name, array in inputs.items()} for i in range(0, count, step))
    parts = list(session.run_many(batches))
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return empty_outputs(session.info)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
