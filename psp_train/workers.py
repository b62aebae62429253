"""Provide processes that work for this one, and end when it does, also where it is killed."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext


def worker_pool(processes: int | None = None, context: BaseContext | None = None) -> ProcessPoolExecutor:
    """Make a pool of `processes` (as many as cores by default), started as `context` says, that do not outlive us."""
    return ProcessPoolExecutor(processes, context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End with the parent, for which a thread waits: a worker that waits for work does not notice its end."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
