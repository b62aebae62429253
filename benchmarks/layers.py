"""Where the time of an engine goes: every node of the graph ONNX Runtime really runs, against its floor.

    python benchmarks/layers.py [--size 1024] [--part full] [--form ours] [--top 25]
    python benchmarks/layers.py --engine psp.onnx

With --precision int8 our engine is computed as its file says, in FP32, as psp_runtime does; the baseline of
--form baseline, quantised by quantize_static, in ONNX Runtime's 8-bit kernels.
ONNX Runtime's own profiler times the nodes of its optimised graph, which has fused and added some (layout reorders).
Cost model of a node:

    work   2 x multiply-accumulate of convolutions and matrix products, with the channels ONNX Runtime pads to
    bytes  what it reads and writes at least once: inputs, weights, outputs
    floor  max(work / matmul peak, bytes / copy bandwidth), both measured in this run (`roofline.py`)

A node may beat its floor when its tensors are still in a cache. Times are medians over --runs warm runs; profiling
itself costs a few microseconds a node. The last line is JSON.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from measure import machine, roofline
from measure.backends import BASELINE, OURS, Side, default_device
from measure.workloads import SIZES, Piece, Workload

from psp_runtime.engines import contract
from psp_runtime.engines.info import read_info
from psp_runtime.engines.libraries import import_onnxruntime
from psp_runtime.errors import PspError

WARM_RUNS = 2
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
#: Nodes ONNX Runtime adds between its own blocked layout and the usual one.
REORDERS = ("ReorderInput", "ReorderOutput")
MATRIX_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "QLinearMatMul", "QGemm")


@dataclass(frozen=True)
class Layer:
    """One node: median milliseconds, 10^9 operations, 10^6 bytes, and the milliseconds of its floor."""

    name: str
    op: str
    ms: float
    gflop: float
    megabytes: float
    floor_ms: float

    @property
    def part(self) -> str:
        """The module it belongs to: "generator/convs.3"; nodes without a scope go by their operator."""
        scope = self.name.strip("/").split("/")[:-1]
        return "layout reorders" if self.op in REORDERS else "/".join(scope[:2]) or self.op


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    device = default_device()
    try:
        path, arrays = target(options, device)
        by_others = options.form == BASELINE and options.precision == "int8"
        limits = roofline.measure(
            device, "fp32" if options.precision == "int8" and not by_others else options.precision
        )
        layers = profile(path, arrays, device, options.runs, limits, as_written=not by_others)
    except PspError as error:
        print(error, file=sys.stderr)
        return 2
    show(layers, options.top)
    result = {"benchmark": "layers", "command": " ".join(["python", *sys.argv]), "machine": machine.describe(device)}
    result |= {"engine": path.name, "form": options.form, "precision": options.precision, "limits": asdict(limits)}
    print(json.dumps(result | {"layers": [asdict(layer) for layer in layers]}))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", type=Path, help="this .onnx file instead of a seeded model")
    parser.add_argument("--size", type=int, choices=SIZES, default=1024)
    parser.add_argument("--small", action="store_true", help="the widths of the bundled demo model, up to 256 pixels")
    parser.add_argument("--part", choices=["full", "encoder", "generator"], default="full")
    parser.add_argument("--form", choices=[OURS, BASELINE], default=OURS)
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"], default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--top", type=int, default=25, help="slowest nodes to list")
    options = parser.parse_args(arguments)
    if options.small and options.size > 256:
        parser.error("--small has no weights above --size 256")
    return options


def target(options: argparse.Namespace, device: str) -> tuple[Path, dict[str, np.ndarray]]:
    """The engine file to look into, and inputs for it. Raises `PspError` for a file that is no full .onnx engine."""
    if not options.engine:
        workload, piece = Workload(options.size, options.batch, options.small), Piece("psp", options.part)
        side = Side("onnxruntime", options.form, options.precision, device)
        return side.engine(workload, piece), side.inputs(workload, piece)
    info = read_info(options.engine)
    if options.engine.suffix != ".onnx" or info.part != "full":
        raise PspError(f"{options.engine} is a {info.part} engine for {info.backend}: expected a full .onnx engine")
    inputs = contract.full_inputs(info, contract.image(info).zeros(options.batch))
    return options.engine, inputs


def profile(
    path: Path,
    arrays: dict[str, np.ndarray],
    device: str,
    runs: int,
    limits: roofline.Limits,
    as_written: bool = True,
) -> list[Layer]:
    """Run an engine under ONNX Runtime's profiler; its nodes in the order in which they ran.

    `as_written` computes INT8 as the file says, as psp_runtime does; otherwise in 8-bit kernels.
    """
    with tempfile.TemporaryDirectory() as folder:
        runtime = import_onnxruntime()
        settings = runtime.SessionOptions()
        settings.log_severity_level = 3
        settings.enable_profiling = True
        settings.add_session_config_entry("session.disable_quant_qdq", "1" if as_written else "0")
        settings.profile_file_prefix = str(Path(folder) / "profile")
        # A weight that was packed for its kernel is missing from the profile; the optimised graph still has its shape.
        settings.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        session = runtime.InferenceSession(str(path), settings, providers=PROVIDERS[device])
        for _ in range(WARM_RUNS + runs):
            session.run(None, arrays)
        events = json.loads(Path(session.end_profiling()).read_text())
        optimised = onnx.load(Path(folder) / "optimised.onnx", load_external_data=False)
    return layers(events, weight_shapes(optimised), limits)


def weight_shapes(model: onnx.ModelProto) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the constant inputs of every node, by node name."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {node.name: [shapes[name] for name in node.input if name in shapes] for node in model.graph.node}


def layers(events: list[dict], weights: dict[str, list[tuple[int, ...]]], limits: roofline.Limits) -> list[Layer]:
    """The profiler's events -> nodes, without the warm runs."""
    times, facts = defaultdict(list), {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[name].append(event["dur"] / 1e3)
            facts[name] = event["args"]
    found = []
    for name, args in facts.items():
        constants = weights.get(name, [])
        gflop = operations(args, constants) / 1e9
        weight_bytes = max(int(args["parameter_size"]), 4 * sum(math.prod(shape) for shape in constants))
        moved = int(args["activation_size"]) + int(args["output_size"]) + weight_bytes
        floor = 1e3 * max(gflop / limits.gflops, moved / 1e9 / limits.copy_gb)
        ms = statistics.median(times[name][WARM_RUNS:])
        found.append(Layer(name, args["op_name"], ms, gflop, moved / 1e6, floor))
    return found


def operations(args: dict, constants: list[tuple[int, ...]]) -> int:
    """2 x multiply-accumulate of one node; 0 for all but convolutions and matrix products."""
    op, shapes = (
        args["op_name"].removeprefix("Fused").removeprefix("QLinear"),
        [_shape(entry) for entry in args["input_type_shape"]],
    )
    inputs, outputs = shapes[0] if shapes else (), _shape(args["output_type_shape"][0])
    if args["op_name"] in MATRIX_PRODUCTS:
        return 2 * math.prod(outputs) * inputs[-1]
    if op not in ("Conv", "ConvTranspose"):
        return 0
    weight = next(shape for shape in [*constants, *shapes[1:]] if len(shape) == 4)
    # A convolution's weight is [O,I/groups,k,k], a transposed one's [I,O/groups,k,k]: the rest of it per output, or
    # per input.
    return 2 * math.prod(outputs if op == "Conv" else inputs) * math.prod(weight[1:])


def _shape(entry: dict[str, list[int]]) -> tuple[int, ...]:
    (shape,) = entry.values()
    return tuple(shape)


def show(found: list[Layer], top: int) -> None:
    """By operator, by module, and the slowest nodes."""
    print(_header("operator"))
    print(*_summed(found, lambda layer: layer.op, top), sep="\n")
    print("\n" + _header("module"))
    print(*_summed(found, lambda layer: layer.part, top), sep="\n")
    print("\n" + _header("node"))
    total = sum(layer.ms for layer in found)
    for layer in sorted(found, key=lambda layer: -layer.ms)[:top]:
        print(_line(f"{layer.name} ({layer.op})", [layer], total))
    print(_line("all", found, total))


def _summed(found: list[Layer], key: Callable[[Layer], str], top: int) -> Iterable[str]:
    groups = defaultdict(list)
    for layer in found:
        groups[key(layer)].append(layer)
    total = sum(layer.ms for layer in found)
    ordered = sorted(groups.items(), key=lambda group: -sum(layer.ms for layer in group[1]))
    return [_line(name, group, total) for name, group in ordered[:top]]


def _header(what: str) -> str:
    return f"{what:64}{'ms':>9}{'of all':>8}{'GFLOP':>9}{'MB':>9}{'floor ms':>10}{'floor':>7}"


def _line(name: str, group: list[Layer], total: float) -> str:
    sums = [sum(getattr(x, field) for x in group) for field in ("ms", "gflop", "megabytes", "floor_ms")]
    ms, gflop, megabytes, floor = sums
    share = f"{100 * floor / ms:6.0f}%" if ms else ""
    return f"{name[-63:]:64}{ms:9.2f}{100 * ms / total:7.1f}%{gflop:9.2f}{megabytes:9.1f}{floor:10.2f}{share}"


if __name__ == "__main__":
    sys.exit(main())
