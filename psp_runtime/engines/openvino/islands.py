"""What stays FP32 while OpenVINO computes an engine in bf16, and what it really computes in.

The convolutions of feature maps are where the time goes, and they bear 8 bits: their errors are independent and average
out. What steers them does not: a style, a demodulation or a W+ code that is rounded changes a whole channel or layer,
and the picture is summed up over all resolutions. So vectors and pictures stay FP32, feature maps are bf16. These are
the islands of the FP16 export (`FP32_ISLANDS` in psp_export/deploy/precision.py), found by their shapes, so that an
FP32 engine has them too.

OpenVINO's own mark for it is an attribute of nodes, `DisablePrecisionConversion`, before 2026 `DisableFP16Compression`.
Its Python interface reads the attribute with a model and writes it to a node, but cannot make one: a model of one node
brings it. A node that OpenVINO makes of two is not marked, whatever they were, so a matrix must not meet its bias.
"""

from collections.abc import Iterator
from typing import Any

from psp_runtime.engines.libraries import import_openvino

#: Channels of a picture at most; a tensor [1,C,H,W] with more is a feature map.
PICTURE_CHANNELS = 3
#: The layers that multiply, by their names in an executed graph.
MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
#: What the executed graph calls a precision, and what we call it, the one that decides first.
EXECUTED = {"i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "fp16"}

#: One marked node between an input and an output, as OpenVINO stores models.
_MARKED = b"""<?xml version="1.0"?>
<net name="marked" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="marked" type="Abs" version="opset1"><rt_info>
<attribute name="DisablePrecisionConversion" version="0" value="dynamic:f16,bf16"/>
<attribute name="precise" version="0"/></rt_info>
<input><port id="0" precision="FP32"><dim>1</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="2" name="y" type="Result" version="opset1"><input><port id="0" precision="FP32"><dim>1</dim></port></input>
</layer></layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


def keep_islands(core: Any, model: Any) -> None:
    """Mark the islands of a model of fixed shapes (`ov.Model`), so that OpenVINO computes them in FP32."""
    marked = next(node for node in core.read_model(_MARKED, b"").get_ops() if node.get_friendly_name() == "marked")
    marks = dict(marked.get_rt_info().items())
    _part_biases(model)
    for node in islands(model):
        for name, mark in marks.items():
            node.set_rt_info(mark, name)


def _part_biases(model: Any) -> None:
    """Put reshapes around the biases of vectors [1,C], without which OpenVINO merges them with matrices."""
    opset = import_openvino().opset13
    for node in [node for node in islands(model) if _adds_bias(node)]:
        takers = node.output(0).get_target_inputs()
        for port in node.inputs():
            if len(port.get_partial_shape()) == 2:
                port.replace_source_output(opset.unsqueeze(port.get_source_output(), 0).output(0))
        vector = opset.squeeze(node, 0)
        for taker in takers:
            taker.replace_source_output(vector.output(0))
    model.validate_nodes_and_infer_types()


def _adds_bias(node: Any) -> bool:
    """Tell whether a node adds [C] to [1,C]."""
    return node.get_type_name() == "Add" and sorted(len(port.get_partial_shape()) for port in node.inputs()) == [1, 2]


def islands(model: Any) -> Iterator[Any]:
    """Find the nodes that compute with numbers, and neither take nor give a feature map."""
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Constant", "Parameter", "Result"):
            continue
        taken = [port for port in node.input_values() if port.get_node().get_type_name() != "Constant"]
        if node.outputs()[0].get_element_type().is_real() and not any(map(_is_feature_map, [*taken, *node.outputs()])):
            yield node


def _is_feature_map(port: Any) -> bool:
    """Tell whether a tensor is [1,C,H,W], H and W above 1, of more channels than a picture ([1,3,H,W] or [1,H,W,3])."""
    shape = list(port.get_partial_shape().get_min_shape())
    return len(shape) == 4 and min(shape[1], shape[3]) > PICTURE_CHANNELS and min(shape[2:]) > 1


def executed_precision(compiled: Any) -> str:
    """Say what a compiled model really multiplies in: "int8", "bf16", "fp16" or "fp32"."""
    kinds = {kind for layer, kind, _ in executed_layers(compiled) if layer in MULTIPLYING}
    return next((name for kind, name in EXECUTED.items() if kind in kinds), "fp32")


def executed_layers(compiled: Any) -> list[tuple[str, str, str]]:
    """List kind, precision and original nodes (names with commas between) of each layer of the executed graph."""
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    names = ("layerType", "runtimePrecision", "originalLayersNames")
    return [tuple(fact[name].astype(str) if name in fact else "" for name in names) for fact in facts]  # type: ignore[misc]
