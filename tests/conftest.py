"""GPU tests are skipped where there is no GPU; PSP_REQUIRE_GPU=1 lets them run, and fail, anyway. Those marked
`readme`, `goldens` or `long` run for minutes, and only where `-m` asks for them.

Tests keep nothing in the user's cache, report nothing, and run ONNX engines in ONNX Runtime where they do not ask for
OpenVINO.
Processes of pytest-xdist share the cores out: libraries that find one core make one thread, and do not get in each
other's way. Folders whose files take longest come first, so that no core waits for the last of them.
"""

import os
from typing import TYPE_CHECKING

import pytest

from psp_runtime.engines.devices import cuda_devices

if TYPE_CHECKING:
    from cli_runs import PspRun

#: Folders of tests in the order they are begun; then the others, whose files are short.
FIRST = ("ui", "export", "train", "cluster", "benchmarks", "serving")


def take_own_cores() -> None:
    """Of a machine with too few cores for the libraries of all test processes: every n-th core."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= count:
            os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: count])


take_own_cores()
os.environ |= {"PSP_CACHE": "off", "PSP_CPU": "onnxruntime", "ORT_DISABLE_TELEMETRY": "1"}


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-xdist from giving out the files with most tests first: they are not those that take longest."""
    config.option.loadscopereorder = False


def turn(item: pytest.Item) -> int:
    """When a test is begun, by its folder."""
    return next((n for n, folder in enumerate(FIRST) if item.nodeid.startswith(f"tests/{folder}/")), len(FIRST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=turn)
    for mark in ("readme", "goldens", "long"):
        if mark not in config.getoption("markexpr"):  # whatever else -m says
            items[:] = [item for item in items if mark not in item.keywords]
    if os.environ.get("PSP_REQUIRE_GPU") == "1" or cuda_devices():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU (PSP_REQUIRE_GPU=1 makes this a failure)"))


@pytest.fixture
def psp_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "PspRun":
    """Run psp-run in this process: exit code, stdout, stderr."""
    from cli_runs import runner  # typer is not there in every Python that tests plans

    return runner(monkeypatch, capsys)
