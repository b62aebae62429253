"""Open engines: ONNX Runtime and TensorRT behind one small interface.

The libraries are imported when an engine opens, never with the package: each machine needs only those of its engines.
"""

import contextlib
import ctypes
import importlib
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from psp_runtime.errors import DeviceError, EngineError
from psp_runtime.metadata import EngineInfo, read_info
from psp_runtime.plans import PLAN_MODULES, TensorRTSession, plan_module

DEVICES = ("auto", "cuda", "cpu")

Arrays = dict[str, NDArray[Any]]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API.
_MAJOR, _MINOR = 75, 76


class Session(Protocol):
    """An open engine. `device` is what it really runs on: "cuda" or "cpu"."""

    path: Path
    info: EngineInfo
    device: str
    max_batch: int

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """All outputs by name, for all inputs by name; the first axis of each is the batch, 1..max_batch."""

    def close(self) -> None:
        """Free the engine."""


def open_session(path: str | Path, device: str = "auto") -> Session:
    """Open an .onnx with ONNX Runtime, any other engine as a TensorRT plan.

    A plan that this machine cannot run, or must not with device "cpu", is replaced by the .onnx of the same name
    beside it, with a warning; not with device "cuda". Raises `EngineError` and `DeviceError` in one line.
    """
    path = Path(path)
    if device not in DEVICES:
        raise DeviceError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    info = read_info(path)
    if path.suffix == ".onnx":
        return OnnxSession(path, device)
    if device == "cpu":
        return _open_onnx_beside(path, info, device, f"{path.name} runs on NVIDIA GPUs only")
    lacking = lacking_for_plan(path, info)
    if not lacking:
        return TensorRTSession(path)
    if device == "cuda":
        raise DeviceError(f"{path.name} needs {lacking}, which this machine lacks")
    return _open_onnx_beside(path, info, device, f"{path.name} needs {lacking}")


def cuda_devices() -> int:
    """How many NVIDIA GPUs the driver offers; 0 without a driver."""
    driver, count = _cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_name() -> str:
    """Name and compute capability of the first GPU; empty without one."""
    driver = _cuda_driver()
    if driver is None or cuda_devices() == 0:
        return ""
    name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, len(name), 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, 0)
    return f"{name.value.decode()} (compute capability {major.value}.{minor.value})"


def _cuda_driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


class OnnxSession:
    """An .onnx engine in ONNX Runtime.

    With device "auto" the CPU is used quietly when CUDA is not there or does not load; with "cuda" that is a
    `DeviceError`. A graph ONNX Runtime refuses is an `EngineError`.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.path = Path(path)
        self.info = read_info(path)
        self.max_batch = self.info.max_batch
        runtime = _import_onnxruntime()
        obstacle = "" if device == "cpu" else _obstacle_to_onnx_cuda(runtime)
        if obstacle and device == "cuda":
            raise DeviceError(f"{path} cannot run with --device cuda: {obstacle}")
        # TF32 would round what an engine keeps in FP32 to 10 bits.
        cuda = (_CUDA, {"use_tf32": "0"})
        providers = [_CPU] if device == "cpu" or obstacle else [cuda, _CPU]
        self._session = _create(runtime, self.path, providers)
        # A provider that fails to load is skipped by ONNX Runtime: only the session knows what it got.
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        if device == "cuda" and self.device == "cpu":
            raise DeviceError(
                f"{path} cannot run with --device cuda: onnxruntime-gpu {runtime.__version__} could not load its CUDA "
                "provider; it needs the CUDA and cuDNN libraries of its version"
            )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `Session.run`. Raises `EngineError` when ONNX Runtime fails, out of memory for example."""
        try:
            outputs = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"{self.path} failed on {self.device}: {_first_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def close(self) -> None:
        """Free the session; it cannot run again."""
        self._session = None


def _open_onnx_beside(plan: Path, info: EngineInfo, device: str, reason: str) -> Session:
    onnx = plan.with_suffix(".onnx")
    if not onnx.is_file():
        raise DeviceError(f"{reason}, and there is no {onnx.name} beside it to run instead")
    other = read_info(onnx)
    for field in ("task", "checkpoint", "part"):
        wanted, found = getattr(info, field), getattr(other, field)
        if wanted != found:
            raise EngineError(f"{reason}, and {onnx.name} beside it is another engine: {field} {found}, not {wanted}")
    session = OnnxSession(onnx, device)
    processor = "GPU" if session.device == "cuda" else "CPU"
    warnings.warn(f"{reason}: running {onnx.name} on the {processor} instead", stacklevel=3)
    return session


def lacking_for_plan(path: Path, info: EngineInfo) -> str:
    """What running a plan lacks on this machine; empty when it can be tried."""
    if cuda_devices() == 0:
        return "an NVIDIA GPU with its driver"
    module = plan_module(path, info)
    if not importable(module):
        others = [name for name in PLAN_MODULES.values() if name != module and importable(name)]
        here = f" (here: {', '.join(others)})" if others else ""
        return f"the Python package {module} {info.backend_version}{here}"
    return "" if importable("pycuda.driver") else "the Python package pycuda"


def importable(module: str) -> bool:
    """Whether a module really imports, its shared libraries included."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError):  # OSError: a shared library the package loads itself is not there
        return False
    return True


def _import_onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(
            f"an .onnx engine needs ONNX Runtime ({error}): pip install onnxruntime, or onnxruntime-gpu for NVIDIA GPUs"
        ) from None


def _obstacle_to_onnx_cuda(runtime: Any) -> str:
    if cuda_devices() == 0:
        return "no NVIDIA GPU with its driver on this machine"
    if _CUDA not in runtime.get_available_providers():
        return "the installed onnxruntime is the CPU build: pip uninstall onnxruntime; pip install onnxruntime-gpu"
    return ""


def _create(runtime: Any, path: Path, providers: list[Any]) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        with _quiet(runtime) if len(providers) > 1 else contextlib.nullcontext():
            return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise EngineError(
            f"ONNX Runtime {runtime.__version__} refuses {path}: {_first_line(error)}: export it again"
        ) from error


@contextlib.contextmanager
def _quiet(runtime: Any) -> Iterator[None]:
    """Find the CUDA libraries that pip installed, and say nothing of providers that do not load."""
    runtime.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if hasattr(runtime, "preload_dlls"):
                runtime.preload_dlls()
            yield
    finally:
        runtime.set_default_logger_severity(2)


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0]
