"""Write the INT8 graph: weights as 8 bits, and a pair of QuantizeLinear and DequantizeLinear before every layer."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from psp_export.int8.bias import Means, mean_shift
from psp_export.int8.layouts import general, quantised_inputs
from psp_export.int8.scales import Kind, Scale, quantised_weight

#: Which tensors become 8 bits and how: (name of the tensor, kind) -> its scale.
Scales = Mapping[tuple[str, Kind], Scale]


def quantise(
    model: onnx.ModelProto, kinds: Mapping[str, Kind], scales: Scales, means: Mapping[str, Means] | None = None
) -> None:
    """Let the layers in `kinds` (node name -> kind) compute in 8 bits, in place.

    With `means` of what they read (`bias.measure_means`), biases make up for the mean error.
    """
    writer = _Writer(model.graph, scales, means or {})
    for node in model.graph.node:
        if node.name in kinds:
            writer.quantise_layer(node, kinds[node.name])
    writer.finish()


class _Writer:
    """Q/DQ pairs under way: one for each tensor and kind, one for each weight, whoever reads them."""

    def __init__(self, graph: onnx.GraphProto, scales: Scales, means: Mapping[str, Means]) -> None:
        self.graph, self.scales, self.means = graph, scales, means
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.behind: dict[str, list[onnx.NodeProto]] = {}  # of a tensor
        self.first: list[onnx.NodeProto] = []
        self.made: set[str] = set()
        self.constants: list[onnx.TensorProto] = []

    def quantise_layer(self, node: onnx.NodeProto, kind: Kind) -> None:
        """Let a convolution, or a sum, read 8 bits."""
        inputs = quantised_inputs(node)
        node.input[: len(inputs)] = [self._pair(name, kind) for name in inputs]
        if node.op_type == "Add":
            return
        name, axis = node.input[1], 1 if node.op_type == "ConvTranspose" else 0
        q, scale = quantised_weight(numpy_helper.to_array(self.weights[name]), axis)
        node.input[1] = self._weight(name, axis, q, scale)
        if len(node.input) > 2 and general(node.input[0]) in self.means:
            self._correct_bias(node, name, q * scale[:, None, None, None])

    def _pair(self, name: str, kind: Kind) -> str:
        """Put a tensor through 8 bits; returns the name of what comes out."""
        stem = f"{name}.{kind}"
        if self._is_new(stem):
            names = [f"{stem}.scale", f"{stem}.zero"]
            self._add_constants(names, self.scales[name, kind])
            self.behind.setdefault(name, []).extend(
                [
                    helper.make_node("QuantizeLinear", [name, *names], [f"{stem}.q"], f"{stem}.Quantize"),
                    helper.make_node("DequantizeLinear", [f"{stem}.q", *names], [f"{stem}.dq"], f"{stem}.Dequantize"),
                ]
            )
        return f"{stem}.dq"

    def _weight(self, name: str, axis: int, q: np.ndarray, scale: np.ndarray) -> str:
        stem = f"{name}.s8.{axis}"
        if self._is_new(stem):
            names = [f"{stem}.q", f"{stem}.scale", f"{stem}.zero"]
            self._add_constants(names, (q, scale, np.zeros(len(scale), np.int8)))
            node = helper.make_node("DequantizeLinear", names, [f"{stem}.dq"], f"{stem}.Dequantize", axis=axis)
            self.first.append(node)
        return f"{stem}.dq"

    def _correct_bias(self, node: onnx.NodeProto, weight: str, rounded: np.ndarray) -> None:
        """Take the mean error of a convolution off its bias."""
        exact, bias = (numpy_helper.to_array(self.weights[name]) for name in (weight, node.input[2]))
        shift = mean_shift(exact, rounded, self.means[general(node.input[0])])
        node.input[2] = f"{node.name}.bias"
        self._add_constants([node.input[2]], ((bias - shift).astype(np.float32),))

    def _is_new(self, stem: str) -> bool:
        new = stem not in self.made
        self.made.add(stem)
        return new

    def _add_constants(self, names: list[str], values: tuple) -> None:
        self.constants += [
            numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names, values, strict=True)
        ]

    def finish(self) -> None:
        """Put the nodes where what they read is there, and drop the weights that nobody reads any more."""
        nodes = list(self.first)
        for node in self.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self.behind.get(name, [])
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend([*kept, *self.constants])
