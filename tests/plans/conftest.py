"""A GPU that is not there (tests/support/fake_gpu.py), with one version of TensorRT or each (fake_tensorrt.py)."""

from collections.abc import Callable
from pathlib import Path

import fake_tensorrt
import pytest
from fake_gpu import FakeGpu
from plan_inputs import Inputs, onnx_check
from tiny_engines import write_plan


@pytest.fixture(params=["8.6", "10", "rtx"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    return _installed(request.param, monkeypatch, tmp_path)


@pytest.fixture
def gpu86(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    return _installed("8.6", monkeypatch, tmp_path)


@pytest.fixture
def gpu10(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    return _installed("10", monkeypatch, tmp_path)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    return _installed("rtx", monkeypatch, tmp_path)


def _installed(flavour: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    monkeypatch.setenv("PSP_CACHE", str(tmp_path / "cache"))
    write_plan(tmp_path / "psp.trt", backend="tensorrt_rtx" if flavour == "rtx" else "tensorrt")
    return fake_tensorrt.install(monkeypatch, flavour)


@pytest.fixture
def reference(tmp_path: Path) -> Callable[[Inputs, Inputs], None]:
    """Compare the outputs of a plan with those of the ONNX file in ONNX Runtime."""
    return onnx_check(tmp_path)
