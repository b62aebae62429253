"""What TensorRT does while it builds a plan, which can take minutes, and how Ctrl-C ends it."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Tell = Callable[[str], object]

#: Seconds between two messages: some phases have thousands of steps in a moment.
PAUSE = 0.1


@contextmanager
def watched(trt: Any, config: Any, logger: Any, tell: Tell) -> Iterator[None]:
    """Around a build: tell its phase and step, and end it at the next step after Ctrl-C, with KeyboardInterrupt.

    TensorRT 8.6 has no progress monitor: some of what it logs is told, and Ctrl-C waits for the end of the build.
    """
    with _interrupts_noted() as interrupted:
        if has_monitor(trt):
            config.progress_monitor = _monitor(trt, tell, interrupted)
            yield
        else:
            with _heard(logger, _Seldom(tell)):
                yield


def has_monitor(trt: Any) -> bool:
    """Whether this TensorRT says how far a build is: since 10, and RTX."""
    return hasattr(trt, "IProgressMonitor")


@contextmanager
def _heard(logger: Any, tell: Tell) -> Iterator[None]:
    """Tell what is logged, only for now: TensorRT keeps its first logger for all that comes later."""
    before, logger.hear = logger.hear, lambda message: tell(" ".join(message.strip("- \n").split()))
    try:
        yield
    finally:
        logger.hear = before


class _Seldom:
    """Tells what it is called with, unless it did so a moment ago."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.told = tell, -math.inf

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.told >= PAUSE:
            self.told = time.monotonic()
            self.tell(text)


@contextmanager
def _interrupts_noted() -> Iterator[threading.Event]:
    """Ctrl-C sets an event, and is raised at the end: inside a callback it would be raised through TensorRT's C++."""
    came = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread may set handlers, and who ignores Ctrl-C (nohup) still does.
    mine = threading.current_thread() is threading.main_thread() and callable(before)
    if mine:
        signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield came
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)
        if came.is_set():
            raise KeyboardInterrupt


def _monitor(trt: Any, tell: Tell, interrupted: threading.Event) -> Any:
    """A progress monitor; TensorRT may call it from threads of its own."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.seldom = _Seldom(tell)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            tell(phase)  # always: its first step may be the long one

        def step_complete(self, phase: str, step: int) -> bool:
            self.seldom(f"{phase}, {step + 1} of {self.steps.get(phase, step + 1)}")
            return not interrupted.is_set()

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()
