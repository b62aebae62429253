"""Engines to serve; a real psp-serve for hostile requests, and what has to hold after each of them."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import PIXELS
from measure.server import Caller, Server
from tiny_engines import write_onnx
from tiny_family import write_family
from tiny_steps import write_steps


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engines face, seg, sr and steps; nobody writes into it."""
    folder = tmp_path_factory.mktemp("engines")
    write_family(folder, "face", parts=False)
    write_family(folder, "seg", kind="labels", parts=False)
    write_onnx(folder / "sr.onnx", task="super_resolution")
    write_steps(folder)
    return folder


@pytest.fixture(scope="session")
def engine(folder: Path) -> Path:
    return folder / "face.onnx"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An engine that is quick, with a mapping network, gives pictures of 16x16."""
    running = Server(write_family(tmp_path_factory.mktemp("engine"), parts=False), threads=1)
    yield running
    assert running.stop() == 0


@pytest.fixture
def unharmed(server: Server) -> Iterator[None]:
    """After each attack the same process makes pictures, and holds nothing of what was sent."""
    worker = server.worker
    yield
    assert Caller(server.port).infer(image=PIXELS)[0] == 200
    assert server.worker == worker
    end = time.monotonic() + 5
    while server.metric("psp_held_bytes") and time.monotonic() < end:
        time.sleep(0.05)
    assert server.metric("psp_held_bytes") == 0 == server.metric("psp_waiting_requests")
