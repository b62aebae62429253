"""Run the FP32 graph on many pictures, and keep where the values lie that may become 8 bits."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from psp_export.graphs.probe import insert_behind, open_probe
from psp_export.int8.histograms import Histogram
from psp_export.int8.layouts import general, is_residual_add, quantised_inputs, role
from psp_export.verify.parity import every_step
from psp_runtime.engines import contract
from psp_runtime.engines.info import read_info

#: Values of a tensor looked at in each run, at places drawn once; its extremes are those of all values.
VALUES = 1 << 15
_PLACES_SEED = 0

Histograms = Mapping[str, Histogram]


def candidates(graph: onnx.GraphProto) -> list[str]:
    """List the tensors that any layout may quantise."""
    nodes = [node for node in graph.node if role(node) or is_residual_add(node)]
    return list(dict.fromkeys(name for node in nodes for name in quantised_inputs(node)))


def calibrate(
    path: Path, inputs: Sequence[dict[str, np.ndarray]], tell: Callable[[str], object] = lambda words: None
) -> Histograms:
    """Run an FP32 engine on inputs of one picture each: name of a tensor (`layouts.general`) -> its histogram.

    Of ReStyle every step counts. Memory is that of one run, whatever the number of pictures: values are reduced inside
    the graph as soon as they are there. `tell` is told how far the work is.
    """
    model = onnx.load(str(path))
    names = candidates(model.graph)
    histograms = {general(name): Histogram() for name in names}
    _look_at(model, names)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        probe = Path(folder) / "probe.onnx"
        onnx.save(model, probe)
        del model
        session, info = open_probe(probe), read_info(path)
        outputs = list(contract.outputs(info))
        run = every_step(partial(_run, session, outputs, list(histograms.values())), info)
        for done, picture in enumerate(inputs, 1):
            run(picture)
            tell(f"{done} of {len(inputs)} pictures")
    return histograms


def _run(
    session: object, outputs: list[str], histograms: list[Histogram], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run the probe once: count the values it shows, return the outputs of the engine."""
    shown = [f"{what}_{index}" for index in range(len(histograms)) for what in ("values", "low", "high")]
    found = session.run([*outputs, *shown], dict(inputs))
    values = found[len(outputs) :]
    for index, histogram in enumerate(histograms):
        some, low, high = values[3 * index : 3 * index + 3]
        histogram.add(some, float(low), float(high))
    return dict(zip(outputs, found, strict=False))


def _look_at(model: onnx.ModelProto, names: list[str]) -> None:
    """Give each tensor three outputs: its least and its largest value, and `VALUES` of them."""
    places = np.random.default_rng(_PLACES_SEED).random(VALUES)
    model.graph.initializer.extend(
        [numpy_helper.from_array(places, "probe_places"), numpy_helper.from_array(np.array([-1]), "probe_flat")]
    )
    insert_behind(model, names, _nodes)
    for index in range(len(names)):
        for what, shape in (("values", [VALUES]), ("low", []), ("high", [])):
            model.graph.output.append(helper.make_tensor_value_info(f"{what}_{index}", TensorProto.FLOAT, shape))


def _nodes(name: str, index: int) -> list[onnx.NodeProto]:
    """Make the nodes that reduce one tensor; places are shares of its size, so that they serve tensors of any size."""
    own = [f"{what}_{index}" for what in ("flat", "size", "wide", "scaled", "places", "values", "low", "high")]
    flat, size, wide, scaled, places, values, low, high = own
    return [
        helper.make_node("Reshape", [name, "probe_flat"], [flat]),
        helper.make_node("Size", [name], [size]),
        helper.make_node("Cast", [size], [wide], to=TensorProto.DOUBLE),
        helper.make_node("Mul", [wide, "probe_places"], [scaled]),
        helper.make_node("Cast", [scaled], [places], to=TensorProto.INT64),
        helper.make_node("Gather", [flat, places], [values]),
        helper.make_node("ReduceMin", [name], [low], keepdims=0),
        helper.make_node("ReduceMax", [name], [high], keepdims=0),
    ]
