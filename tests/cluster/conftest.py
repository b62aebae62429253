"""A worker without Ray, for what workers make."""

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from psp_runtime.cluster import driver
from psp_runtime.cluster.worker import Task, Worker


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, in this process: how Ray starts them is for other tests, and takes longer than everything here."""

    def finished(blocks: list[Any], task: Task, crew: driver.Crew) -> Iterator[list[dict[str, Any]]]:
        worker = Worker(pickle.loads(pickle.dumps(task)))  # as on its way to another machine
        for block in blocks:
            yield worker(block).to_pylist()

    monkeypatch.setenv("PSP_THREADS", "1")  # a worker sets it for its process: here it must not stay
    monkeypatch.setattr(driver, "connected", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(driver, "_crew", lambda options: driver.Crew(actors=1, cpus=1, gpus=0))
    monkeypatch.setattr(driver, "finished", finished)
