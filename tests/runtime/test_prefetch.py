"""Stages of a run: the time their threads worked, and its share of all there was."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from psp_runtime.errors import PictureError
from psp_runtime.prefetch import Stage, cores, map_batches


def test_a_stage_adds_up_what_its_threads_did() -> None:
    stage, together = Stage("decode", 3), threading.Barrier(3)

    def work(item: int) -> int:
        together.wait(5)  # all three at once, or this fails
        time.sleep(0.05)
        return item + 1

    started = time.perf_counter()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(stage.timed(work), range(3))) == [1, 2, 3]
    elapsed = time.perf_counter() - started
    assert 0.15 <= stage.seconds <= 3 * elapsed
    assert stage.busy(elapsed) == stage.seconds / (3 * elapsed) and stage.busy(2 * stage.seconds) == pytest.approx(
        1 / 6
    )


def test_time_that_ended_in_an_error_counts() -> None:
    stage = Stage("encode")

    def fail(_: int) -> None:
        time.sleep(0.02)
        raise ValueError

    with pytest.raises(ValueError):
        stage.timed(fail)(0)
    assert stage.seconds >= 0.02


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes to cores")
def test_threads_are_those_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_two_batches_are_made_at_once_and_stay_in_order() -> None:
    together, error = threading.Barrier(2, timeout=10), PictureError("broken")

    def both(batch: list[int]) -> list[int]:
        together.wait()  # breaks where the batches come one after the other
        return [10 * item for item in batch]

    found = list(map_batches(both, [1, 2, error, 3, 4, 5, 6, 7], 2, at_once=2))
    assert found == [10, 20, error, 30, 40, 50, 60, 70]
