"""A GPU that is not there: pycuda and the driver calls of cuda-bindings, as far as plans use them.

Streams are lazy: what is put on one runs when an event behind it is waited for, so a buffer that is read too early or
written too soon shows. What the manuals forbid is an error: work without a context, a graph that is gone, an event
inside a recording. tests/support/fake_tensorrt.py is the TensorRT for it.
"""

import enum
import itertools
import threading
import types
import weakref
from collections.abc import Callable

import numpy as np

GARBAGE = 0xAB


class FakeGpu:
    """The state of the machine. Faults: `memory` (bytes left), `capturable`, `fails` (how many runs fail, and how)."""

    def __init__(self) -> None:
        self.memory = 1 << 40
        self.capturable = self.profile_is_shared = True
        self.fails: list[str] = []
        self.log: list[str] = []
        self.most_waiting = 0
        self.contexts = threading.local()
        self.streams: dict[int, Stream] = {}
        self.allocations: weakref.WeakValueDictionary[int, Allocation] = weakref.WeakValueDictionary()
        self.host: set[int] = set()
        self.graphs: set[int] = set()
        self.numbers = itertools.count(1)
        self.kernels: set[int] = set()
        self.released_with: list[int] = []
        self.left_current = 0
        self.retained = 0

    def stack(self) -> list[object]:
        self.contexts.__dict__.setdefault("stack", [])
        return self.contexts.stack

    def count(self, entry: str) -> int:
        return self.log.count(entry)

    def alive(self) -> int:
        """Buffers, streams and graphs that have not been freed."""
        return len(self.allocations) + len(self.host) + len(self.streams) + len(self.graphs)

    def bytes_at(self, address: int) -> np.ndarray:
        return self.allocations[int(address)].data


class Allocation:
    """GPU memory, full of garbage until it is written."""

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        if size > gpu.memory:
            raise Cuda.MemoryError("cuMemAlloc failed: out of memory")
        gpu.memory -= size
        self.gpu, self.data = gpu, np.full(size, GARBAGE, np.uint8)
        self.address = next(gpu.numbers) << 20
        gpu.allocations[self.address] = self

    def __int__(self) -> int:
        return self.address

    def __del__(self) -> None:
        if hasattr(self, "data"):
            self.gpu.memory += self.data.size


class Stream:
    """Work in order; `recording` holds it back while a graph is captured."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.handle = gpu, next(gpu.numbers)
        self.work: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.valid = True
        self.batches = 0

    def put(self, work: Callable[[], None]) -> None:
        (self.work if self.recording is None else self.recording).append(work)

    def run(self) -> None:
        while self.work:
            self.work.pop(0)()


class Cuda(types.ModuleType):
    """`pycuda.driver`."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class LogicError(Error):
        pass

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__("pycuda.driver")
        cuda = self

        class Context:
            valid = True

            def __init__(self) -> None:
                self.thread = threading.get_ident()
                gpu.retained += 1

            def push(self) -> None:
                assert self.valid
                gpu.stack().append(self)

            @staticmethod
            def pop() -> None:
                gpu.stack().pop()

            def detach(self) -> None:
                assert self.valid and self not in gpu.stack()
                self.valid = False
                gpu.released_with.append(gpu.alive())
                if self.thread == threading.get_ident():  # in other threads pycuda 2026.1 does nothing
                    gpu.left_current += 1  # it pushes it, and a primary context is not popped by its release
                    gpu.retained -= 1

        class Device:
            def __init__(self, index: int) -> None:
                assert index == 0

            def name(self) -> str:
                return "NVIDIA T4"

            def retain_primary_context(self) -> Context:
                return Context()

        class Handle:
            """What users hold of a stream: it goes with them."""

            def __init__(self, flags: int = 0) -> None:
                cuda.need_context()
                assert flags == 1, "a blocking stream waits for whoever uses the default stream"
                stream = Stream(gpu)
                self.handle = stream.handle
                gpu.streams[self.handle] = stream
                weakref.finalize(self, gpu.streams.pop, self.handle)

        class Event:
            def record(self, stream: Handle) -> None:
                cuda.need_context()
                self.stream = gpu.streams[stream.handle]
                assert self.stream.recording is None, "an event recorded into a graph has no time"

            def synchronize(self) -> None:
                gpu.most_waiting = max(gpu.most_waiting, sum(bool(stream.work) for stream in gpu.streams.values()))
                self.stream.run()

            def time_since(self, earlier: "Event") -> float:
                assert earlier.stream is self.stream and not self.stream.work
                return 1.5

        self.Context, self.Device, self.Stream, self.Event, self.gpu = Context, Device, Handle, Event, gpu

    def need_context(self) -> None:
        if not self.gpu.stack():
            raise Cuda.LogicError("invalid device context")

    def init(self) -> None:
        pass

    def mem_alloc(self, size: int) -> Allocation:
        self.need_context()
        return Allocation(self.gpu, size)

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        self.need_context()
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = GARBAGE
        self.gpu.host.add(id(array))
        weakref.finalize(array, self.gpu.host.discard, id(array))
        return array

    def memcpy_htod_async(self, to: Allocation, source: np.ndarray, stream: object) -> None:
        self.need_context()
        data, flat = self.gpu.bytes_at(int(to)), np.asarray(source).reshape(-1).view(np.uint8)
        self.gpu.streams[stream.handle].put(lambda: data.__setitem__(slice(flat.size), flat))

    def memcpy_dtod_async(self, to: Allocation, source: Allocation, size: int, stream: object) -> None:
        self.need_context()
        data, other = self.gpu.bytes_at(int(to)), self.gpu.bytes_at(int(source))
        self.gpu.streams[stream.handle].put(lambda: data.__setitem__(slice(size), other[:size]))

    def memset_d32_async(self, to: Allocation, value: int, count: int, stream: object) -> None:
        self.need_context()
        data = self.gpu.bytes_at(int(to))
        self.gpu.streams[stream.handle].put(lambda: data.__setitem__(slice(4 * count), value))

    def memcpy_dtoh_async(self, to: np.ndarray, source: Allocation, stream: object) -> None:
        self.need_context()
        data, flat = self.gpu.bytes_at(int(source)), np.asarray(to).reshape(-1).view(np.uint8)
        self.gpu.streams[stream.handle].put(lambda: flat.__setitem__(slice(None), data[: flat.size]))


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class Driver(types.ModuleType):
    """`cuda.bindings.driver`: every call returns a tuple, the status first; results are None where it failed."""

    CUresult, CUstreamCaptureMode = CUresult, CUstreamCaptureMode

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__("cuda.bindings.driver")
        self.gpu = gpu
        self.recorded: dict[int, list[Callable[[], None]]] = {}

    def cuCtxGetCurrent(self) -> tuple[CUresult, int]:
        return CUresult.CUDA_SUCCESS, 77 if self.gpu.left_current else 0

    def cuCtxPopCurrent(self) -> tuple[CUresult, int]:
        self.gpu.left_current -= 1
        return CUresult.CUDA_SUCCESS, 77

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[CUresult]:
        assert device == 0
        self.gpu.retained -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream: int, mode: CUstreamCaptureMode) -> tuple[CUresult]:
        self.gpu.log.append("begin")
        assert mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.gpu.streams[stream].recording, self.gpu.streams[stream].valid = [], True
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[CUresult, object]:
        found = self.gpu.streams[stream]
        recorded, found.recording = found.recording, None
        if not found.valid:
            return CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        return CUresult.CUDA_SUCCESS, self._keep(recorded)

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[CUresult, object]:
        return CUresult.CUDA_SUCCESS, self._keep(list(self.recorded[graph]))

    def cuGraphLaunch(self, graph: int, stream: int) -> tuple[CUresult]:
        self.gpu.log.append("replay")
        if graph not in self.gpu.graphs:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        for work in self.recorded[graph]:
            self.gpu.streams[stream].put(work)
        return (CUresult.CUDA_SUCCESS,)

    def cuGraphDestroy(self, graph: int) -> tuple[CUresult]:
        self.gpu.graphs.remove(graph)
        del self.recorded[graph]
        return (CUresult.CUDA_SUCCESS,)

    cuGraphExecDestroy = cuGraphDestroy

    def _keep(self, work: list[Callable[[], None]]) -> int:
        number = next(self.gpu.numbers)
        self.gpu.graphs.add(number)
        self.recorded[number] = work
        return number
