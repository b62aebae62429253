"""What an installation needs and what an import costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_running_engines_needs_four_packages():
    """NumPy, Pillow, typer, and an ONNX Runtime by choice of extra."""
    dependencies = re.search(r"^dependencies = \[(.*)\]", PYPROJECT, re.M).group(1)
    assert re.findall(r'"([a-z-]+)', dependencies) == ["numpy", "pillow", "typer"]
    assert re.search(r'^cpu = \["onnxruntime>=', PYPROJECT, re.M)
    assert re.search(r'^gpu = \["onnxruntime-gpu>=', PYPROJECT, re.M)


@pytest.mark.parametrize("module", ["psp_runtime", "psp_runtime.cli", "psp_runtime.engines.session", "psp_export.cli"])
def test_imports_stay_light(module):
    """The tools start without PyTorch, ONNX Runtime or CUDA; even `psp-export --help` does."""
    heavy = "{'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'pycuda', 'safetensors'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_imports_point_one_way():
    """psp_runtime <- psp_train <- psp_export."""
    forbidden = {"psp_runtime": ("psp_train", "psp_export", "torch"), "psp_train": ("psp_export", "onnx")}
    for package, names in forbidden.items():
        for file in (ROOT / package).rglob("*.py"):
            for name in names:
                assert not re.search(rf"^\s*(import|from) {name}\b", file.read_text(), re.M), (file, name)


def test_every_runtime_dependency_is_pinned_for_the_tests():
    pins = (ROOT / "constraints.txt").read_text().lower()
    for name in ("numpy", "pillow", "typer", "onnxruntime", "torch", "onnx", "safetensors", "pytest", "ruff", "mypy"):
        assert re.search(rf"^{name}==", pins, re.M), name
