"""What this machine has: NVIDIA GPUs, by the CUDA driver itself, and Python packages that really import."""

import ctypes
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from psp_runtime.errors import EngineError

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API.
_MAJOR, _MINOR = 75, 76

#: More than any machine has cores; a library would start them.
MOST_CPU_THREADS = 1024


def cpu_threads() -> int:
    """Threads an inference library may start on a CPU, by PSP_THREADS; 0, as many as it finds good, without it.

    Libraries count the cores of the machine, not those this process may use. Raises `EngineError` for other values.
    """
    asked = os.environ.get("PSP_THREADS", "0")
    if not asked.isdecimal() or int(asked) > MOST_CPU_THREADS:
        raise EngineError(f"PSP_THREADS={asked}: expected 0, for all cores, to {MOST_CPU_THREADS} threads")
    return int(asked)


def cpu_flags() -> frozenset[str]:
    """List the instruction sets of this CPU as Linux calls them; empty on another system."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return frozenset()


def cuda_devices() -> int:
    """Count the NVIDIA GPUs the driver offers; 0 without a driver."""
    driver, count = _cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_name() -> str:
    """Name and compute capability of the first GPU; empty without one."""
    driver = _cuda_driver()
    if driver is None or cuda_devices() == 0:
        return ""
    name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, len(name), 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, 0)
    return f"{name.value.decode()} (compute capability {major.value}.{minor.value})"


def _cuda_driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def importable(module: str) -> bool:
    """Say whether a module really imports, its shared libraries included."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError):  # OSError: a shared library the package loads itself is not there
        return False
    return True
