"""CUDA graphs: all the work of one batch size recorded once, then launched with a single call.

A plan is some hundred kernels; for one picture the CPU takes about as long to launch them as the GPU to run them.
pycuda cannot record, so this goes through cuda-bindings, on the same streams in the same context.
"""

import warnings
from collections.abc import Callable, Hashable
from typing import Any

from psp_runtime.engines.tensorrt.gpu import cuda_bindings
from psp_runtime.errors import EngineError


class GraphRecorder:
    """Runs a piece of work plainly the first time, records it the second time, replays it from then on.

    The first run is plain because TensorRT settles its own buffers in the first run of a shape, which must not be
    recorded. Where recording fails, everything is run plainly for good, and one warning says why.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._driver: Any = None
        self._settled: set[Hashable] = set()
        self._graphs: dict[Hashable, Any] = {}
        self._usable = enabled

    def run(self, key: Hashable, stream: int, work: Callable[[], None]) -> None:
        """Put `work` on a CUDA stream (its handle). The same key must always mean the same work on the same stream.

        `work` raises `EngineError` where it fails; it may then be run once more, outside the recording.
        """
        if key in self._graphs:
            self._call("cuGraphLaunch", self._graphs[key], stream)
        elif self._usable and key in self._settled:
            self._record(key, stream, work)
        else:
            work()
            self._settled.add(key)

    def close(self) -> None:
        """Free the graphs; the context they were recorded in must be current."""
        for graph in self._graphs.values():
            self._driver.cuGraphExecDestroy(graph)
        self._graphs.clear()

    def _record(self, key: Hashable, stream: int, work: Callable[[], None]) -> None:
        try:
            self._graphs[key] = self._capture(stream, work)
        except EngineError as error:
            self._usable = False
            self.close()
            warnings.warn(f"CUDA graphs are not used, which costs some speed: {error}", stacklevel=2)
            work()  # nothing ran while it was being recorded
        else:
            self._call("cuGraphLaunch", self._graphs[key], stream)

    def _capture(self, stream: int, work: Callable[[], None]) -> Any:
        if self._driver is None:
            self._driver = cuda_bindings()
        # Thread-local: other threads may allocate in this context meanwhile; this one must not, or the graph would
        # hold addresses that are gone when it is replayed.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            self._driver.cuStreamEndCapture(stream)  # a stream left in capture mode would run nothing any more
            raise
        template = self._call("cuStreamEndCapture", stream)
        try:
            return self._call("cuGraphInstantiate", template, 0)
        finally:
            self._driver.cuGraphDestroy(template)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise EngineError(f"{name} failed: {status.name}")
        return results[0] if results else None
