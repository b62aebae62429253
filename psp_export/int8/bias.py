"""Take the mean error of 8-bit layers out of their biases.

Rounded weights, and values cut off by a scale, shift the mean of an output channel for every picture alike. Bias
correction of Nagel et al. 2019 (Data-Free Quantization Through Weight Equalization and Bias Correction, section 4.2),
with means measured on pictures: what is taken off is E[W_q x_q] - E[W x], where x is what flows into the layer of the
INT8 engine, so each layer makes up for its own error alone.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from psp_export.graphs.probe import insert_behind, open_probe
from psp_export.int8.layouts import general
from psp_export.verify.parity import every_step
from psp_runtime.engines import contract
from psp_runtime.engines.info import EngineInfo


class Means(NamedTuple):
    """Means of the channels of what a layer reads, float64 [C]: before and behind its 8 bits."""

    before: np.ndarray
    behind: np.ndarray


def measure_means(
    model: onnx.ModelProto, info: EngineInfo, inputs: Sequence[dict[str, np.ndarray]], folder: Path
) -> dict[str, Means]:
    """Run an INT8 engine on inputs of one picture each, as it is written: name of an 8-bit tensor -> its means.

    Only of tensors [1,C,H,W] that layers with a bias read. The model is changed, and lies in `folder` while it runs.
    """
    pairs = _pairs(model.graph)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    _look_at(model, names)
    seen: list[list[np.ndarray]] = []
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        probe = Path(inside) / "probe.onnx"
        onnx.save(model, probe)
        session, outputs = open_probe(probe), list(contract.outputs(info))

        def once(picture: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = session.run([*outputs, *(f"mean_{index}" for index in range(len(names)))], dict(picture))
            seen.append(found[len(outputs) :])
            return dict(zip(outputs, found, strict=False))

        run = every_step(once, info)
        for picture in inputs:
            run(picture)
    means = {name: np.mean(each, axis=0, dtype=np.float64) for name, each in zip(names, zip(*seen, strict=True))}
    return {general(behind): Means(means[before], means[behind]) for before, behind in pairs}


def _pairs(graph: onnx.GraphProto) -> list[tuple[str, str]]:
    """List what layers with a bias read, before and behind its 8 bits."""
    read = {node.input[0] for node in graph.node if node.op_type == "Conv" and len(node.input) > 2}
    maker = {node.output[0]: node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    behind = [name for name in dict.fromkeys(maker) if name in read]
    return [(maker[maker[name].input[0]].input[0], name) for name in behind]


def _look_at(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give each tensor an output: the means of its channels."""
    insert_behind(
        model,
        names,
        lambda name, index: [helper.make_node("ReduceMean", [name], [f"mean_{index}"], axes=[0, 2, 3], keepdims=0)],
    )
    outputs = [helper.make_tensor_value_info(f"mean_{i}", TensorProto.FLOAT, [None]) for i in range(len(names))]
    model.graph.output.extend(outputs)


def mean_shift(exact: np.ndarray, rounded: np.ndarray, means: Means) -> np.ndarray:
    """Compute how far 8 bits shift the mean output of a convolution [O], borders left out.

    Weights [O,I/groups,k,k] of any number of groups, in FP32 and as 8 bits stand for them.
    """
    return _mean_output(rounded, means.behind) - _mean_output(exact, means.before)


def _mean_output(weight: np.ndarray, means: np.ndarray) -> np.ndarray:
    taps = weight.sum((2, 3), dtype=np.float64)
    groups = len(means) // taps.shape[1]
    return np.einsum("goi,gi->go", taps.reshape(groups, -1, taps.shape[1]), means.reshape(groups, -1)).ravel()
