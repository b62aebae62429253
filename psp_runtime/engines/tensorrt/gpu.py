"""The first NVIDIA GPU through pycuda: its context, and the errors of CUDA in our words."""

import contextlib
import importlib
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psp_runtime.errors import EngineError


class Gpu:
    """The primary context of the first GPU, retained for the engine at `path` until `release`.

    It is the context ONNX Runtime and PyTorch use: plans live beside them in one process. `cuda` is `pycuda.driver`.
    Raises `EngineError` when CUDA does not start.
    """

    def __init__(self, path: Path) -> None:
        self.cuda: Any = importlib.import_module("pycuda.driver")
        self.path, self._thread = path, threading.get_ident()
        with self.errors():
            self.cuda.init()
            self.device = self.cuda.Device(0)
            self._context = self.device.retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context that of this thread, with `errors`."""
        with self.errors():
            self._context.push()
            try:
                yield
            finally:
                self.cuda.Context.pop()

    def release(self) -> None:
        """Give the context back, everything made in it gone and not being current."""
        try:
            driver = cuda_bindings()
        except EngineError:
            self._context.detach()
            return
        before = int(driver.cuCtxGetCurrent()[1])
        self._context.detach()
        if threading.get_ident() != self._thread:
            # pycuda gives a context back in the thread that opened it, and only forgets it in others.
            driver.cuDevicePrimaryCtxRelease(0)
        elif int(driver.cuCtxGetCurrent()[1]) != before:
            # It makes a context current to detach it, and relies on that ending with it. A primary one stays current,
            # dead if nobody else holds it: what used CUDA next in this thread would fail.
            driver.cuCtxPopCurrent()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what CUDA raises inside into an `EngineError` that names the engine."""
        try:
            yield
        except self.cuda.Error as error:
            raise EngineError(f"{self.path} failed on the GPU: {error}") from error


def cuda_bindings() -> Any:
    """Import the driver calls pycuda lacks. Raises `EngineError` where the package is not installed."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise EngineError(f"{error}: pip install cuda-bindings") from error


def free_frames(error: BaseException) -> None:
    """Let go of what was half made when `error` came up: what is on the GPU must be freed before its context is."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__
