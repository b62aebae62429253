"""An open plan: its tensors and its execution contexts, by what TensorRT 8.6, 10, 11 and TensorRT-RTX call them."""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from psp_runtime.engines.contract import Stored
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.tensorrt import plugins
from psp_runtime.engines.tensorrt.gpu import Gpu
from psp_runtime.engines.tensorrt.rtx import CompiledKernels, kernel_file, runtime_config
from psp_runtime.errors import EngineError

# By name: the enum's numbers differ between TensorRT versions, and its own table fails with NumPy >= 1.24 in 8.6.
_DTYPES: dict[str, Any] = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32}


class TensorInfo(NamedTuple):
    """An input or output of a plan: `shape` is [max batch, ...]."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]
    is_input: bool


class TensorRTEngine:
    """A plan opened by the module `trt`; the context of `gpu` must be current for every call.

    TensorRT: a CUDA graph is good only while the execution context it was recorded from stays as it was, shapes
    included, so there is one context `per_batch` size; they can share `memory` bytes on the GPU as long as one runs
    at a time. TensorRT-RTX records the graphs of all shapes itself: one context does, and brings its own memory.

    `kernels` are those RTX compiled, else None. Raises `EngineError` for a plan of another TensorRT or GPU.
    """

    def __init__(self, path: Path, info: EngineInfo, trt: ModuleType, gpu: Gpu, cuda_graphs: bool) -> None:
        self._path, self._trt = path, trt
        if info.custom_ops:
            plugins.prepare(trt)
        plan = path.read_bytes()
        self._engine = self._deserialize(plan, info, gpu)
        self.max_batch = self._profile_batch()
        self.tensors = [self._tensor(name) for name in self._names()]
        self.kernels: CompiledKernels | None = None
        self.per_batch = not hasattr(trt, "IRuntimeCache")
        if self.per_batch:
            size = "device_memory_size_v2" if hasattr(self._engine, "device_memory_size_v2") else "device_memory_size"
            self.memory = int(getattr(self._engine, size))
        else:
            self.memory = 0
            self._config = runtime_config(trt, self._engine, cuda_graphs)
            self.kernels = CompiledKernels(self._config, kernel_file(plan, trt.__version__, gpu.device.name()))

    def stored(self, inputs: bool) -> list[Stored]:
        """List its inputs, or its outputs, as `check_graph` takes them."""
        chosen = [tensor for tensor in self.tensors if tensor.is_input == inputs]
        return [Stored(tensor.name, np.dtype(tensor.dtype).name, tensor.shape) for tensor in chosen]

    def new_context(self, memory: int, stream: int) -> Any:
        """Make an execution context to run on a CUDA stream (its handle); `memory` is the address it shares.

        Raises `EngineError` when the GPU is full, and for a plan of 8.6 that allows one context only.
        """
        context = self._create_context()
        if context is None:
            raise EngineError(
                f"{self._path}: TensorRT could not set the plan up on the GPU: too little free GPU memory"
            )
        if self.memory:
            self._lend(context, memory)
        if context.active_optimization_profile != 0:  # 8.6 gives it to the first context by itself, to others not
            self._choose_profile(context, stream)
        return context

    def _lend(self, context: Any, memory: int) -> None:
        if hasattr(context, "set_device_memory"):  # it takes the size too, and is newer than the property
            context.set_device_memory(memory, self.memory)
        else:
            context.device_memory = memory

    def _choose_profile(self, context: Any, stream: int) -> None:
        try:
            context.set_optimization_profile_async(0, stream)
        except RuntimeError as error:
            raise EngineError(f"{self._path} was built for one execution context ({error}): export it again") from error

    def _create_context(self) -> Any:
        if not self.per_batch:
            return self._engine.create_execution_context(self._config)
        if hasattr(self._trt, "ExecutionContextAllocationStrategy"):
            return self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        return self._engine.create_execution_context_without_device_memory()

    def _deserialize(self, plan: bytes, info: EngineInfo, gpu: Gpu) -> Any:
        log = the_logger(self._trt)
        log.errors.clear()
        self._runtime = self._trt.Runtime(log)  # the engine keeps using it
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"{self._path} was built by {info.backend} {info.backend_version} for "
                f"{info.device or 'an unnamed GPU'}; {self._trt.__name__} {self._trt.__version__} on "
                f"{gpu.device.name()} cannot open it (another version or GPU, or a damaged file): export it again here"
                + (f" [{log.errors[0]}]" if log.errors else "")
            )
        return engine

    def _names(self) -> Iterator[str]:
        return (self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors))

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _profile_batch(self) -> int:
        name = next(name for name in self._names() if self._is_input(name))
        return int(self._engine.get_tensor_profile_shape(name, 0)[2][0])

    def _tensor(self, name: str) -> TensorInfo:
        shape = (self.max_batch, *tuple(self._engine.get_tensor_shape(name))[1:])
        return TensorInfo(name, shape, _DTYPES[self._engine.get_tensor_dtype(name).name], self._is_input(name))


@functools.cache
def the_logger(trt: ModuleType) -> Any:
    """Make the logger of a TensorRT: it keeps errors for our message, prints nothing, and `hear` is given all the rest.

    There is one, for good: TensorRT keeps the first it is given for all that comes later in the process, and uses it
    when whoever gave it is long gone.
    """

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=20)  # of a process that may run for months
            self.hear: Callable[[str], object] = lambda message: None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)
            else:
                self.hear(message)

    return Log()
