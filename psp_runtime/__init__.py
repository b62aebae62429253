"""Run an exported pSp engine: pictures in, pictures out, without PyTorch.

    import psp_runtime
    with psp_runtime.load("psp.onnx") as pipeline:
        pipeline("face.png").save("face_out.png")
        faces = pipeline.mix(pipeline.prepare(["sketch.png"]), pipeline.styles(5, seed=7))  # uint8 [1,5,H,W,3]

Importing this package loads neither an inference library nor CUDA; opening an engine loads what that engine needs.
"""

from pathlib import Path

from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.errors import DeviceError, EngineError, PictureError, PspError
from psp_runtime.pipeline import Pipeline, Translation

__version__ = "0.1.0"

__all__ = [
    "DeviceError",
    "EngineError",
    "EngineInfo",
    "PictureError",
    "Pipeline",
    "PspError",
    "Translation",
    "load",
    "read_info",
]


def load(path: str | Path, device: str = "auto") -> Pipeline:
    """Open an engine file (.onnx, or a TensorRT plan) as a `Pipeline`.

    `device` is "auto" (the GPU when the engine can use it, else the CPU), "cuda" or "cpu". A plan on a machine that
    cannot run it uses the .onnx beside it, with a warning, unless `device` is "cuda".
    Raises `EngineError` for a missing, damaged, foreign or partial engine, `DeviceError` when the device is not usable.
    """
    from psp_runtime.engines.session import open_session

    return Pipeline(open_session(path, device))
