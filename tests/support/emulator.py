"""The CUDA kernels on a CPU: tests/support/emulator.cpp around the sources, compiled with g++ once for a process and
those it starts."""

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from psp_runtime.kernels import ptx
from psp_runtime.kernels.launches import Launch

PARAMS = {"upfirdn2d": "Upfirdn2d", "fused_bias_leaky_relu": "BiasLeakyReLU"}

#: Names the folder in the environment.
FOLDER = "EMULATED_KERNELS"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to emulate the kernels with")


def run(launch: Launch) -> None:
    """Run every thread of a launch; the addresses in it are those of NumPy arrays or CPU tensors."""
    library = _library(launch.source, launch.dtype)
    kernel = ctypes.cast(getattr(library, launch.kernel), ctypes.c_void_p)
    library.launch(kernel, launch.grid, launch.block, ctypes.byref(launch.params))


@functools.cache
def _library(source: str, dtype: str) -> ctypes.CDLL:
    target = _folder() / f"{source}_{dtype}.so"
    if not target.exists():
        macros = [f'-DSOURCE="{source}.cu"', f"-DPARAMS={PARAMS[source]}", f"-DELEMENT={ptx.ELEMENTS[dtype]}"]
        emulator = Path(__file__).with_name("emulator.cpp")
        subprocess.run(
            ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", *macros, f"-I{ptx.FOLDER}", "-o", target, emulator],
            check=True,
        )
    return ctypes.CDLL(str(target))


def _folder() -> Path:
    """Where compiled kernels lie until the end of the first process that asks; those it starts find them."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, os.environ[FOLDER])
    return Path(os.environ[FOLDER])
