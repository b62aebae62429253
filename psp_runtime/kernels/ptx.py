"""The compiled kernels: where they are, what they were compiled from, and how to compile them.

    python -m psp_runtime.kernels.ptx --nvrtc libnvrtc.so.12      # `make ptx`: writes the .ptx beside the sources

The PTX is for compute capability 7.5, which every driver turns into code for its newer card, and comes from the NVRTC
of CUDA 12.1: its ISA version 8.1 is read by drivers since 2023 (530). Each file says what it was made of.
"""

import argparse
import ctypes
import hashlib
import itertools
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from psp_runtime.errors import DeviceError

FOLDER = Path(__file__).parent
SOURCES = ("upfirdn2d", "fused_bias_leaky_relu")
HEADER = "elements.cuh"
#: Element types, and what the sources call them.
ELEMENTS = {"float32": "float", "float16": "half_t", "bfloat16": "bfloat_t"}
TARGET = "compute_75"
#: No --use_fast_math: it would flush the subnormal numbers of half precision's lower end.
OPTIONS = ("--std=c++17",)
#: The newest ISA version drivers since 2023 read.
ISA = "8.1"


def path(source: str, dtype: str) -> Path:
    """Name the compiled file of a source for an element type."""
    return FOLDER / f"{source}.{dtype}.ptx"


def options(dtype: str, target: str) -> list[str]:
    """List the compiler's options; NVRTC and nvcc have these in common."""
    return [f"--gpu-architecture={target}", f"-DELEMENT={ELEMENTS[dtype]}", *OPTIONS]


def first_line(source: str, dtype: str) -> str:
    """Write what a fresh compiled file begins with: SHA-256 of header, source and options."""
    words = [(FOLDER / name).read_text() for name in (HEADER, f"{source}.cu")] + options(dtype, TARGET)
    return f"// psp-toolkit {source}.cu {hashlib.sha256(chr(0).join(words).encode()).hexdigest()}"


def compile_source(source: str, dtype: str, target: str, nvrtc: Any) -> bytes:
    """Compile one source: PTX for a target compute_XX, a cubin for sm_XX. Raises `DeviceError` with the log."""
    program = ctypes.c_void_p()
    text = (FOLDER / f"{source}.cu").read_bytes()
    header = (ctypes.c_char_p * 1)((FOLDER / HEADER).read_bytes())
    names = (ctypes.c_char_p * 1)(HEADER.encode())
    code = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, f"{source}.cu".encode(), 1, header, names)
    if code != 0:
        raise DeviceError(f"NVRTC could not start on {source}.cu: error {code}")
    words = [option.encode() for option in options(dtype, target)]
    code = nvrtc.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
    kind = "ProgramLog" if code else "PTX" if target.startswith("compute") else "CUBIN"
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if code != 0:
        raise DeviceError(f"NVRTC could not compile {source}.cu for {target}: {buffer.value.decode()}")
    return buffer.raw


def find_nvrtc() -> Any:
    """Find the NVRTC of the environment: on the loader's path, or of NVIDIA's PyPI packages. Raises `DeviceError`."""
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError("there is no NVRTC to compile them with (pip install nvidia-cuda-nvrtc, or -cu12)")


def _candidates() -> Iterable[str]:
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    if sys.platform == "win32":
        return [f"nvrtc64_{v}0_0.dll" for v in (13, 12)] + sorted(map(str, packages.rglob("nvrtc64_*0_0.dll")))
    return [f"libnvrtc.so.{v}" for v in (13, 12)] + sorted(map(str, packages.rglob("libnvrtc.so.*")))


def main() -> None:
    """Compile every source and write it beside itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nvrtc", required=True, help="the libnvrtc.so.12 of CUDA 12.1")
    nvrtc = ctypes.CDLL(parser.parse_args().nvrtc)
    for source, dtype in itertools.product(SOURCES, ELEMENTS):
        text = compile_source(source, dtype, TARGET, nvrtc).rstrip(b"\0").decode()
        if f".version {ISA}\n" not in text:
            sys.exit(
                f"this NVRTC does not write ISA {ISA}: use the one of CUDA 12.1 (nvidia-cuda-nvrtc-cu12==12.1.105)"
            )
        file = path(source, dtype)
        file.write_text(f"{first_line(source, dtype)}\n{text}")
        print(f"{file}: {file.stat().st_size / 1e3:.0f} kB, ISA {ISA}")


if __name__ == "__main__":
    main()
