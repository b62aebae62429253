"""Work ahead of an engine: pictures are decoded and encoded in threads while it runs, and failures keep their place."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from psp_runtime.errors import PictureError

#: Threads that decode and encode pictures while the engine runs.
THREADS = min(4, os.cpu_count() or 1)

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """`map` in threads, in order, taking at most `ahead` items before their results are asked for."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def map_batches(
    function: Callable[[list[Item]], Iterable[Result]], items: Iterable[Item | PictureError], batch: int
) -> Iterator[Result | PictureError]:
    """`function` over `batch` items at a time; a `PictureError` among the items is given back in its place."""
    items = iter(items)
    while chunk := list(islice(items, batch)):
        good = [item for item in chunk if not isinstance(item, PictureError)]
        results = iter(function(good)) if good else iter(())
        for item in chunk:
            yield item if isinstance(item, PictureError) else next(results)
