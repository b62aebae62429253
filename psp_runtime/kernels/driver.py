"""The CUDA driver through ctypes: load the compiled kernels into a context and launch them on a stream.

No torch, no pycuda: contexts, streams and memory are the caller's. The driver compiles the PTX for its card, once,
and keeps the result in its own cache. Where it cannot (too old for this PTX, or a card older than it), NVRTC is
looked for (`psp_runtime.kernels.ptx`).
"""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

from psp_runtime.errors import DeviceError
from psp_runtime.kernels import ptx
from psp_runtime.kernels.launches import Launch

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76

_lock = threading.Lock()
_functions: dict[tuple[int, str, str, str], ctypes.c_void_p] = {}
_modules: dict[tuple[int, str, str], ctypes.c_void_p] = {}


def launch(what: Launch | None, stream: int) -> None:
    """Queue a kernel on a stream (its handle, 0 the default one) of the current context; None is nothing to do.

    Raises `DeviceError` when it cannot be loaded or launched.
    """
    if what is None:
        return
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(what.params))
    function = _function(what.source, what.dtype, what.kernel)
    code = _driver().cuLaunchKernel(
        *(function, what.grid, 1, 1, what.block, 1, 1, 0, ctypes.c_void_p(stream), arguments, None)
    )
    _check(code, f"launching {what.kernel}")


@contextlib.contextmanager
def primary_context(device: int) -> Iterator[None]:
    """Make the primary context of a GPU, the one torch and the CUDA runtime use, current in this thread."""
    driver = _driver()
    _check(driver.cuCtxPushCurrent_v2(_primary(device)), "entering the GPU's context")
    try:
        yield
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def prepare(source: str, dtype: str) -> None:
    """Load the kernels of a source into the current context. Raises `DeviceError` when they cannot be loaded."""
    _module(_context(), source, dtype)


@functools.cache
def _driver() -> Any:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        driver = None
    if driver is None or driver.cuInit(0) != 0:
        raise DeviceError("the CUDA kernels need an NVIDIA GPU and its driver: none was found")
    if not hasattr(driver, "cuCtxGetId"):
        raise DeviceError("the CUDA kernels need a driver of CUDA 12 (525) or newer: update the NVIDIA driver")
    return driver


@functools.cache
def _primary(device: int) -> ctypes.c_void_p:
    """Retained and never released: it lives as long as the process, like torch's."""
    context = ctypes.c_void_p()
    _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), device), f"opening GPU {device}")
    return context


def _context() -> int:
    """Number the current context with one that no other gets, also not after it is gone (its address may be reused)."""
    number = ctypes.c_ulonglong()
    _check(_driver().cuCtxGetId(None, ctypes.byref(number)), "looking for the current CUDA context")
    return number.value


def _function(source: str, dtype: str, kernel: str) -> ctypes.c_void_p:
    key = (_context(), source, dtype, kernel)
    if key not in _functions:
        function, module = ctypes.c_void_p(), _module(*key[:3])
        _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, kernel.encode()), f"finding {kernel}")
        _functions[key] = function
    return _functions[key]


def _module(context: int, source: str, dtype: str) -> ctypes.c_void_p:
    with _lock:
        key = (context, source, dtype)
        if key not in _modules:
            _modules[key] = _load(source, dtype)
        return _modules[key]


def _load(source: str, dtype: str) -> ctypes.c_void_p:
    """Load the committed PTX or, where the driver refuses that, what NVRTC makes for this very card."""
    module = ctypes.c_void_p()
    code = _driver().cuModuleLoadData(ctypes.byref(module), ptx.path(source, dtype).read_bytes() + b"\0")
    if code == 0:
        return module
    refused = f"the driver refuses {ptx.path(source, dtype).name} ({_words(code)})"
    try:
        image = ptx.compile_source(source, dtype, f"sm_{_capability()}", ptx.find_nvrtc())
    except DeviceError as error:
        raise DeviceError(f"{refused}, and {error}; update the NVIDIA driver") from None
    _check(_driver().cuModuleLoadData(ctypes.byref(module), image), f"loading {source} as NVRTC compiled it")
    return module


def _capability() -> int:
    """Compute capability of the current context's card: 75 for 7.5."""
    device, major, minor = (ctypes.c_int() for _ in range(3))
    _check(_driver().cuCtxGetDevice(ctypes.byref(device)), "asking for the current GPU")
    for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
        _check(_driver().cuDeviceGetAttribute(ctypes.byref(value), attribute, device), "asking for its capability")
    return 10 * major.value + minor.value


def _check(code: int, doing: str) -> None:
    if code != 0:
        raise DeviceError(f"{doing} failed: {_words(code)}")


def _words(code: int) -> str:
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(code, ctypes.byref(text))
    return f"CUDA error {code}: {(text.value or b'unknown').decode()}"
