"""Measure how far the values of an FP16 graph stay from overflow.

Comparing pictures is not enough for such a graph: on a CPU, ONNX Runtime computes it in FP32, so its pictures say
nothing about overflow on a GPU. The largest magnitude of every FP16 tensor does.
"""

import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from psp_export.graphs.inspect import tensor_types
from psp_export.graphs.probe import insert_behind, open_probe
from psp_export.verify.cases import Case
from psp_export.verify.parity import ParityError

#: How far below 65504 every FP16 tensor must stay.
HEADROOM = 8.0
FP16_MAX = 65504.0


def check_headroom(path: Path, cases: list[Case]) -> float:
    """Return 65504 over the largest value of any FP16 tensor in any case. Raises `ParityError` below `HEADROOM`."""
    peaks = fp16_peaks(path, [case.inputs for case in cases])
    name, peak = max(peaks.items(), key=lambda item: item[1] if math.isfinite(item[1]) else math.inf)
    if not peak * HEADROOM <= FP16_MAX:
        raise ParityError(
            f"FP16 would overflow: tensor {name} reaches {peak:.0f}, expected at most "
            f"{FP16_MAX / HEADROOM:.0f}; export with --fp32, nothing was written"
        )
    return FP16_MAX / max(peak, 1e-30)


def fp16_peaks(path: Path, batches: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Find the largest magnitude of every FP16 tensor of an ONNX file, weights included: name -> peak.

    Every tensor gets a scalar output. One picture runs at a time, so that it fits in memory. ONNX Runtime's CPU
    provider keeps FP16 values in FP32, so a peak above 65504 shows as what it is.
    """
    model = onnx.load(str(path))
    half = [name for name, kind in tensor_types(model).items() if kind == TensorProto.FLOAT16]
    insert_behind(model, half, _peak_nodes)
    for index in range(len(half)):
        model.graph.output.append(helper.make_tensor_value_info(f"peak_{index}", TensorProto.FLOAT, []))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        probe = Path(folder) / "probe.onnx"
        onnx.save(model, probe)
        session = open_probe(probe)
        names = [f"peak_{index}" for index in range(len(half))]
        peaks = np.max([session.run(names, picture) for inputs in batches for picture in _each(inputs)], axis=0)
    weights = (t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)
    return {name: float(peak) for name, peak in zip(half, peaks, strict=True)} | {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor).astype(np.float32)).max()) for tensor in weights
    }


def _each(inputs: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Split a batch into batches of one."""
    count = len(next(iter(inputs.values())))
    return [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]


def _peak_nodes(name: str, index: int) -> list[onnx.NodeProto]:
    """Make the nodes that compute max |x| of one tensor, as a float scalar."""
    wide, size = f"wide_{index}", f"size_{index}"
    return [
        helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT),
        helper.make_node("Abs", [wide], [size]),
        helper.make_node("ReduceMax", [size], [f"peak_{index}"], keepdims=0),
    ]
