"""TensorRT and TensorRT-RTX plans: pycuda for the context, buffers, stream and events.

Only what TensorRT 8.5 to 11 and RTX have in common, so one path runs them all.
"""

import contextlib
import importlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psp_runtime.errors import EngineError
from psp_runtime.metadata import EngineInfo, read_info

#: The Python module that runs each flavour of plan.
PLAN_MODULES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx"}

# By name: the enum's numbers differ between TensorRT versions, and its own table fails with NumPy >= 1.24 in 8.6.
_DTYPES = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32}


class TensorRTSession:
    """A TensorRT or TensorRT-RTX plan on the first GPU. Calls from several threads wait for each other.

    Buffers for `max_batch` are made once; the host side is page-locked, so that copies run at full speed. `last_ms`
    is the time of the last run on the GPU, copies included.
    """

    device = "cuda"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = read_info(path)
        self.last_ms = 0.0
        self._lock = threading.Lock()
        self._trt = importlib.import_module(plan_module(self.path, self.info))
        self._cuda: Any = importlib.import_module("pycuda.driver")
        # The primary context is the one ONNX Runtime and PyTorch use: plans live beside them in one process.
        with self._cuda_errors():
            self._cuda.init()
            self._gpu = self._cuda.Device(0)
            self._primary = self._gpu.retain_primary_context()
        with self._current():
            self._engine = self._deserialize()
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"{path}: TensorRT could not set the plan up on the GPU: too little free GPU memory")
            self._stream = self._cuda.Stream()
            self._start, self._end = self._cuda.Event(), self._cuda.Event()
            self.max_batch = self._profile_batch()
            self._tensors = {tensor.name: tensor for tensor in self._allocate()}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Session.run`. Raises `EngineError` when TensorRT or CUDA fails."""
        batch = len(next(iter(inputs.values())))
        if set(inputs) != {name for name, tensor in self._tensors.items() if tensor.is_input} or batch > self.max_batch:
            raise EngineError(
                f"{self.path} takes batches of 1..{self.max_batch} of {', '.join(self._names())}; "
                f"given {batch} of {', '.join(inputs)}"
            )
        with self._lock, self._current():
            self._start.record(self._stream)
            for name, array in inputs.items():
                self._upload(self._tensors[name], array)
            if not self._context.execute_async_v3(self._stream.handle):
                raise EngineError(f"{self.path} failed on the GPU for a batch of {batch}, made for 1..{self.max_batch}")
            outputs = [tensor for tensor in self._tensors.values() if not tensor.is_input]
            for tensor in outputs:
                self._cuda.memcpy_dtoh_async(tensor.host[:batch], tensor.gpu, self._stream)
            self._end.record(self._stream)
            self._end.synchronize()
            self.last_ms = float(self._end.time_since(self._start))
            return {tensor.name: tensor.host[:batch].copy() for tensor in outputs}

    def close(self) -> None:
        """Free the plan and its buffers; the session cannot run again."""
        if not self._tensors:
            return
        with self._lock, self._current():
            self._tensors = {}
            self._context = self._engine = self._stream = self._start = self._end = None
        self._primary.detach()

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        self._primary.push()
        try:
            with self._cuda_errors():
                yield
        finally:
            self._cuda.Context.pop()

    @contextlib.contextmanager
    def _cuda_errors(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise EngineError(f"{self.path} failed on the GPU: {error}") from error

    def _deserialize(self) -> Any:
        log = quiet_logger(self._trt)
        # The engine keeps using the runtime, the runtime the logger.
        self._runtime = self._trt.Runtime(log)
        engine = self._runtime.deserialize_cuda_engine(self.path.read_bytes())
        if engine is None:
            raise EngineError(
                f"{self.path} was built by {self.info.backend} {self.info.backend_version} for "
                f"{self.info.device or 'an unnamed GPU'}; {self._trt.__name__} {self._trt.__version__} on "
                f"{self._gpu.name()} cannot open it (another version or GPU, or a damaged file): export it again here"
                + (f" [{log.errors[0]}]" if log.errors else "")
            )
        return engine

    def _profile_batch(self) -> int:
        name = next(name for name in self._names() if self._is_input(name))
        return int(self._engine.get_tensor_profile_shape(name, 0)[2][0])

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _allocate(self) -> Iterator["_Tensor"]:
        for name in self._names():
            shape = (self.max_batch, *tuple(self._engine.get_tensor_shape(name))[1:])
            host = self._cuda.pagelocked_empty(shape, _DTYPES[self._engine.get_tensor_dtype(name).name])
            gpu = self._cuda.mem_alloc(host.nbytes)
            self._context.set_tensor_address(name, int(gpu))
            yield _Tensor(name, host, gpu, self._is_input(name))

    def _upload(self, tensor: "_Tensor", array: NDArray[Any]) -> None:
        staged = tensor.host[: len(array)]
        staged[...] = array
        self._cuda.memcpy_htod_async(tensor.gpu, staged, self._stream)
        self._context.set_input_shape(tensor.name, staged.shape)


class _Tensor(NamedTuple):
    """One input or output of a plan with its page-locked host array and its buffer on the GPU."""

    name: str
    host: NDArray[Any]
    gpu: Any
    is_input: bool


def quiet_logger(trt: ModuleType) -> Any:
    """A TensorRT logger that keeps errors for our message and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)

    return Log()


def plan_module(path: Path, info: EngineInfo) -> str:
    """The Python module that runs this plan."""
    try:
        return PLAN_MODULES[info.backend]
    except KeyError:
        raise EngineError(
            f"{path} is marked as {info.backend}, expected a plan of {' or '.join(PLAN_MODULES)}: "
            "an ONNX engine must be named .onnx"
        ) from None
