"""ONNX engines in OpenVINO, on the CPU."""

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines import devices
from psp_runtime.engines.contract import Stored, check_graph
from psp_runtime.engines.external_files import external_files
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.libraries import import_openvino
from psp_runtime.engines.openvino.islands import executed_precision, keep_islands
from psp_runtime.engines.optimised_graphs import MODEL, WEIGHTS, forget, optimised_graph
from psp_runtime.errors import EngineError

#: By precision, what the numbers are that no quantisation is for: bf16 for them would slow an INT8 engine down.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}

# Of a full engine or a part of one.
_INPUTS = ("image", "style", "alpha", "latents", "z", "previous", "codes", "start")
_OUTPUTS = ("output", "latents", "w", "picture")


class OpenVINOSession:
    """An .onnx engine in OpenVINO: faster than ONNX Runtime once it runs, slower to open, and twice the memory.

    It is compiled for one picture at a time: with a batch of any size the generator would be a quarter slower
    (docs/decisions/cpu.md). `precision` is what it is asked to compute in, "fp32", "bf16" or "int8", and afterwards
    what it does; in bf16, islands stay FP32 (`islands.py`). Calls from several threads wait for each other.
    """

    device = "cpu"

    def __init__(self, path: str | Path, precision: str = "fp32") -> None:
        self.path = Path(path)
        self.info = read_info(path)
        beside = external_files(self.path)
        self.max_batch = self.info.max_batch
        self._lock = threading.Lock()
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": devices.cpu_threads()}
        try:
            openvino = import_openvino()
            core = openvino.Core()
            model = _read_kept(openvino, core, self.path, self.info, beside)
            if precision == "bf16":
                keep_islands(core, model)
            compiled = core.compile_model(model, "CPU", config | {"INFERENCE_PRECISION_HINT": _HINTS[precision]})
            self.precision = executed_precision(compiled)
            self._request: Any = compiled.create_infer_request()
            # A tensor may go by several names, of nodes that OpenVINO took out.
            self._outputs = [name for port in compiled.outputs for name in port.names if name in _OUTPUTS]
        except (ImportError, RuntimeError) as error:  # what OpenVINO raises is a RuntimeError
            raise EngineError(
                f"OpenVINO cannot open {path}: {_last_line(error)}; PSP_CPU=onnxruntime opens it"
            ) from error

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Session.run`. Raises `EngineError` when OpenVINO fails."""
        batch = len(next(iter(inputs.values())))
        with self._lock:
            singles = [self._run_one({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(batch)]
        return {name: np.concatenate([single[name] for single in singles]) for name in self._outputs}

    def run_many(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[dict[str, NDArray[Any]]]:
        """See `Session.run_many`."""
        return map(self.run, batches)

    def close(self) -> None:
        """Free the engine; it cannot run again."""
        self._request = None

    def _run_one(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            results = self._request.infer(inputs)  # copies: the next picture overwrites the request's own
        except RuntimeError as error:
            raise EngineError(f"{self.path} failed in OpenVINO: {_last_line(error)}") from error
        return {name: results[name] for name in self._outputs}


def _read_kept(openvino: Any, core: Any, path: Path, info: EngineInfo, beside: list[Path]) -> Any:
    """Read a model for one picture as OpenVINO itself stores it, where it is kept so (`optimised_graphs`)."""

    def write(graph: Path, weights: str) -> None:
        openvino.serialize(_read(core, path, info), graph, graph.with_name(weights))

    kept = optimised_graph(path, openvino.__version__, write, beside, "openvino", MODEL)
    if kept is None:
        return _read(core, path, info)
    try:
        return core.read_model(kept, kept.with_name(WEIGHTS))
    except RuntimeError as error:  # the engine itself is not to blame
        forget(kept)
        words = f"the form kept of {path.name} was damaged and is made anew: {_last_line(error)}"
        warnings.warn(words, stacklevel=4)
        return _read(core, path, info)


def _read(core: Any, path: Path, info: EngineInfo) -> Any:
    """Read an ONNX file as a model for one picture. Raises `EngineError` where its tensors are not an engine's."""
    model = core.read_model(path)
    check_graph(path, info, _stored(model.inputs), _stored(model.outputs))
    model.reshape({port: [1, *port.partial_shape[1:]] for port in model.inputs})
    return model


def _stored(ports: Iterable[Any]) -> list[Stored]:
    """List inputs or outputs as OpenVINO describes them, one for each name a tensor goes by."""
    found = []
    for port in ports:
        sizes = [size.get_length() if size.is_static else str(size) for size in port.partial_shape]
        dtype = np.dtype(port.element_type.to_dtype()).name
        found += [Stored(name, dtype, tuple(sizes)) for name in port.names if name in (*_INPUTS, *_OUTPUTS)]
    return found


def _last_line(error: object) -> str:
    """OpenVINO begins with the places in its sources it went through."""
    return str(error).strip().split("\n")[-1].strip()
