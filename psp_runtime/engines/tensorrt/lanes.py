"""The way of a batch through the GPU: copied in, run, copied out, all in order on one CUDA stream."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from psp_runtime.engines.tensorrt.cudagraph import GraphRecorder
from psp_runtime.engines.tensorrt.engine import TensorInfo, TensorRTEngine
from psp_runtime.engines.tensorrt.gpu import Gpu
from psp_runtime.errors import EngineError

Arrays = dict[str, NDArray[Any]]

#: What a step of ReStyle reads, and which output of the step before that is.
STATE = {"previous": "picture", "codes": "latents"}

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

    def start(self, inputs: Mapping[str, NDArray[Any]], pending: Pending, steps: int = 1) -> None:
        """Copy the inputs [batch,...] and let the GPU work; comes back at once. Raises `EngineError`.

        More than one of the `steps` are those of ReStyle, whose state stays on the GPU.
        """
        self._batch = batch = len(next(iter(inputs.values())))
        for name, array in inputs.items():
            self._inputs[name].host[:batch] = array
        self._begun.record(self._stream)
        if steps > 1:
            self._refine(batch, steps)
        else:
            self._repeat("all", lambda: self._enqueue(batch))
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

    def _repeat(self, what: str, work: Callable[[], None]) -> None:
        """Put work of this batch size on the stream: as a CUDA graph, where we are to record it."""
        if self._engine.per_batch:
            self._graphs.run((id(self), self._batch, what), self._stream.handle, work)
        else:
            work()

    def _enqueue(self, batch: int) -> None:
        """Enqueue all work of one batch, in its order: this is what a CUDA graph records."""
        self._copy_in(batch, self._inputs)
        self._execute(batch)
        self._copy_out(batch)

    def _refine(self, batch: int, steps: int) -> None:
        """Enqueue all steps of one batch: the same graph again and again; styles are mixed in before the last alone."""
        self._copy_in(batch, self._inputs)
        alpha = self._inputs["alpha"]
        with self._gpu.errors():
            self._gpu.cuda.memset_d32_async(alpha.gpu, 0, alpha.host[:batch].size, self._stream)
        for step in range(steps):
            if step == steps - 1:
                self._copy_in(batch, ("alpha",))
            self._repeat("step", lambda: self._step(batch))
        self._copy_out(batch)

    def _step(self, batch: int) -> None:
        """Enqueue one step, and its state to where the next one reads it."""
        self._execute(batch)
        cuda, stream, start = self._gpu.cuda, self._stream, self._inputs["start"]
        with self._gpu.errors():
            for state, made in STATE.items():
                size = self._outputs[made].host[:batch].nbytes
                cuda.memcpy_dtod_async(self._inputs[state].gpu, self._outputs[made].gpu, size, stream)
            cuda.memset_d32_async(start.gpu, 0, start.host[:batch].size, stream)

    def _copy_in(self, batch: int, names: Iterable[str]) -> None:
        with self._gpu.errors():
            for host, gpu in (self._inputs[name] for name in names):
                self._gpu.cuda.memcpy_htod_async(gpu, host[:batch], self._stream)

    def _execute(self, batch: int) -> None:
        context = self._context(batch)
        with self._gpu.errors():
            if not context.execute_async_v3(self._stream.handle):
                raise EngineError(f"{self._gpu.path} failed on the GPU for a batch of {batch}")

    def _copy_out(self, batch: int) -> None:
        with self._gpu.errors():
            for host, gpu in self._outputs.values():
                self._gpu.cuda.memcpy_dtoh_async(host[:batch], gpu, self._stream)

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
