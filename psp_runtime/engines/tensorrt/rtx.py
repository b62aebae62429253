"""TensorRT-RTX compiles its kernels on the GPU it meets: when, how, and where they are kept until the next start."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

from psp_runtime.disk import cache_folder, replacing
from psp_runtime.errors import PspError


def runtime_config(trt: Any, engine: Any, cuda_graphs: bool) -> Any:
    """Configure contexts of an RTX engine: kernels are made for each shape before its first run, then CUDA graphs."""
    config = engine.create_runtime_config()
    # By default fallback kernels run until better ones are compiled in the background: the same input would give
    # other bits a second later.
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    if cuda_graphs and hasattr(trt, "CudaGraphStrategy"):  # since 1.2
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config


class CompiledKernels:
    """The kernels compiled for one plan on one kind of GPU, kept in a file from start to start.

    TensorRT-RTX itself refuses a file of another version, GPU or driver: then they are compiled again. Without a path
    nothing is kept.
    """

    def __init__(self, config: Any, path: Path | None) -> None:
        self._path = path
        self._cache = config.create_runtime_cache()
        self._batches: set[int] = set()
        kernels = path.read_bytes() if path and path.is_file() else b""
        self._kept = len(kernels) if kernels and self._cache.deserialize(kernels) else 0
        config.set_runtime_cache(self._cache)

    def ran(self, batch: int) -> None:
        """Keep what the first run of a batch size had compiled. Where that cannot be written, a warning says so."""
        if self._path is None or batch in self._batches:
            return
        self._batches.add(batch)
        kernels = bytes(self._cache.serialize())
        if len(kernels) == self._kept:
            return
        self._kept = len(kernels)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.write(kernels)
        except (OSError, PspError) as error:
            warnings.warn(f"compiled kernels are not kept, the next start will be slow: {error}", stacklevel=2)


def kernel_file(plan: bytes, version: str, gpu: str) -> Path | None:
    """Say where the compiled kernels of a plan are kept, for a version of TensorRT-RTX and a GPU; None for nowhere."""
    folder = cache_folder()
    if folder is None:
        return None
    key = hashlib.sha256(plan)
    key.update(f" {version} {gpu}".encode())
    return folder / "tensorrt_rtx" / f"{key.hexdigest()[:32]}.kernels"
