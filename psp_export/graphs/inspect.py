"""Look into engine files: the types of their tensors, the precision of their weights."""

import math
from pathlib import Path

import onnx

#: Kernels and tables in a plan besides the weights, at most.
PLAN_OVERHEAD = 16 << 20


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Infer the element type of every tensor in a graph: name -> member of `onnx.TensorProto.DataType`."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def stored_precision(path: Path, source: Path | None = None) -> str:
    """Find the precision that a file really holds: "fp16" or "fp32".

    An ONNX file is judged by the weights of its convolutions, a file without any (the mapping network) by all its
    weights. A plan is judged against its ONNX `source`: FP16 that silently became FP32 makes the weights in a plan
    twice as large (not to be seen in a model smaller than the kernels a plan also holds).
    """
    model = onnx.load(str(source or path))
    convs = [t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[2] == 3] or model.graph.initializer
    half = all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in convs)
    if half and source is not None:
        half = path.stat().st_size - PLAN_OVERHEAD < 1.5 * _weight_bytes(model)
    return "fp16" if half else "fp32"


def _weight_bytes(model: onnx.ModelProto) -> int:
    sizes = (
        math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in model.graph.initializer
    )
    return sum(sizes)
