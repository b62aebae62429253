"""The custom operations in an ONNX file: nodes of our domain that carry their own definition in standard ops.

`psp::PspUpFirDn2d` and `psp::PspFusedBiasLeakyReLU` are ONNX functions. ONNX Runtime inlines them, so the file needs no
library of ours; TensorRT (10 and newer, and RTX) replaces them by the plugins of
`psp_runtime.engines.tensorrt.plugins` where those are registered. Some parsers find function bodies by name alone,
hence the prefix in the names.
"""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.inliner
import torch
import torch.nn.functional as F
from onnx import AttributeProto, FunctionProto, NodeProto, helper
from torch import nn

from psp_export.deploy.convolution import conv_transpose2d
from psp_export.graphs import trace as graph
from psp_runtime.engines.info import read_info
from psp_runtime.engines.tensorrt import plugins
from psp_runtime.engines.tensorrt.plugins import NAMESPACE, VERSION, FusedBiasLeakyReLU, UpFirDn2d

#: What TensorRT's parser looks a plugin up by, in torch's notation for node attributes.
_PLUGIN = {"plugin_namespace_s": NAMESPACE, "plugin_version_s": VERSION}


def upfirdn2d(x: torch.Tensor, fir: torch.Tensor, up: int, crop: int) -> torch.Tensor:
    """Depthwise transposed convolution, stride `up`, `crop` cut off all around: one node `psp::PspUpFirDn2d`.

    x [B,C,H,W], fir [C,1,k,k], the same for every channel -> [B,C,(H-1)·up+k-2·crop,…]. This is the upfirdn2d with
    padding k-1-crop before and k-up-crop after.
    """
    return _UpFirDn2d.apply(x, fir.float(), up, crop)


def fused_bias_leaky_relu(x: torch.Tensor, bias: torch.Tensor, slope: float = 0.2, gain: float = 1.0) -> torch.Tensor:
    """leaky_relu(x + bias, slope) * gain, x [B,C,H,W], bias [C,1,1]: one node `psp::PspFusedBiasLeakyReLU`."""
    return _FusedBiasLeakyReLU.apply(x, bias.float(), slope, gain)


def use_in(module: nn.Module) -> None:
    """Let a deployable module compute its FIR filters and activations by the custom operations, in place."""
    for part in module.modules():
        if hasattr(part, "use_custom_ops"):
            part.use_custom_ops()


def add_bodies(model: onnx.ModelProto) -> bool:
    """Give the model the function bodies of the custom nodes in it, in place; whether there are any."""
    used = {node.op_type for node in model.graph.node if node.domain == NAMESPACE}
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    model.functions.extend(body(opset) for name, body in BODIES.items() if name in used)
    return bool(used)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in standard ops alone, for parsers that know neither the plugins nor functions."""
    return onnx.inliner.inline_local_functions(model)


@contextmanager
def plan_source(path: Path, flavour: str) -> Iterator[Path]:
    """The ONNX file to build a plan of: itself, or its standard operations where TensorRT cannot take the plugins.

    Registers the plugins for a file with custom nodes; where something is lacking, a warning says what.
    """
    info, trt = read_info(path), importlib.import_module(flavour)
    lacking = plugins.lacking(trt) if info.custom_ops else ""
    if info.custom_ops and not lacking:
        plugins.register(trt)
    if not lacking:
        yield path
        return
    warnings.warn(f"{path.with_suffix('.trt').name} is built without plugins, for want of {lacking}", stacklevel=4)
    plain = path.with_name(f"plain-{path.name}")
    model = inlined(onnx.load(str(path)))
    graph.set_info(model, replace(info, custom_ops=False))
    graph.save(model, plain)
    try:
        yield plain
    finally:
        plain.unlink()


class _UpFirDn2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, fir, up, crop):
        return conv_transpose2d(x, fir.to(x.dtype), stride=up, padding=crop, groups=x.shape[1])

    @staticmethod
    def symbolic(g, x, fir, up, crop):
        channels, _, kernel, _ = fir.type().sizes()
        node = g.op(
            f"{NAMESPACE}::{UpFirDn2d.name}", x, fir, strides_i=[up] * 2, pads_i=[crop] * 4, group_i=channels, **_PLUGIN
        )
        # The exporter cannot infer the shape of a node that is not ONNX's own.
        batch, _, *sides = x.type().varyingSizes()
        sides = [(side - 1) * up + kernel - 2 * crop for side in sides]
        return node.setType(x.type().with_sizes([batch, channels, *sides]))


class _FusedBiasLeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias, slope, gain):
        return F.leaky_relu(x + bias.to(x.dtype), slope) * gain

    @staticmethod
    def symbolic(g, x, bias, slope, gain):
        node = g.op(f"{NAMESPACE}::{FusedBiasLeakyReLU.name}", x, bias, slope_f=slope, gain_f=gain, **_PLUGIN)
        return node.setType(x.type())


def _upfirdn2d_body(opset: int) -> FunctionProto:
    """FIR and strides as given; CastLike makes one body serve FP32 and FP16."""
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
    attributes = [*attributes, *(name.removesuffix("_s") for name in _PLUGIN)]
    return helper.make_function(NAMESPACE, name, inputs, ["y"], nodes, [helper.make_opsetid("", opset)], attributes)


def _refer(node: NodeProto, name: str, to: str, kind: int) -> None:
    """Let an attribute of a node in a body be an attribute of the function."""
    node.attribute.append(AttributeProto(name=name, ref_attr_name=to, type=kind))
