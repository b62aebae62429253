"""TensorRT and TensorRT-RTX plans, one path for TensorRT 8.6 to 11 and RTX: pycuda for memory, streams and events.

A run costs the CPU a copy in, a launch and a copy out: buffers are made once (`lanes`), execution contexts once per
batch size (`tensorrt_engine`), and a CUDA graph launches all kernels together (`cudagraph`).
"""

import importlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from psp_runtime.engines.contract import check_graph
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.tensorrt.cudagraph import GraphRecorder
from psp_runtime.engines.tensorrt.engine import TensorRTEngine
from psp_runtime.engines.tensorrt.gpu import Gpu, free_frames
from psp_runtime.engines.tensorrt.interrupts import interrupts_noted
from psp_runtime.engines.tensorrt.lanes import Arrays, Lane, Pending
from psp_runtime.errors import EngineError

#: The Python module that runs each flavour of plan.
PLAN_MODULES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx"}

#: Batches on the GPU at once: one runs while another is copied.
LANES = 2


class TensorRTSession:
    """A TensorRT or TensorRT-RTX plan on the first GPU. Calls from several threads wait for each other.

    The first run of a batch size sets it up, the second records its CUDA graph: both are slower than the rest.
    `cuda_graphs` False launches every kernel for itself. `last_ms` is the time on the GPU of the batch that was
    waited for last, copies included.
    """

    device = "cuda"

    def __init__(self, path: str | Path, cuda_graphs: bool = True) -> None:
        self.path = Path(path)
        self.info = read_info(path)
        self.precision = self.info.precision  # plans are strongly typed
        self.last_ms = 0.0
        self._lock = threading.Lock()
        trt = importlib.import_module(plan_module(self.path, self.info))
        self._graphs = GraphRecorder(cuda_graphs)
        self._lanes: deque[Lane] = deque()  # the one that started longest ago first
        self._most_lanes = LANES
        self._engine: TensorRTEngine | None = None
        self._gpu = Gpu(self.path)
        self._closed = False
        try:
            with self._gpu.current(), interrupts_noted():
                self._engine = TensorRTEngine(self.path, self.info, trt, self._gpu, cuda_graphs)
                check_graph(self.path, self.info, *map(self._engine.stored, (True, False)))
                self._lanes.append(Lane(self._gpu, self._engine, self._graphs))
        except BaseException as error:
            free_frames(error)
            self.close()
            raise
        self.max_batch = self._engine.max_batch
        self._inputs = [tensor for tensor in self._engine.tensors if tensor.is_input]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `Session.run`. Raises `EngineError` when TensorRT or CUDA fails."""
        return self.submit(inputs).result()

    def run_many(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[Arrays]:
        """`run` for each of many batches, in their order: the GPU works on one while others are made and used.

        Takes `LANES` of them ahead. Other calls may come in between. Raises `EngineError` as `run` does.
        """
        ahead: deque[Pending] = deque()
        for inputs in batches:
            ahead.append(self.submit(inputs))
            if len(ahead) == LANES:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def refine(self, inputs: Mapping[str, NDArray[Any]], steps: int) -> Arrays:
        """Return what the last of several steps of ReStyle gives; the state between them stays on the GPU.

        `inputs` are those of the first step; `alpha` counts in the last alone. Raises `EngineError` as `run` does.
        """
        return self.submit(inputs, steps).result()

    def submit(self, inputs: Mapping[str, NDArray[Any]], steps: int = 1) -> Pending:
        """Start a batch; its `result()` waits for it. The inputs are copied, so they may change at once.

        Raises `EngineError` for other inputs than the plan's, and when TensorRT or CUDA fails.
        """
        self._check(inputs)
        pending = Pending(self._collect)
        with self._lock:
            if self._closed or self._engine is None:
                raise EngineError(f"{self.path} is closed: open it again")
            with self._gpu.current(), interrupts_noted():
                lane = self._free_lane(self._engine)
                lane.start(inputs, pending, steps)
        return pending

    def close(self) -> None:
        """Free the plan and its buffers once they are not in use any more; the session cannot run again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with interrupts_noted():
                with self._gpu.current():
                    self._finish(lambda pending: True)
                    self._graphs.close()
                    self._lanes.clear()
                    self._engine = None
                self._gpu.release()

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Raise `EngineError` for other inputs than the plan's: NumPy would stretch or convert them in silence."""
        batch = len(next(iter(inputs.values()), ()))
        wanted = {t.name: (np.dtype(t.dtype), (batch, *t.shape[1:])) for t in self._inputs}
        given = {name: (array.dtype, array.shape) for name, array in inputs.items()}
        if given != wanted or not 1 <= batch <= self.max_batch:
            raise EngineError(
                f"{self.path} takes batches B of 1..{self.max_batch}: "
                f"{_words((t.name, t.dtype, ('B', *t.shape[1:])) for t in self._inputs)}; "
                f"given {_words((name, array.dtype, array.shape) for name, array in inputs.items())}"
            )

    def _free_lane(self, engine: TensorRTEngine) -> Lane:
        """Choose a lane for the next batch: an empty one, or the one done first. A second one is made when needed."""
        lane = next((lane for lane in self._lanes if not lane.pending), None) or self._another_lane(engine)
        if lane is None:
            lane = self._lanes[0]
            self.last_ms = lane.finish()
        if lane in self._lanes:
            self._lanes.remove(lane)
        self._lanes.append(lane)
        return lane

    def _another_lane(self, engine: TensorRTEngine) -> Lane | None:
        if len(self._lanes) == self._most_lanes:
            return None
        try:
            with self._gpu.errors():
                return Lane(self._gpu, engine, self._graphs)
        except EngineError as error:
            free_frames(error)
            self._most_lanes = len(self._lanes)
            warnings.warn(f"one batch at a time, which costs some speed: {error}", stacklevel=2)
            return None

    def _collect(self, wanted: Pending) -> None:
        with self._lock, self._gpu.current():
            self._finish(lambda pending: pending is wanted)

    def _finish(self, wanted: Callable[[Pending], bool]) -> None:
        for lane in self._lanes:
            if lane.pending and wanted(lane.pending):
                self.last_ms = lane.finish()


def _words(tensors: Iterable[tuple[str, DTypeLike, tuple[Any, ...]]]) -> str:
    return ", ".join(f"{name} {np.dtype(dtype)} [{','.join(map(str, shape))}]" for name, dtype, shape in tensors)


def plan_module(path: Path, info: EngineInfo) -> str:
    """Find the Python module that runs this plan."""
    try:
        return PLAN_MODULES[info.backend]
    except KeyError:
        raise EngineError(
            f"{path} is marked as {info.backend}, expected a plan of {' or '.join(PLAN_MODULES)}: "
            "an ONNX engine must be named .onnx"
        ) from None
