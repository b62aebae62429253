"""GPU tests are skipped where there is no GPU; PSP_REQUIRE_GPU=1 lets them run, and fail, anyway.

Tests keep nothing in the user's cache, and run ONNX engines in ONNX Runtime where they do not ask for OpenVINO.
"""

import os

import pytest

from psp_runtime.devices import cuda_devices


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PSP_REQUIRE_GPU") == "1" or cuda_devices():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU (PSP_REQUIRE_GPU=1 makes this a failure)"))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_CACHE", "off")
    monkeypatch.setenv("PSP_CPU", "onnxruntime")
