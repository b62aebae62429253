"""Ctrl-C while TensorRT works.

Its C++ calls us back, to log for example, and Python handles signals where a callback begins: a KeyboardInterrupt
raised there is lost in C++, or ends the process.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_noted() -> Iterator[threading.Event]:
    """Ctrl-C sets the event only; its own handler, which raises `KeyboardInterrupt` as a rule, is called at the end.

    Only the main thread handles signals: in others this does nothing.
    """
    came = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    # Who ignores Ctrl-C (nohup) still does.
    mine = threading.current_thread() is threading.main_thread() and callable(before)
    if mine:
        signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield came
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)
        if came.is_set() and callable(before):
            before(signal.SIGINT, None)
