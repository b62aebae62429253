"""ONNX engines in ONNX Runtime, on the CPU or an NVIDIA GPU."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from psp_runtime.engines import devices
from psp_runtime.engines.contract import Stored, check_graph
from psp_runtime.engines.external_files import external_files
from psp_runtime.engines.info import read_info
from psp_runtime.engines.libraries import import_onnxruntime
from psp_runtime.engines.optimised_graphs import forget, optimised_graph
from psp_runtime.errors import DeviceError, EngineError

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class OnnxSession:
    """An .onnx engine in ONNX Runtime.

    With device "auto" the CPU is used quietly when CUDA is not there or does not load; with "cuda" that is a
    `DeviceError`. A graph ONNX Runtime refuses is an `EngineError`. On a CPU a large engine is opened as
    `psp_runtime.engines.optimised_graphs` keeps it; `one_run` gives the memory of a run back at once.
    """

    def __init__(self, path: str | Path, device: str = "auto", one_run: bool = False) -> None:
        self.path = Path(path)
        self.info = read_info(path)
        beside = external_files(self.path)
        self.max_batch = self.info.max_batch
        runtime = import_onnxruntime()
        obstacle = "" if device == "cpu" else _obstacle_to_onnx_cuda(runtime)
        if obstacle and device == "cuda":
            raise DeviceError(f"{path} cannot run with --device cuda: {obstacle}")
        if device == "cpu" or obstacle:
            self._session = _create_on_cpu(runtime, self.path, beside, one_run)
        else:
            # TF32 would round what an engine keeps in FP32 to 10 bits.
            self._session = _create(runtime, self.path, [(_CUDA, {"use_tf32": "0"}), _CPU])
        # A provider that fails to load is skipped by ONNX Runtime: only the session knows what it got.
        self.device = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        if device == "cuda" and self.device == "cpu":
            raise DeviceError(
                f"{path} cannot run with --device cuda: onnxruntime-gpu {runtime.__version__} could not load its CUDA "
                "provider; it needs the CUDA and cuDNN libraries of its version"
            )
        # On a CPU, ONNX Runtime takes the casts to FP16 out: what is not INT8 is computed in FP32.
        self.precision = self.info.precision if self.device == "cuda" or self.info.precision == "int8" else "fp32"
        check_graph(
            path, self.info, *(_stored(nodes()) for nodes in (self._session.get_inputs, self._session.get_outputs))
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Session.run`. Raises `EngineError` when ONNX Runtime fails, out of memory for example."""
        try:
            outputs = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"{self.path} failed on {self.device}: {_first_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def run_many(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[dict[str, NDArray[Any]]]:
        """See `Session.run_many`."""
        return map(self.run, batches)

    def close(self) -> None:
        """Free the session; it cannot run again."""
        self._session = None


def _stored(nodes: Iterable[Any]) -> list[Stored]:
    """List inputs or outputs as ONNX Runtime describes them: "tensor(uint8)", and text or None for a size left open."""
    types = {"float": "float32"}
    names = [node.type.removeprefix("tensor(").removesuffix(")") for node in nodes]
    return [Stored(node.name, types.get(name, name), tuple(node.shape)) for node, name in zip(nodes, names)]


def _obstacle_to_onnx_cuda(runtime: Any) -> str:
    if devices.cuda_devices() == 0:
        return "no NVIDIA GPU with its driver on this machine"
    if _CUDA not in runtime.get_available_providers():
        return "the installed onnxruntime is the CPU build: pip uninstall onnxruntime; pip install onnxruntime-gpu"
    return ""


def _create_on_cpu(runtime: Any, path: Path, beside: list[Path], one_run: bool) -> Any:
    """Open a session over the optimised graph kept for this engine, where there is one."""

    def write(graph: Path, weights: str) -> None:
        options = _options(runtime)
        options.optimized_model_filepath = str(graph)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        _create(runtime, path, [_CPU], options)

    graph = optimised_graph(path, runtime.__version__, write, beside)
    options = _options(runtime)
    options.enable_mem_pattern = False  # a second copy of all buffers from the second run on
    if graph is None:
        return _create(runtime, path, [_CPU], options)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # weights stay where they are mapped
    if one_run:
        # In the order of the file each resolution is finished, and its memory free, before the next begins.
        options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
        options.enable_cpu_mem_arena = False
    try:
        return _create(runtime, graph, [_CPU], options)
    except EngineError as error:  # the engine itself is not to blame
        forget(graph)
        warnings.warn(f"the optimised form kept of {path.name} was damaged and is made anew: {error}", stacklevel=4)
        return _create(runtime, path, [_CPU])


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3 if os.environ.get("PSP_DEBUG") == "1" else 4  # the exception says the same
    options.intra_op_num_threads = devices.cpu_threads()
    # Its 8-bit kernels are no quicker with our layout, and saturate on a CPU without VNNI: INT8 is computed as written.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _create(runtime: Any, path: Path, providers: list[Any], options: Any = None) -> Any:
    try:
        # ONNX Runtime falls back to the CPU with a block of its own words, which for a CPU alone means nothing.
        several = len(providers) > 1
        with _quiet(runtime) if several else contextlib.nullcontext():
            settings = {"providers": providers, "enable_fallback": several}
            session = runtime.InferenceSession(str(path), options or _options(runtime), **settings)
        session.disable_fallback()
        return session
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
