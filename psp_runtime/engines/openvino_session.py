"""ONNX engines in OpenVINO, on the CPU."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines import devices
from psp_runtime.engines.contract import Stored, check_graph
from psp_runtime.engines.external_files import external_files
from psp_runtime.engines.info import read_info
from psp_runtime.engines.libraries import import_openvino
from psp_runtime.errors import EngineError

# What an FP16 engine computes on a CPU is FP32, as in ONNX Runtime; bfloat16, which it may choose, keeps 8 bits.
_CONFIG = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

# Of a full engine or a part of one.
_INPUTS = ("image", "style", "alpha", "latents", "z", "previous", "codes", "start")
_OUTPUTS = ("output", "latents", "w", "picture")


class OpenVINOSession:
    """An .onnx engine in OpenVINO: faster than ONNX Runtime once it runs, slower to open, and twice the memory.

    It is compiled for one picture at a time: with a batch of any size the generator would be a quarter slower
    (docs/decisions/cpu.md). Calls from several threads wait for each other.
    """

    device = "cpu"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = read_info(path)
        external_files(self.path)
        self.max_batch = self.info.max_batch
        self._lock = threading.Lock()
        try:
            core = import_openvino().Core()
            model = core.read_model(self.path)
            check_graph(path, self.info, _stored(model.inputs), _stored(model.outputs))
            model.reshape({port: [1, *port.partial_shape[1:]] for port in model.inputs})
            compiled = core.compile_model(model, "CPU", _CONFIG | {"INFERENCE_NUM_THREADS": devices.cpu_threads()})
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
