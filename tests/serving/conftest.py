"""A real psp-serve for hostile requests, and what has to hold after each of them."""

import time
from collections.abc import Iterator

import pytest
from hostile import PIXELS
from measure.server import Caller, Server
from tiny_family import write_family


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
