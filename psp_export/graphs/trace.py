"""Trace deployable torch modules into ONNX files with a dynamic batch and the metadata of the engine.

Tensor names are the engine contract (docs/design.md).
"""

import io
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from psp_runtime.engines import contract
from psp_runtime.engines.info import ONNX_KEY, EngineInfo
from psp_runtime.errors import PspError

#: TensorRT 8.6 reads up to opset 17; nothing in the graph needs a newer one.
DEFAULT_OPSET = 17
OPSETS = range(17, 21)
#: Bytes a protobuf message, and so an ONNX file with its weights inside, can hold.
PROTOBUF_LIMIT = 2**31


def to_onnx(module: nn.Module, info: EngineInfo, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Trace a deployable module of the part `info.part` into a model that carries `info`.

    Raises `PspError` for an opset the exporter does not speak, and above protobuf's 2 GB.
    """
    if opset not in OPSETS:
        raise PspError(f"--opset {opset} is not supported: choose {OPSETS.start} to {OPSETS.stop - 1}")
    size = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    if size >= PROTOBUF_LIMIT:
        raise PspError(f"the ONNX model takes {size / 1e9:.1f} GB, but one file holds at most 2 GB: use --fp16")
    model = onnx.load_from_string(_trace(module, info, opset))
    model.producer_name = "psp-export"
    for node in model.graph.node:
        node.doc_string = ""  # stack traces of the exporting machine
    share_initializers(model)
    if info.precision == "fp16":
        store_half(model, ("Gemm",))
    set_info(model, info)
    return model


def share_initializers(model: onnx.ModelProto) -> None:
    """Let nodes that share a constant name it themselves, in place.

    The exporter stores equal constants once and gives the others as Identity nodes, which tools that look for
    constants (quantisation, other parsers) do not see through.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    copies: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        node.input[:] = [copies.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.input[0] in constants and node.output[0] not in outputs:
            copies[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def store_half(model: onnx.ModelProto, operations: Collection[str]) -> None:
    """Store the weights that nodes of these operations multiply by in FP16, in place; a Gemm is a style affine.

    A cast widens them when the engine opens, and the product stays FP32. The exporter would fold a cast in the module
    away.
    """
    weights = {node.input[1] for node in model.graph.node if node.op_type in operations}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            stored = f"{tensor.name}.half"
            widen = onnx.helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, stored))
            model.graph.node.insert(0, widen)


def set_info(model: onnx.ModelProto, info: EngineInfo) -> None:
    """Write the engine metadata into the model."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {ONNX_KEY: replace(info, backend="onnx").to_json()})


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write one file, and check it."""
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _trace(module: nn.Module, info: EngineInfo, opset: int) -> bytes:
    """Run torch's tracing exporter: four times faster than the dynamo one here, and it speaks opset 17."""
    inputs, outputs = contract.inputs(info), contract.outputs(info)
    args = tuple(torch.from_numpy(tensor.zeros(1)) for tensor in inputs.values())
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            args,
            buffer,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=opset,
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            dynamo=False,
        )
    return buffer.getvalue()
