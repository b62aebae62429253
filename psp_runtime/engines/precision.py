"""What an .onnx engine computes in on a CPU, and which library runs it.

ONNX Runtime opens an engine sooner and computes in FP32, of INT8 engines in INT8. OpenVINO runs it faster, and in bf16
where the CPU multiplies bf16: half the bits, the range of FP32, 8 bits of precision. So bf16 is what an FP16 engine,
which is half precision already, is run in; an FP32 engine only where it is asked for.
"""

import functools
import importlib.util
import os
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from psp_runtime.engines.devices import cpu_flags
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.libraries import import_openvino
from psp_runtime.errors import EngineError

#: What an engine shall compute in, as a value of --precision.
Precision = Literal["auto", "fp32", "bf16", "int8"]

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"


class Choice(NamedTuple):
    """What runs an engine on a CPU, and what it computes in: "fp32", "bf16" or "int8"."""

    library: str
    precision: str


class Cost(NamedTuple):
    """Seconds to open an engine, what is kept of it on disk included, and to run it once."""

    opening: float
    run: float


#: Seconds of the published model at 1024² on two cores; what counts is how many runs make up for a slower start.
#: Runs: AMD EPYC (Zen 4), medians of turns, INT8's of a prototype; FP32 in OpenVINO gains least there of all machines
#: measured, so that none changes too soon. Opening, with what is kept on disk: estimates, OpenVINO's from 4 s of CPU
#: time on two busy cores of an AMD EPYC (Zen 3), bf16's taken to be FP32's, INT8's from the size of its file; so is the
#: run of INT8 in ONNX Runtime, which was slower than its FP32 (0.82 to 0.85). docs/speed.md has what was measured.
COSTS = {
    Choice(ONNX_RUNTIME, "fp32"): Cost(0.1, 1.88),
    Choice(ONNX_RUNTIME, "int8"): Cost(0.1, 2.25),
    Choice(OPENVINO, "fp32"): Cost(3.0, 1.73),
    Choice(OPENVINO, "bf16"): Cost(3.0, 0.79),
    Choice(OPENVINO, "int8"): Cost(2.0, 0.50),
}

#: PSNR in dB that an FP16 engine must have reached in bf16, where its export measured that, to run so by itself.
BF16_GATES = {"bf16_mean": 50.0, "bf16_worst": 45.0}

#: What a CPU has that multiplies in a precision faster than in FP32, by the flags of /proc/cpuinfo.
INSTRUCTIONS = {
    "bf16": {"avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16"},
    "int8": {"avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "amx_int8": "AMX INT8"},
}


def choose(path: Path, info: EngineInfo, asked: Precision = "auto", runs: int | None = None) -> Choice:
    """Choose for an engine that runs `runs` times on this CPU, or an unknown number of times: then the quickest run.

    PSP_CPU=onnxruntime or PSP_CPU=openvino in the environment allows that library only.
    Raises `EngineError`, which says what is in the way, where what is asked for cannot be done.
    """
    check_stored(path, info, asked)
    libraries, precisions = _libraries(info), _precisions(info, asked)
    best = _quickest(libraries, precisions, runs)
    if best is not None and best.precision == "bf16" and lacks_bf16():  # asked last: OpenVINO is imported for it
        best = _quickest(libraries, [one for one in precisions if one != "bf16"], runs)
    if best is None:
        raise EngineError(f"{path} cannot run in {asked}: {_obstacle(libraries, info)}")
    return best


def check_stored(path: Path, info: EngineInfo, asked: Precision) -> None:
    """Raise `EngineError` for a precision that the numbers in an engine's file do not allow anywhere."""
    if asked == "int8" and info.precision != "int8":
        raise EngineError(
            f"{path} is an {info.precision.upper()} engine and has no INT8 form: make one with "
            "psp export --int8 --calibrate FOLDER"
        )
    if asked in ("fp32", "bf16") and info.precision == "int8":
        raise EngineError(f"{path} is an INT8 engine and cannot run in {asked}: export the model without --int8")


def check_on_gpu(path: Path, info: EngineInfo, asked: Precision) -> None:
    """Raise `EngineError` for another precision than that of an engine's file, in which a GPU computes."""
    check_stored(path, info, asked)
    if asked == "bf16":
        raise EngineError(f"{path} runs on the GPU, and bf16 is for CPUs: leave out --precision, or add --device cpu")
    if asked == "fp32" and info.precision == "fp16":
        raise EngineError(
            f"{path} is an FP16 engine, which a GPU runs in FP16: export it with --fp32, or add --device cpu"
        )


def as_asked(computed: str) -> Precision:
    """Ask of another engine what one computes in; FP16, which only a file can ask for, is as its file says."""
    return next((one for one in get_args(Precision) if one == computed), "auto")


@functools.cache
def capabilities() -> frozenset[str]:
    """List what OpenVINO can compute in on this CPU, such as FP32, BF16 and INT8; empty where it is not installed."""
    try:
        found = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ImportError, RuntimeError):  # what OpenVINO raises is a RuntimeError
        return frozenset()
    return frozenset(found)


def lacks_bf16() -> str:
    """Say what this machine lacks to compute in bf16; empty where it can."""
    if not has_openvino():
        return "OpenVINO (pip install '.[openvino]')"
    return "" if "BF16" in capabilities() else f"a CPU with {' or '.join(INSTRUCTIONS['bf16'].values())}"


def has_openvino() -> bool:
    """Tell whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def lacks_int8() -> str:
    """Say what this CPU lacks to multiply 8 bits fast, and without sums that do not fit; empty where it can, or may."""
    flags = cpu_flags()  # empty where they are not known
    known = INSTRUCTIONS["int8"]
    return f"a CPU with {' or '.join(known.values())}" if flags and not flags & known.keys() else ""


def _libraries(info: EngineInfo) -> list[str]:
    """List the libraries that may run an engine here.

    An INT8 engine is left to ONNX Runtime, which computes it exactly, where OpenVINO would be neither exact nor fast.
    So is one with custom operations, which OpenVINO does not open.
    """
    choice = os.environ.get("PSP_CPU", "")
    if choice not in ("", ONNX_RUNTIME, OPENVINO):
        raise EngineError(f"PSP_CPU={choice}: expected {ONNX_RUNTIME} or {OPENVINO}")
    if choice:
        return [choice]
    saturates = info.precision == "int8" and lacks_int8()
    openvino = has_openvino() and not saturates and not info.custom_ops
    return [ONNX_RUNTIME, OPENVINO] if openvino else [ONNX_RUNTIME]


def _precisions(info: EngineInfo, asked: Precision) -> list[str]:
    """List what an engine may be run in."""
    if asked != "auto":
        return [asked]
    if info.precision == "fp16":
        return ["bf16", "fp32"] if _bears_bf16(info) else ["fp32"]
    return ["int8"] if info.precision == "int8" else ["fp32"]


def _bears_bf16(info: EngineInfo) -> bool:
    """Tell whether an engine passed the gate of bf16; most were exported where that cannot be measured."""
    measured = info.parity or {}
    return all(measured.get(name, gate) >= gate for name, gate in BF16_GATES.items())


def _quickest(libraries: list[str], precisions: list[str], runs: int | None) -> Choice | None:
    """Find the choice that takes least for so many runs; None where no library has the precision."""
    possible = [one for one in COSTS if one.library in libraries and one.precision in precisions]
    return min(possible, key=lambda one: _seconds(COSTS[one], runs), default=None)


def _seconds(cost: Cost, runs: int | None) -> float:
    return cost.run if runs is None else cost.opening + runs * cost.run


def _obstacle(libraries: list[str], info: EngineInfo) -> str:
    """Say why bf16 cannot be had."""
    if info.custom_ops and OPENVINO not in libraries:
        return "OpenVINO does not open its custom operations: export it without --custom-ops"
    if has_openvino() and OPENVINO not in libraries:
        return f"PSP_CPU={ONNX_RUNTIME} computes in FP32: unset it, or set PSP_CPU={OPENVINO}"
    return f"this machine lacks {lacks_bf16()}"
