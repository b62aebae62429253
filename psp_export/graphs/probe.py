"""Look at values inside of a graph while it runs: each is reduced in the graph, as soon as it is there.

All values of a 1024² model would not fit in memory; what is left of each does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from psp_runtime.engines.libraries import import_onnxruntime


def insert_behind(
    model: onnx.ModelProto, names: Sequence[str], make: Callable[[str, int], list[onnx.NodeProto]]
) -> None:
    """Put `make(name, index)` right behind the node that makes each of the tensors `names`, in place."""
    index_of = {name: index for index, name in enumerate(names)}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for name in filter(index_of.__contains__, node.output):
            nodes += make(name, index_of[name])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def open_probe(path: Path) -> Any:
    """Open an ONNX file in ONNX Runtime so that it runs in little memory."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # 8 bits as they are written
    options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED  # that of the nodes: reduced, then freed
    return runtime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
