"""Work ahead of an engine: pictures are decoded and encoded in threads while it runs, and failures keep their place."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

from psp_runtime.errors import PictureError


def cores() -> int:
    """CPU cores this process may use: fewer than the machine has under taskset and in most batch systems."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: More threads than this get in each other's way.
MOST_THREADS = 64
#: Threads that decode pictures while the engine runs, and as many that encode: encoding limits a GPU.
THREADS = min(MOST_THREADS, cores())

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stage:
    """One stage of a run, and the time its `threads` threads have worked: `seconds`, all of them together."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self.name, self.threads, self.seconds = name, threads, 0.0
        self._lock = threading.Lock()

    def timed(self, function: Callable[[Item], Result]) -> Callable[[Item], Result]:
        """Return the same function, its time added to this stage."""

        def call(item: Item) -> Result:
            started = time.perf_counter()
            try:
                return function(item)
            finally:
                with self._lock:
                    self.seconds += time.perf_counter() - started

        return call

    def busy(self, elapsed: float) -> float:
        """Return the share of the elapsed seconds its threads worked, 0 to 1: near 1, others wait for this stage."""
        return self.seconds / (elapsed * self.threads)


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, prefetch: int
) -> Generator[Result, None, None]:
    """`map` in threads, in order, taking at most `prefetch` items before their results are asked for."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def map_batches(
    function: Callable[[list[Item]], Iterable[Result]],
    items: Iterable[Item | PictureError],
    batch: int,
    at_once: int = 1,
) -> Iterator[Result | PictureError]:
    """`function` over `batch` items at a time, in `at_once` threads: a GPU takes one batch while it gives one back.

    A `PictureError` among the items is given back in its place.
    """

    def whole(chunk: list[Item | PictureError]) -> list[Result | PictureError]:
        good = [item for item in chunk if not isinstance(item, PictureError)]
        results = iter(function(good)) if good else iter(())
        return [item if isinstance(item, PictureError) else next(results) for item in chunk]

    items = iter(items)
    chunks = iter(lambda: list(islice(items, batch)), [])
    with closing(parallel_map(whole, chunks, at_once, at_once)) as done:
        for results in done:
            yield from results
