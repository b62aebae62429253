"""The inference libraries of ONNX engines, imported without what they report about those who use them.

ONNX Runtime (from 1.29 on Linux, earlier on Windows) sends the names of program and engine file and what the machine
is to Microsoft; `import openvino` counts users with Google Analytics. Both begin with the import, and both leave files
in the home folder. What users have set for these libraries themselves stays as they set it.
"""

import importlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

from psp_runtime.errors import EngineError

#: What ONNX Runtime reads when it is imported.
ORT_SETTING = "ORT_DISABLE_TELEMETRY"
_REPORTER = "openvino_telemetry"
_lock = threading.Lock()


def import_onnxruntime() -> Any:
    """Import the module `onnxruntime`. Raises `EngineError` where it is not installed."""
    asked = ORT_SETTING in os.environ
    os.environ.setdefault(ORT_SETTING, "1")
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(
            f"an .onnx engine needs ONNX Runtime ({error}): pip install onnxruntime, or onnxruntime-gpu for NVIDIA GPUs"
        ) from None
    if not asked and hasattr(runtime, "disable_telemetry_events"):  # Windows has events of its own
        runtime.disable_telemetry_events()
    return runtime


def import_openvino() -> Any:
    """Import the module `openvino`. Raises `ImportError` where it is not installed.

    Where its telemetry package cannot be imported it reports nothing, and it is looked for during this import alone.
    """
    with _lock:
        if _may_report() or _REPORTER in sys.modules:
            return importlib.import_module("openvino")
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
        try:
            return importlib.import_module("openvino")
        finally:
            sys.modules.pop(_REPORTER, None)


def _may_report() -> bool:
    """Tell whether this user has agreed, with OpenVINO's own `opt_in_out --opt_in`."""
    try:
        windows = sys.platform == "win32"
        base = Path(os.environ["LOCALAPPDATA"], "Intel Corporation") if windows else Path.home() / "intel"
        return (base / _REPORTER).read_text().strip() == "1"
    except (OSError, KeyError, RuntimeError):  # no answer, or no home
        return False
