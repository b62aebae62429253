"""The least time a machine could take: the work of a model, and the speed limits measured in the same run.

Work is counted on shapes alone, 2 x multiply-accumulate of every convolution and linear layer of the baseline,
for one picture. It is the same number whatever form runs: 145 GFLOP (encoder) + 151 (generator) = 296 for the published
model at 1024. Weights are read at least once per batch.

    floor = max(GFLOP / matmul peak, bytes of weights / copy bandwidth)
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from onnx import TensorProto, helper
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from measure.baseline import Baseline
from measure.peers.pieces import peer_work
from measure.workloads import Piece, Workload, baseline_inputs, configs, size_of_peer
from psp_runtime.engines.libraries import import_onnxruntime
from psp_train.networks import PSP

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
#: Sides of the square matrices tried: which one is fastest differs between machines.
MATRICES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
TRIALS = 4


@dataclass(frozen=True)
class Work:
    """What one picture needs: 10^9 operations, and 10^9 weights read."""

    gflop: float
    gweights: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.gflop + other.gflop, self.gweights + other.gweights)


@dataclass(frozen=True)
class Limits:
    """What a machine reached: GFLOP/s of a matrix product in one precision, GB/s of a copy (read + write)."""

    gflops: float
    copy_gb: float

    def floor(self, work: Work, batch: int, precision: str) -> float:
        """The least seconds for a batch."""
        weights = work.gweights * DTYPES[precision].itemsize / self.copy_gb
        return max(batch * work.gflop / self.gflops, weights)

    def best(self, other: "Limits") -> "Limits":
        """The higher of both: a limit is only ever measured too low."""
        return Limits(max(self.gflops, other.gflops), max(self.copy_gb, other.copy_gb))


@functools.cache
def work(workload: Workload, piece: Piece) -> Work:
    """The work of a piece for one picture."""
    if piece.peer:
        return Work(*peer_work(piece.kind, size_of_peer(workload, piece)))
    if piece.part == "full":
        return work(workload, piece._replace(part="encoder")) + work(workload, piece._replace(part="generator"))
    (array,) = baseline_inputs(replace(workload, batch=1), piece).values()
    with FakeTensorMode():
        model = PSP(*configs(workload, piece.kind)).eval()
        with FlopCounterMode(display=False) as counter:
            Baseline(model, piece.part)(torch.from_numpy(array))
        network = model.encoder if piece.part == "encoder" else model.decoder
        # The mapping network z -> w belongs to the generator, but no engine of pictures runs it.
        weights = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("style."))
    return Work(counter.get_total_flops() / 1e9, weights / 1e9)


def measure(device: str, precision: str) -> Limits:
    """Both limits, the best of a few trials, with torch's threads. A CPU computes FP16 engines in FP32.

    On a CPU also ONNX Runtime multiplies: the library behind torch reaches half of some AMD processors' speed, and
    multiplies 8 bits fast on some processors alone.
    """
    dtype = DTYPES["fp32" if device == "cpu" and precision == "fp16" else precision]
    speeds = []
    if device == "cpu" and dtype in (torch.float32, torch.int8):
        speeds += [_onnx_matmul(side, dtype) for side in MATRICES[device]]
    if device == "cuda" or dtype != torch.int8:
        speeds += [_matmul(side, dtype, device) for side in MATRICES[device]]
    return Limits(max(speeds), _copy(device))


def _matmul(side: int, dtype: torch.dtype, device: str) -> float:
    if dtype == torch.int8:
        a, b = (torch.randint(-128, 128, (side, side), device=device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / 1e9 / _fastest(lambda: torch._int_mm(a, b), device)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / 1e9 / _fastest(lambda: torch.mm(a, b, out=out), device)


def _onnx_matmul(side: int, dtype: torch.dtype = torch.float32) -> float:
    """Of 8 bits the first factor is unsigned, which all processors that multiply 8 bits have an instruction for."""
    operation, types, kinds = {
        torch.float32: ("MatMul", (np.float32, np.float32), (TensorProto.FLOAT,) * 3),
        torch.int8: ("MatMulInteger", (np.uint8, np.int8), (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)),
    }[dtype]
    a, b, c = (helper.make_tensor_value_info(name, kind, [side, side]) for name, kind in zip("abc", kinds))
    graph = helper.make_graph([helper.make_node(operation, ["a", "b"], ["c"])], "product", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng, shape = np.random.default_rng(0), (side, side)
    matrix = rng.standard_normal(shape, np.float32) if dtype == torch.float32 else rng.integers(0, 128, shape)
    factors = {name: matrix.astype(kind) for name, kind in zip("ab", types)}
    return 2 * side**3 / 1e9 / _fastest(lambda: session.run(None, factors), "cpu")


def _copy(device: str) -> float:
    source = torch.zeros(COPIED_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / 1e9 / _fastest(lambda: target.copy_(source), device)


def _fastest(run: Callable[[], object], device: str) -> float:
    run()
    return min(_seconds(run, device) for _ in range(TRIALS))


def _seconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
