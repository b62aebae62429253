"""TensorRT 8.6, 10 and RTX on the GPU of fake_gpu.py; a plan is the tiny engine of tiny_engines.py, or the step of
tiny_steps.py where its metadata say so.

What the manuals call undefined gives garbage: a graph replayed after its execution context changed, memory that
contexts share across streams. Recording a context that has not run since its shapes were set fails.
"""

import enum
import sys
import types

import numpy as np
import pytest
import tiny_family
import tiny_steps
from fake_gpu import GARBAGE, Cuda, Driver, FakeGpu
from tiny_engines import MAX_BATCH, OUTPUT_SIZE, STYLE_DIM, STYLES

SCRATCH = 1000
SHAPES = {
    "image": (256, 256, 3),
    "style": (STYLES, STYLE_DIM),
    "alpha": (STYLES,),
    "output": (OUTPUT_SIZE, OUTPUT_SIZE, 3),
    "latents": (STYLES, STYLE_DIM),
}
OF_STEPS = {
    "image": (256, 256, 3),
    "style": (tiny_family.STYLES, STYLE_DIM),
    "alpha": (tiny_family.STYLES,),
    "previous": (3, 256, 256),
    "codes": (tiny_family.STYLES, STYLE_DIM),
    "start": (1,),
    "output": (16, 16, 3),
    "latents": (tiny_family.STYLES, STYLE_DIM),
    "picture": (3, 256, 256),
}
OUTPUTS = ("output", "latents", "picture")
DTYPES = {"image": np.uint8, "output": np.uint8}


class ExecutionContext:
    """`IExecutionContext`: `state` changes with its shapes; `settled` is whether it ran since."""

    def __init__(self, gpu: FakeGpu, own_memory: bool, of: dict[str, tuple[int, ...]]) -> None:
        self.gpu, self.of = gpu, of
        self.device_memory = -1 if own_memory else 0
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.state, self.settled = 0, False
        self.active_optimization_profile = 0
        gpu.log.append("context")

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.gpu.streams
        if not self.gpu.profile_is_shared:
            raise RuntimeError("Error in set optimization profile async.")
        self.active_optimization_profile = index
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.active_optimization_profile < 0 or not 1 <= shape[0] <= MAX_BATCH or tuple(shape[1:]) != self.of[name]:
            return False
        if self.shapes.get(name) != shape:
            self.shapes[name] = shape
            self.state, self.settled = self.state + 1, False
        return True

    def execute_async_v3(self, handle: int) -> bool:
        stream, gpu = self.gpu.streams[handle], self.gpu
        if self.addresses.keys() != self.of.keys() or not self.device_memory:
            return False
        if self.shapes.keys() != self.of.keys() - set(OUTPUTS):
            return False
        if stream.recording is not None and not (self.settled and gpu.capturable):
            stream.valid = False
            return False
        if gpu.fails and gpu.fails[0] == "interrupt":
            gpu.fails.pop(0)
            raise KeyboardInterrupt
        if gpu.fails and gpu.fails[0] == "launch":
            gpu.fails.pop(0)
            return False
        gpu.log.append("plain" if stream.recording is None else "recorded")
        self.settled = True
        batch = self.shapes["image"][0]
        gpu.kernels.add(batch)
        stream.put(lambda state=self.state: self._compute(batch, state, handle))
        return True

    def _compute(self, batch: int, state: int, handle: int) -> None:
        if self.gpu.fails and self.gpu.fails[0] == "kernel":
            self.gpu.fails.pop(0)
            raise Cuda.LogicError("cuEventSynchronize failed: an illegal memory access was encountered")
        tensors = {name: self._array(name, batch) for name in self.of}
        output, latents = tensors["output"], tensors["latents"]
        self._formula(**tensors)
        if state != self.state or not self._memory_is_mine(handle):
            output[:], latents[:] = GARBAGE, np.nan

    def _formula(self, image, style, alpha, output, latents, **state: np.ndarray) -> None:
        if state:
            self._step(image, style, alpha, output, latents, **state)
            return
        latents[:] = image.mean((1, 2, 3))[:, None, None] * np.arange(32).reshape(STYLES, STYLE_DIM) / 2550
        w = (1 - alpha[..., None]) * latents + alpha[..., None] * style
        picture = image[:, ::4, ::4] + 100 * w.mean((1, 2))[:, None, None, None]
        output[:] = np.clip(picture, 0, 255)

    def _step(self, image, style, alpha, output, latents, previous, codes, start, picture) -> None:
        first, later = start[:, :, None], 1 - start[:, :, None]
        y = first[..., None] / 4 + later[..., None] * previous
        error = image.mean((1, 2, 3)) / 255 - y.mean((1, 2, 3), dtype=np.float64)
        latents[:] = first * tiny_steps.BASE + later * codes + error[:, None, None] * tiny_steps.RAMP
        mixed = (1 - alpha[..., None]) * latents + alpha[..., None] * style
        picture[:] = mixed.mean((1, 2))[:, None, None, None]
        output[:] = [tiny_steps.picture_of(one) for one in mixed]

    def _memory_is_mine(self, handle: int) -> bool:
        """Contexts that share memory must run one after the other: on one stream."""
        if self.device_memory < 0:
            return True
        data = self.gpu.bytes_at(self.device_memory)
        owner = data[:8].view(np.int64)
        if (data[:8] == GARBAGE).all():
            owner[0] = handle
        return bool(data.size == SCRATCH and owner[0] == handle)

    def _array(self, name: str, batch: int) -> np.ndarray:
        dtype = DTYPES.get(name, np.float32)
        size = batch * int(np.prod(self.of[name])) * np.dtype(dtype).itemsize
        return self.gpu.bytes_at(self.addresses[name])[:size].view(dtype).reshape(batch, *self.of[name])


class NewExecutionContext(ExecutionContext):
    """That of 10.1 and later: the memory is given with its size."""

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == self.gpu.bytes_at(memory).size == SCRATCH
        self.device_memory = memory


class Strategy(enum.Enum):
    STATIC, USER_MANAGED = range(2)


class RuntimeCache:
    """`IRuntimeCache` of RTX: refuses what another version wrote."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.known = gpu, b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"1.7:"):
            return False
        self.known = blob[4:]
        self.gpu.log.append(f"warm {sorted(self.known)}")
        return True

    def serialize(self) -> bytes:
        return b"1.7:" + bytes(sorted(set(self.known) | self.gpu.kernels))


class Engine:
    """`ICudaEngine` of the tiny engine, as one version of TensorRT has it."""

    def __init__(self, gpu: FakeGpu, flavour: str, of: dict[str, tuple[int, ...]]) -> None:
        self.gpu, self.of, self.num_io_tensors = gpu, of, len(of)
        if flavour == "8.6":
            self.device_memory_size = SCRATCH
            self.create_execution_context_without_device_memory = self._of_8_6
        elif flavour == "10":
            self.device_memory_size_v2 = SCRATCH
            self.create_execution_context = self._by_strategy
        else:
            self.create_runtime_config = self._runtime_config
            self.create_execution_context = self._by_config

    def get_tensor_name(self, index: int) -> str:
        return list(self.of)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "OUTPUT" if name in OUTPUTS else "INPUT"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.of[name])

    def get_tensor_dtype(self, name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(name="UINT8" if name in DTYPES else "FLOAT")

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, *self.of[name]) for batch in (1, 1, MAX_BATCH)]

    def _context(self, own_memory: bool, kind: type[ExecutionContext] = ExecutionContext) -> ExecutionContext | None:
        return kind(self.gpu, own_memory, self.of) if self.gpu.memory > SCRATCH else None

    def _of_8_6(self) -> ExecutionContext | None:
        """Only the first context of an engine gets the profile by itself."""
        first, context = self.gpu.count("context") == 0, self._context(own_memory=False)
        if context and not first:
            context.active_optimization_profile = -1
        return context

    def _by_strategy(self, strategy: Strategy = Strategy.STATIC) -> ExecutionContext | None:
        return self._context(strategy is Strategy.STATIC, NewExecutionContext)

    def _runtime_config(self) -> types.SimpleNamespace:
        config = types.SimpleNamespace(create_runtime_cache=lambda: RuntimeCache(self.gpu))
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config

    def _by_config(self, config: types.SimpleNamespace) -> ExecutionContext | None:
        self.gpu.log.append(f"rtx {config.dynamic_shapes_kernel_specialization_strategy}")
        self.gpu.log.append(f"rtx {getattr(config, 'cuda_graph_strategy', 'no graphs')}")
        return self._context(own_memory=True)


def fake_tensorrt(gpu: FakeGpu, flavour: str) -> types.ModuleType:
    """The module `tensorrt` 8.6 or 10, or `tensorrt_rtx` ("rtx"). A plan of other bytes than ours is refused."""
    trt = types.ModuleType("tensorrt_rtx" if flavour == "rtx" else "tensorrt")

    class ILogger:
        class Severity:
            INTERNAL_ERROR, ERROR, WARNING = range(3)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            if not data.startswith(b"ftrt"):
                self.logger.log(ILogger.Severity.WARNING, "be careful")
                self.logger.log(ILogger.Severity.ERROR, "Version tag does not match")
                return None
            return Engine(gpu, flavour, OF_STEPS if b'"part":"step"' in data else SHAPES)

    trt.__dict__.update(__version__={"rtx": "1.7"}.get(flavour, flavour), ILogger=ILogger, Runtime=Runtime)
    trt.TensorIOMode = types.SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    if flavour != "8.6":
        trt.ExecutionContextAllocationStrategy = Strategy
    if flavour == "rtx":
        trt.IRuntimeCache = RuntimeCache
        trt.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
        trt.DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="eager", LAZY="lazy")
    return trt


def install(monkeypatch: pytest.MonkeyPatch, flavour: str) -> FakeGpu:
    """Put the fake GPU into `sys.modules`."""
    gpu = FakeGpu()
    trt = fake_tensorrt(gpu, flavour)
    for module in (trt, Cuda(gpu), Driver(gpu)):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for package in ("pycuda", "cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    return gpu
