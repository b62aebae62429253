"""A real plan of the tiny engine, by whichever TensorRT is installed; needs no PyTorch."""

from pathlib import Path

import pytest
from tiny_engines import write_onnx

from psp_export.plans.build import RTX, build_plan, choose_flavour
from psp_runtime.engines import devices
from psp_runtime.engines.devices import gpu_name
from psp_runtime.engines.tensorrt.session import PLAN_MODULES


def tiny_plan(folder: Path) -> Path:
    """Build psp.trt in a folder, beside its ONNX file; skip the test where no TensorRT is installed."""
    flavour = choose_flavour() or next(filter(devices.importable, PLAN_MODULES.values()), None)
    if flavour is None:
        pytest.skip("needs tensorrt or tensorrt_rtx")
    build_plan(write_onnx(folder / "psp.onnx"), folder / "psp.trt", flavour)
    return folder / "psp.trt"


def need_plans_that_run() -> None:
    """Skip the test where what is installed can build no plan that this GPU runs."""
    flavour = choose_flavour()
    if flavour is None:
        pytest.skip("needs tensorrt or tensorrt_rtx")
    if not devices.importable("pycuda.driver"):
        pytest.skip("needs pycuda: pip install '.[tensorrt]'")
    if flavour == RTX and "capability 9.0" in gpu_name():
        pytest.skip("TensorRT-RTX is not made for compute capability 9.0")
