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
    """Find the precision that a file really holds: "int8", "fp16" or "fp32".

    An ONNX file is judged by the weights of its convolutions, a file without any (the mapping network) by all its
    weights; any in 8 bits make it "int8". A plan is judged against its ONNX `source`: FP16 that silently became FP32
    makes the weights in a plan twice as large, and INT8 four times (not to be seen in a model smaller than the kernels
    a plan also holds).
    """
    model = onnx.load(str(source or path))
    convs = [t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[2] == 3] or model.graph.initializer
    found = _smallest({tensor.data_type for tensor in convs})
    grown = source is not None and path.stat().st_size - PLAN_OVERHEAD >= 1.5 * _weight_bytes(model)
    return "fp32" if grown else found


def _smallest(types: set[int]) -> str:
    if onnx.TensorProto.INT8 in types:
        return "int8"
    return "fp16" if types == {onnx.TensorProto.FLOAT16} else "fp32"


def _weight_bytes(model: onnx.ModelProto) -> int:
    sizes = (
        math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in model.graph.initializer
    )
    return sum(sizes)
