"""The way of a batch through the GPU: copied in, run, copied out, all in order on one CUDA stream."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from psp_runtime.engines.tensorrt.cudagraph import GraphRecorder
from psp_runtime.engines.tensorrt.engine import TensorInfo, TensorRTEngine
from psp_runtime.engines.tensorrt.gpu import Gpu
from psp_runtime.errors import EngineError

Arrays = dict[str, NDArray[Any]]

# CU_STREAM_NON_BLOCKING: others in the process use the default stream, which would wait for us and break a recording.
_NON_BLOCKING = 1


class Pending:
    """A batch on its way through the GPU; `collect` takes it out of its lane."""

    def __init__(self, collect: Callable[["Pending"], None]) -> None:
        self._collect = collect
        self.outcome: Arrays | EngineError | None = None

    def result(self) -> Arrays:
        """Its outputs, as `Session.run` gives them; waits for the GPU. Raises `EngineError` when the run failed."""
        if self.outcome is None:
            self._collect(self)
        assert self.outcome is not None
        if isinstance(self.outcome, EngineError):
            raise self.outcome
        return self.outcome


class _Buffers(NamedTuple):
    """A tensor in both memories. The host's is page-locked: the GPU copies at full speed, while the CPU goes on."""

    host: NDArray[Any]
    gpu: Any


class Lane:
    """A stream with buffers of its own, for one batch at a time: `pending`, or None.

    Two lanes let the GPU run one batch while another is copied. The GPU's context must be current for every call.
    """

    def __init__(self, gpu: Gpu, engine: TensorRTEngine, graphs: GraphRecorder) -> None:
        self._gpu, self._engine, self._graphs = gpu, engine, graphs
        self.pending: Pending | None = None
        self._batch = 0
        self._stream = gpu.cuda.Stream(_NON_BLOCKING)
        self._begun, self._done = gpu.cuda.Event(), gpu.cuda.Event()
        self._inputs = {t.name: _allocate(gpu.cuda, t) for t in engine.tensors if t.is_input}
        self._outputs = {t.name: _allocate(gpu.cuda, t) for t in engine.tensors if not t.is_input}
        self._memory = gpu.cuda.mem_alloc(engine.memory) if engine.memory else 0
        self._contexts: dict[int, Any] = {}
        self._shaped: dict[int, int] = {}
        self._context(1)  # now: a GPU that is too full says so when the plan is opened

    def start(self, inputs: Mapping[str, NDArray[Any]], pending: Pending) -> None:
        """Copy the inputs [batch,...] and let the GPU work; comes back at once. Raises `EngineError`."""
        self._batch = batch = len(next(iter(inputs.values())))
        for name, array in inputs.items():
            self._inputs[name].host[:batch] = array
        self._begun.record(self._stream)
        if self._engine.per_batch:
            self._graphs.run((id(self), batch), self._stream.handle, lambda: self._enqueue(batch))
        else:
            self._enqueue(batch)
        self._done.record(self._stream)
        self.pending = pending
        if self._engine.kernels:
            self._engine.kernels.ran(batch)

    def finish(self) -> float:
        """Wait for the batch inside and give its outputs to `pending`; its milliseconds on the GPU, copies included."""
        pending, self.pending = self.pending, None
        assert pending is not None
        try:
            with self._gpu.errors():
                self._done.synchronize()
                # Copies: the page-locked arrays belong to the next batch, and go with the session.
                pending.outcome = {name: b.host[: self._batch].copy() for name, b in self._outputs.items()}
                return float(self._done.time_since(self._begun))
        except EngineError as error:
            pending.outcome = error  # whoever asks for it raises it: that need not be who waits now
            return 0.0

    def _enqueue(self, batch: int) -> None:
        """Enqueue all work of one batch, in its order: this is what a CUDA graph records."""
        context, cuda, stream = self._context(batch), self._gpu.cuda, self._stream
        with self._gpu.errors():
            for host, gpu in self._inputs.values():
                cuda.memcpy_htod_async(gpu, host[:batch], stream)
            if not context.execute_async_v3(stream.handle):
                raise EngineError(f"{self._gpu.path} failed on the GPU for a batch of {batch}")
            for host, gpu in self._outputs.values():
                cuda.memcpy_dtoh_async(host[:batch], gpu, stream)

    def _context(self, batch: int) -> Any:
        """Make or find the execution context for a batch size: of that size alone where each has its own."""
        key = batch if self._engine.per_batch else 0
        if key not in self._contexts:
            self._contexts[key] = self._new_context()
        context = self._contexts[key]
        if self._shaped.get(key) != batch:
            for name, (host, _) in self._inputs.items():
                if not context.set_input_shape(name, (batch, *host.shape[1:])):
                    raise EngineError(f"{self._gpu.path} refuses a batch of {batch}: export it again")
            self._shaped[key] = batch
        return context

    def _new_context(self) -> Any:
        context = self._engine.new_context(int(self._memory), self._stream.handle)
        for name, buffers in (self._inputs | self._outputs).items():
            context.set_tensor_address(name, int(buffers.gpu))
        return context


def _allocate(cuda: Any, tensor: TensorInfo) -> _Buffers:
    host = cuda.pagelocked_empty(tensor.shape, tensor.dtype)
    return _Buffers(host, cuda.mem_alloc(host.nbytes))
