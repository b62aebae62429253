"""Which file an engine's name means, where the file of that name is not there."""

import warnings
from pathlib import Path

from psp_runtime.errors import EngineError

#: Endings of plans, by whoever built them.
PLANS = (".trt", ".plan", ".engine")


def find_engine(path: Path, device: str = "auto") -> Path:
    """Find the engine itself or, for a plan that is not there, the .onnx of its name, with a warning.

    Not with device "cuda", as for a plan that cannot run. Raises `EngineError` that names an engine beside it; a name
    beside which there is none is given back as it is.
    """
    if path.is_file() or not path.name:
        return path
    onnx, *plans = (path.with_suffix(ending) for ending in (".onnx", *PLANS))
    if onnx.is_file() and path.suffix.lower() in PLANS and device != "cuda":
        warnings.warn(f"there is no {path}: taking {onnx.name} beside it instead", stacklevel=2)
        return onnx
    beside = next((one for one in (onnx, *plans) if one.is_file()), None)
    if beside:
        raise EngineError(f"no engine at {path}, but there is {beside.name} beside it: give that one")
    return path
