"""Batches of psp-serve, without a server: who is computed together, and what happens when an engine does not answer."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from psp_runtime.errors import EngineError
from psp_runtime.serving import batching
from psp_runtime.serving.batching import Batcher
from psp_runtime.serving.bodies import Refused

Arrays = dict[str, np.ndarray]


class Engine:
    """Doubles x, and remembers its batches; `trouble` is called first."""

    def __init__(self, trouble: Callable[[], None] = lambda: None) -> None:
        self.batches: list[list[int]] = []
        self.trouble = trouble

    def __call__(self, inputs: Arrays) -> Arrays:
        self.batches.append(inputs["x"].tolist())
        self.trouble()
        return {"y": 2 * inputs["x"]}


def numbers(*values: int) -> Arrays:
    return {"x": np.array(values)}


def with_loop(batcher: Batcher, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `work` while the batcher does."""

    async def both() -> Any:
        loop = asyncio.ensure_future(batcher.loop())
        try:
            return await work()
        finally:
            loop.cancel()

    return asyncio.run(asyncio.wait_for(both(), 20))


def test_requests_in_their_order_as_many_as_fit() -> None:
    engine = Engine()
    batcher = Batcher(engine, 4, 1, 0.05)
    asked = [(1,), (2, 3), (4, 5), (6,), (7, 8, 9, 10, 11), (12,)]

    async def ask() -> list[Arrays]:
        return await asyncio.gather(*(batcher.run(numbers(*one)) for one in asked))

    answers = with_loop(batcher, ask)
    assert [one["y"].tolist() for one in answers] == [[2 * x for x in one] for one in asked]
    assert engine.batches == [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11], [12]]


def test_a_full_batch_does_not_wait() -> None:
    batcher = Batcher(Engine(), 2, 1, 30.0)
    started = time.monotonic()

    async def ask() -> None:
        await asyncio.gather(*(batcher.run(numbers(one)) for one in range(6)))

    with_loop(batcher, ask)
    assert time.monotonic() - started < 10


def test_two_batches_at_once() -> None:
    """Each waits for the other."""
    meet = threading.Barrier(2, timeout=10)
    batcher = Batcher(Engine(lambda: meet.wait() and None), 1, 2, 0.0)

    async def ask() -> None:
        await asyncio.gather(*(batcher.run(numbers(one)) for one in range(4)))

    with_loop(batcher, ask)


def test_nothing_is_computed_for_callers_who_have_left() -> None:
    go = threading.Event()
    engine = Engine(lambda: go.wait(10) and None)
    batcher = Batcher(engine, 1, 1, 0.0)

    async def ask() -> None:
        first, second, third = (asyncio.ensure_future(batcher.run(numbers(one))) for one in (1, 2, 3))
        await asyncio.sleep(0.1)
        second.cancel()
        go.set()
        assert [(await one)["y"].tolist() for one in (first, third)] == [[2], [6]]

    with_loop(batcher, ask)
    assert engine.batches == [[1], [3]]


def test_a_hung_engine_is_told_and_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(Batcher, "hung", 0.2)
    batcher = Batcher(Engine(lambda: over.wait(10) and None), 1, 1, 0.0)

    async def ask() -> None:
        with pytest.raises(Refused, match="has not answered for 0.2 s") as caught:
            await batcher.run(numbers(1))
        assert caught.value.status == 503 and batcher.broken
        with pytest.raises(Refused, match="does not answer"):
            await batcher.run(numbers(2))
        assert not await batcher.works(numbers(0))
        over.set()

    with_loop(batcher, ask)


def test_failures_in_a_row_break_it_and_others_do_not() -> None:
    fails = iter([True, True, False, True, True, True])

    def trouble() -> None:
        if next(fails):
            raise EngineError("out of memory")

    batcher = Batcher(Engine(trouble), 1, 1, 0.0)

    async def ask() -> None:
        broken = []
        for _ in range(6):
            with suppress(EngineError):
                await batcher.run(numbers(1))
            broken.append(batcher.broken)
        assert broken == [False] * 5 + [True]

    with_loop(batcher, ask)


def test_ready_means_that_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has succeeded counts for a while; later, and after a failure, the engine is tried, once for all."""
    fails = iter([False, True, True, False, False])

    def trouble() -> None:
        if next(fails):
            raise EngineError("the GPU is gone")

    engine = Engine(trouble)
    batcher = Batcher(engine, 1, 1, 0.0)

    async def ask() -> None:
        assert await batcher.works(numbers(0)) and await batcher.works(numbers(0))
        assert len(engine.batches) == 1
        with pytest.raises(EngineError):
            await batcher.run(numbers(1))
        assert not any(await asyncio.gather(*(batcher.works(numbers(0)) for _ in range(5))))
        assert len(engine.batches) == 3
        assert await batcher.works(numbers(0))
        monkeypatch.setattr(batching, "FRESH", 0.0)
        assert await batcher.works(numbers(0)) and len(engine.batches) == 5

    with_loop(batcher, ask)


def test_an_engine_that_is_busy_for_long_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(batching, "PROOF", 0.1)
    batcher = Batcher(Engine(lambda: over.wait(10) and None), 1, 1, 0.0)

    async def ask() -> None:
        assert not await batcher.works(numbers(0))
        over.set()
        await asyncio.sleep(0.1)
        assert await batcher.works(numbers(0))

    with_loop(batcher, ask)
