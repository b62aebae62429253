"""The sides of a comparison: what runs the model, in which form and precision.

Baseline: `baseline.py`, in eager torch, and as the ONNX file torch's exporter makes of it; for the networks of others,
those of `peers/`. Ours: the files psp-export writes. ONNX files open with psp_runtime's own sessions on both sides, so
that only the graph differs; but those of other quantisers open as they were made for (`quantised.py`).
Everything takes and gives host arrays, as the engine contract (docs/design.md) has them.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

from measure.quantised import QUANTISERS, RUN_IN, lacks_quantiser, our_int8, quantised_baseline
from measure.workloads import (
    FULL,
    Piece,
    Workload,
    baseline_engine,
    baseline_info,
    baseline_inputs,
    baseline_module,
    inputs,
    our_engine,
    our_plan,
    peer_plan,
    plan_of,
    seeded_checkpoint,
)
from psp_export.int8.layouts import GPU
from psp_runtime.engines import contract, onnx_session
from psp_runtime.engines.devices import cuda_devices, importable
from psp_runtime.engines.openvino import session as openvino_session
from psp_runtime.engines.precision import lacks_bf16
from psp_runtime.engines.session import OnnxSession, OpenVINOSession, Session, open_session
from psp_runtime.engines.tensorrt import session as tensorrt_session
from psp_runtime.engines.tensorrt.session import TensorRTSession
from psp_runtime.errors import PspError

BASELINE, OURS = "baseline", "ours"
#: Backends and what tables call them.
BACKENDS = {
    "torch": "PyTorch eager",
    "torch.compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
}


class Runner(NamedTuple):
    """A piece that is open: `run` it, ask for the seconds of the last run on the device, `close` it.

    `computed` is what it really multiplies in.
    """

    run: Callable[[], dict[str, np.ndarray]]
    device_seconds: Callable[[], float | None]
    close: Callable[[], None]
    computed: str = "fp32"


@dataclass(frozen=True)
class Side:
    """One way to run the model; `device` is "cpu" or "cuda"."""

    backend: str
    form: str
    precision: str = "fp32"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """What tables and results call it."""
        words = f"{BACKENDS[self.backend]}, {self.form}"
        maker = f" by {QUANTISERS[self.backend]}" if self.quantised_by_others else ""
        return words if self.precision == "fp32" else f"{words}, {self.precision.upper()}{maker}"

    @property
    def quantised_by_others(self) -> bool:
        """Whether it is the baseline in INT8."""
        return self.form == BASELINE and self.precision == "int8"

    @property
    def optional(self) -> bool:
        """What people would run instead of this toolkit; timed only where it is asked for, because it takes minutes."""
        return self.form == BASELINE and (self.backend in ("openvino", "torch.compile") or self.precision == "int8")

    @property
    def compiler(self) -> str:
        """What torch.compile calls: for C++ on a CPU, for Triton's launchers, in C, on a GPU."""
        return os.environ.get("CXX", "g++") if self.device == "cpu" else os.environ.get("CC", "gcc")

    def obstacle(self, piece: Piece) -> str:
        """Why a piece cannot run here; empty when it can be tried."""
        if self.backend in ("torch", "torch.compile") and self.device == "cuda" and not torch.cuda.is_available():
            return f"torch {torch.__version__} sees no GPU"
        if self.backend == "torch.compile" and piece.part != "full":
            return "torch.compile is only given the whole model: it compiles for minutes"
        if self.backend == "torch.compile" and not shutil.which(self.compiler):
            return f"torch.compile needs a compiler, {self.compiler} was not found: install it, or name another"
        if self.backend == "openvino" and not importable("openvino"):
            return "the Python package openvino is not installed"
        if self.precision == "bf16" and (lacking := lacks_bf16()):
            return f"bf16 needs {lacking}"
        if self.precision == "int8" and piece != FULL:
            return "INT8 is measured of the whole model alone: each piece is calibrated for minutes"
        return lacks_quantiser(self.backend) if self.quantised_by_others else ""

    def prepared(self, workload: Workload, piece: Piece) -> "Side":
        """Itself, with the engine file of a piece in the cache. Raises `PspError` when the piece cannot run here."""
        obstacle = self.obstacle(piece)
        if obstacle:
            raise PspError(obstacle)
        if self.backend not in ("torch", "torch.compile"):
            self.engine(workload, piece)
        return self

    def open(self, workload: Workload, piece: Piece) -> Runner:
        """Open a prepared piece. Raises `PspError` when this machine refuses it."""
        return _OPENERS[self.backend](self, workload, piece)

    def session(self, workload: Workload, piece: Piece) -> Session:
        """A prepared engine file, open. Raises `PspError` when this machine refuses it."""
        path = self.engine(workload, piece)
        with _any_graph() if self.form == BASELINE else contextlib.nullcontext():
            if self.backend == "openvino":
                return OpenVINOSession(path, self.precision)
            return OnnxSession(path, self.device) if self.backend == "onnxruntime" else open_session(path, self.device)

    def engine(self, workload: Workload, piece: Piece) -> Path:
        """The engine file of a piece, from the cache or made now."""
        if self.quantised_by_others:
            return quantised_baseline(workload, piece, self.backend)
        if self.form == BASELINE:
            return (peer_plan if self.backend == "tensorrt" else baseline_engine)(workload, piece)
        if self.precision == "int8":
            if self.backend == "tensorrt":
                return plan_of(our_int8(workload, piece, GPU), workload, piece, "int8")
            return our_int8(workload, piece)
        stored = "fp32" if self.precision == "bf16" else self.precision  # bf16 is of the run, not of the file
        return (our_plan if self.backend == "tensorrt" else our_engine)(workload, piece, stored)

    def inputs(self, workload: Workload, piece: Piece) -> dict[str, np.ndarray]:
        """The inputs this form takes."""
        return (baseline_inputs if self.form == BASELINE else inputs)(workload, piece)


def default_device() -> str:
    """ "cuda" where there is an NVIDIA GPU, else "cpu"."""
    return "cuda" if cuda_devices() else "cpu"


def sides(device: str, backends: list[str], precisions: list[str]) -> list[Side]:
    """Every side of some backends. The baseline is never FP16: it overflows."""
    found = [Side("torch", BASELINE, device=device), Side("onnxruntime", BASELINE, device=device)]
    if device == "cuda":
        found += [Side("onnxruntime", OURS, precision, device) for precision in precisions if precision != "int8"]
        found += [Side("tensorrt", OURS, precision, device) for precision in precisions]
    else:
        found += [Side("onnxruntime", OURS, precision) for precision in precisions if precision != "bf16"]
        found += [Side("openvino", BASELINE), Side("openvino", OURS)]
        asked = [precision for precision in ("bf16", "int8") if precision in precisions]
        found += [Side("openvino", form, precision) for precision in asked for form in (BASELINE, OURS)]
        found += [Side("onnxruntime", BASELINE, "int8")] if "int8" in asked else []
    found.append(Side("torch.compile", BASELINE, device=device))
    return [side for side in found if side.backend in backends]


def peer_sides(device: str, backends: list[str]) -> list[Side]:
    """Every side of the paper's other networks: FP32, and none of ours."""
    names = ("torch", "onnxruntime", "tensorrt" if device == "cuda" else "openvino")
    return [Side(name, BASELINE, device=device) for name in names if name in backends]


def _open_torch(side: Side, workload: Workload, piece: Piece) -> Runner:
    torch.backends.cudnn.allow_tf32 = False  # FP32 is FP32: by default, convolutions are not
    with _refusals(side):
        module = baseline_module(workload, piece).to(side.device)
    if side.backend == "torch.compile":
        module.compile()
    arrays = [torch.from_numpy(array) for array in side.inputs(workload, piece).values()]
    names = list(contract.outputs(baseline_info(workload, piece)))
    clock = _GPUClock() if side.device == "cuda" else None

    @torch.inference_mode()
    def run() -> dict[str, np.ndarray]:
        with _refusals(side):
            on_device = [array.to(side.device) for array in arrays]
            results = clock.time(lambda: module(*on_device)) if clock else module(*on_device)
        results = results if isinstance(results, tuple) else (results,)
        return {name: result.cpu().numpy() for name, result in zip(names, results)}

    # The weights are shared with later pieces, but a gigabyte is too much beside another side.
    return Runner(run, clock.seconds if clock else no_device_time, seeded_checkpoint.cache_clear)


@contextlib.contextmanager
def _any_graph() -> Iterator[None]:
    """Open what is no engine with psp_runtime's sessions: they refuse other inputs and outputs than an engine's."""
    with contextlib.ExitStack() as stack:
        for module in (onnx_session, openvino_session, tensorrt_session):
            stack.enter_context(mock.patch.object(module, "check_graph", lambda *_: None))
        yield


@contextlib.contextmanager
def _refusals(side: Side) -> Iterator[None]:
    """Too little memory, or nothing that compiles, is a `PspError`: other sides may still run."""
    try:
        yield
    except RuntimeError as error:
        words = str(error).strip() or type(error).__name__
        raise PspError(f"{side.name}: {words.splitlines()[0]}") from error


class _GPUClock:
    """Events around what runs on the GPU; the copies to and from it are outside."""

    def __init__(self) -> None:
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def time(self, run: Callable):
        self.start.record()
        result = run()
        self.end.record()
        return result

    def seconds(self) -> float:
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1e3


def _open_engine(side: Side, workload: Workload, piece: Piece) -> Runner:
    if side.quantised_by_others:
        run, computed = RUN_IN[side.backend](side.engine(workload, piece))
        arrays = side.inputs(workload, piece)
        return Runner(lambda: run(arrays), no_device_time, lambda: None, computed)
    return session_runner(side.session(workload, piece), side.inputs(workload, piece))


def open_file(path: Path, device: str, arrays: dict[str, np.ndarray]) -> Runner:
    """An engine file in psp_runtime. Raises `PspError` when it cannot run on this very device."""
    return session_runner(open_session(path, device), arrays)


def session_runner(session: Session, arrays: dict[str, np.ndarray]) -> Runner:
    """An open session with the inputs it shall run on."""
    plan = isinstance(session, TensorRTSession)
    seconds = (lambda: session.last_ms / 1e3) if plan else no_device_time
    return Runner(lambda: session.run(arrays), seconds, session.close, session.precision)


def no_device_time() -> None:
    """On a CPU there is no other time than the host's; ONNX Runtime does not tell the GPU's."""


_OPENERS = {
    "torch": _open_torch,
    "torch.compile": _open_torch,
    "onnxruntime": _open_engine,
    "tensorrt": _open_engine,
    "openvino": _open_engine,
}
