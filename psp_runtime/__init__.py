"""Run an exported pSp engine: pictures in, pictures out, without PyTorch.

    import psp_runtime
    with psp_runtime.load("psp.onnx") as pipeline:
        pipeline("face.png").save("face_out.png")
        pipeline.translate_photo("holiday.jpg").save("holiday_out.jpg")  # a whole photo, its face translated
        faces = pipeline.mix(pipeline.prepare(["sketch.png"]), pipeline.styles(5, seed=7))  # uint8 [1,5,H,W,3]

Importing this package loads neither an inference library nor CUDA, and NumPy and Pillow only when a name of it is used;
opening an engine loads what that engine needs.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psp_runtime import alignment
    from psp_runtime.engines.info import EngineInfo, read_info
    from psp_runtime.engines.precision import Precision
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
    "alignment",
    "load",
    "read_info",
]

#: Where the names above are defined: commands that only print their help start without them.
_HOMES = {
    "psp_runtime.errors": ("DeviceError", "EngineError", "PictureError", "PspError"),
    "psp_runtime.engines.info": ("EngineInfo", "read_info"),
    "psp_runtime.pipeline": ("Pipeline", "Translation"),
}


def load(path: str | Path, device: str = "auto", precision: "Precision" = "auto") -> "Pipeline":
    """Open an engine file (.onnx, or a TensorRT plan) as a `Pipeline`.

    `device` is "auto" (the GPU when the engine can use it, else the CPU), "cuda" or "cpu". A plan that is not there,
    or cannot run here, uses the .onnx beside it, with a warning, unless `device` is "cuda".
    `precision` is what it shall compute in on a CPU: "fp32", "bf16" or "int8". "auto" is what the engine is made for;
    an FP16 engine runs in bf16 in OpenVINO where the CPU has it. `Pipeline.precision` says what it came to.
    Raises `EngineError` for a missing, damaged, foreign or partial engine, `DeviceError` when the device is not usable.
    """
    from psp_runtime.engines.session import open_session
    from psp_runtime.pipeline import Pipeline

    return Pipeline(open_session(path, device, precision=precision))


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "alignment":
        return import_module("psp_runtime.alignment")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
