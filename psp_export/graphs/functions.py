"""Give the custom operations in an ONNX file their definitions in standard ones: function bodies.

`psp::PspUpFirDn2d` and `psp::PspFusedBiasLeakyReLU` are ONNX functions. ONNX Runtime inlines them, so the file needs no
library of ours; TensorRT (10 and newer, and RTX) replaces them by the plugins of
`psp_runtime.engines.tensorrt.plugins` where those are registered. Some parsers find function bodies by name alone,
hence the prefix in the names.
"""

import onnx
import onnx.inliner
from onnx import AttributeProto, FunctionProto, NodeProto, helper

from psp_export.deploy.custom_ops import PLUGIN
from psp_runtime.engines.tensorrt.plugins import NAMESPACE, FusedBiasLeakyReLU, UpFirDn2d


def add_bodies(model: onnx.ModelProto) -> bool:
    """Give a model the function bodies of the custom nodes in it, in place; returns whether there are any."""
    used = {node.op_type for node in model.graph.node if node.domain == NAMESPACE}
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    model.functions.extend(body(opset) for name, body in BODIES.items() if name in used)
    return bool(used)


def _upfirdn2d_body(opset: int) -> FunctionProto:
    """Define the FIR as a transposed convolution; CastLike makes one body serve FP32 and FP16."""
    filtered = helper.make_node("ConvTranspose", ["x", "weight"], ["y"])
    for name in ("strides", "pads"):
        _refer(filtered, name, name, AttributeProto.INTS)
    _refer(filtered, "group", "group", AttributeProto.INT)
    nodes = [helper.make_node("CastLike", ["fir", "x"], ["weight"]), filtered]
    return _function(UpFirDn2d.name, ["x", "fir"], nodes, opset, list(UpFirDn2d.fields))


def _fused_bias_leaky_relu_body(opset: int) -> FunctionProto:
    activated = helper.make_node("LeakyRelu", ["shifted"], ["activated"])
    _refer(activated, "alpha", "slope", AttributeProto.FLOAT)
    gain = helper.make_node("Constant", [], ["gain_float"])
    _refer(gain, "value_float", "gain", AttributeProto.FLOAT)
    nodes = [
        helper.make_node("CastLike", ["bias", "x"], ["shift"]),
        helper.make_node("Add", ["x", "shift"], ["shifted"]),
        activated,
        gain,
        helper.make_node("CastLike", ["gain_float", "x"], ["gain"]),
        helper.make_node("Mul", ["activated", "gain"], ["y"]),
    ]
    return _function(FusedBiasLeakyReLU.name, ["x", "bias"], nodes, opset, list(FusedBiasLeakyReLU.fields))


BODIES = {UpFirDn2d.name: _upfirdn2d_body, FusedBiasLeakyReLU.name: _fused_bias_leaky_relu_body}


def _function(name: str, inputs: list[str], nodes: list[NodeProto], opset: int, attributes: list[str]) -> FunctionProto:
    attributes = [*attributes, *(name.removesuffix("_s") for name in PLUGIN)]
    return helper.make_function(NAMESPACE, name, inputs, ["y"], nodes, [helper.make_opsetid("", opset)], attributes)


def _refer(node: NodeProto, name: str, to: str, kind: int) -> None:
    """Let an attribute of a node in a body be an attribute of the function."""
    node.attribute.append(AttributeProto(name=name, ref_attr_name=to, type=kind))
