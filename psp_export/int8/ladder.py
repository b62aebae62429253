"""Step back from the fastest INT8 graph until one passes the gate."""

from collections.abc import Callable
from pathlib import Path

import onnx

from psp_export.graphs.trace import store_half
from psp_export.int8 import layouts
from psp_export.int8.calibration import Histograms
from psp_export.int8.layouts import Layout, Rung
from psp_export.int8.nodes import quantise
from psp_export.int8.scales import Kind, Method, Scale, activation_scale
from psp_export.verify.parity import Parity, ParityError

#: From fast to exact. Ranges of the least error have the better mean, whole ranges the better worst picture.
RUNGS = tuple(Rung(method, heads) for heads in ("none", "last layers", "all") for method in ("mse", "max"))

#: Writes a graph and compares what it gives, if anything is verified; raises `ParityError` beyond the gates.
Gate = Callable[[onnx.ModelProto, Rung], Parity | None]


def climb(path: Path, histograms: Histograms, layout: Layout, gate: Gate) -> tuple[Rung, Parity | None]:
    """Quantise an FP32 file for a processor, a rung of the ladder after the other, until the gate lets one through.

    Returns the rung, and what the gate found. Raises the `ParityError` of the last rung where none passes.
    """
    *earlier, last = rungs(layout)
    for rung in earlier:
        try:
            return rung, gate(quantised(path, histograms, layout, rung), rung)
        except ParityError:
            continue
    return last, gate(quantised(path, histograms, layout, last), last)


def rungs(layout: Layout) -> list[Rung]:
    """List the rungs that differ for a processor, from fast to exact."""
    return [rung for rung in RUNGS if layout.kinds["head"] or rung.heads == "all"]


def quantised(path: Path, histograms: Histograms, layout: Layout, rung: Rung) -> onnx.ModelProto:
    """Load an FP32 file, of an engine or a part of it, and quantise it; what matrices stay are stored in FP16."""
    model = onnx.load(str(path))
    kinds = layouts.kinds(model.graph, layout, rung.heads)
    quantise(model, kinds, _scales(model.graph, kinds, histograms, rung.method))
    store_half(model, ("Gemm", "MatMul"))
    return model


def _scales(
    graph: onnx.GraphProto, kinds: dict[str, Kind], histograms: Histograms, method: Method
) -> dict[tuple[str, Kind], Scale]:
    tensors = {
        (name, kinds[node.name]) for node in graph.node if node.name in kinds for name in layouts.quantised_inputs(node)
    }
    return {(name, kind): activation_scale(histograms[layouts.general(name)], kind, method) for name, kind in tensors}
