"""GPU tests are skipped where there is no GPU; PSP_REQUIRE_GPU=1 lets them run, and fail, anyway."""

import os

import pytest

from psp_runtime.sessions import cuda_devices


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PSP_REQUIRE_GPU") == "1" or cuda_devices():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU (PSP_REQUIRE_GPU=1 makes this a failure)"))
