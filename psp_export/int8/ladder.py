"""Step back from the fastest INT8 graph until one passes the gate."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx

from psp_export.graphs.trace import store_half
from psp_export.int8 import layouts
from psp_export.int8.bias import Means, measure_means
from psp_export.int8.calibration import Histograms
from psp_export.int8.layouts import Layout, Rung
from psp_export.int8.nodes import quantise
from psp_export.int8.scales import Kind, Method, Scale, activation_scale
from psp_export.verify.parity import ParityError
from psp_runtime.engines.info import read_info

#: From fast to exact. Ranges of the least error have the better mean, whole ranges the better worst picture.
RUNGS = tuple(Rung(method, heads) for heads in ("none", "last layers", "all") for method in ("mse", "max"))

Attempt = TypeVar("Attempt")


def climb(layout: Layout, attempt: Callable[[Rung], Attempt]) -> tuple[Rung, Attempt]:
    """Try a rung of the ladder after the other, until one passes the gates.

    `attempt` makes the engine, and raises `ParityError` beyond them. Returns the rung, and what was made. Raises the
    `ParityError` of the last rung where none passes.
    """
    *earlier, last = rungs(layout)
    for rung in earlier:
        try:
            return rung, attempt(rung)
        except ParityError:
            continue
    return last, attempt(last)


def rungs(layout: Layout) -> list[Rung]:
    """List the rungs that differ for a processor, from fast to exact."""
    return [rung for rung in RUNGS if layout.kinds["head"] or rung.heads == "all"]


def corrected(
    path: Path, histograms: Histograms, layout: Layout, rung: Rung, inputs: Sequence[dict[str, np.ndarray]]
) -> tuple[onnx.ModelProto, dict[str, Means]]:
    """Quantise an FP32 file, run it on `inputs` of one picture each, and quantise it with biases that make up for it.

    Returns the model, and the means that its parts are corrected with.
    """
    means = measure_means(quantised(path, histograms, layout, rung), read_info(path), inputs, path.parent)
    return quantised(path, histograms, layout, rung, means), means


def quantised(
    path: Path, histograms: Histograms, layout: Layout, rung: Rung, means: Mapping[str, Means] | None = None
) -> onnx.ModelProto:
    """Load an FP32 file, of an engine or a part of it, and quantise it; what matrices stay are stored in FP16."""
    model = onnx.load(str(path))
    kinds = layouts.kinds(model.graph, layout, rung.heads)
    quantise(model, kinds, _scales(model.graph, kinds, histograms, rung.method), means)
    store_half(model, ("Gemm", "MatMul"))
    return model


def _scales(
    graph: onnx.GraphProto, kinds: dict[str, Kind], histograms: Histograms, method: Method
) -> dict[tuple[str, Kind], Scale]:
    tensors = {
        (name, kinds[node.name]) for node in graph.node if node.name in kinds for name in layouts.quantised_inputs(node)
    }
    return {(name, kind): activation_scale(histograms[layouts.general(name)], kind, method) for name, kind in tensors}
