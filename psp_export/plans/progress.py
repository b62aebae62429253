"""Tell what TensorRT does while it builds a plan, which can take minutes, and end the build at Ctrl-C."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Tell = Callable[[str], object]

#: Seconds between two messages: some phases have thousands of steps in a moment.
PAUSE = 0.1


@contextmanager
def watched(trt: Any, config: Any, logger: Any, tell: Tell, interrupted: threading.Event) -> Iterator[None]:
    """Tell phase and step of a build in this context, and end it at the next step after Ctrl-C (`interrupts_noted`).

    TensorRT 8.6 has no progress monitor: some of what it logs is told, and Ctrl-C waits for the end of the build.
    """
    if has_monitor(trt):
        config.progress_monitor = _monitor(trt, tell, interrupted)
        yield
    else:
        with _heard(logger, _Seldom(tell)):
            yield


def has_monitor(trt: Any) -> bool:
    """Tell whether this TensorRT says how far a build is: since 10, and RTX."""
    return hasattr(trt, "IProgressMonitor")


@contextmanager
def _heard(logger: Any, tell: Tell) -> Iterator[None]:
    """Tell what is logged, only for now: the logger is that of all that comes later too."""
    before, logger.hear = logger.hear, lambda message: tell(" ".join(message.strip("- \n").split()))
    try:
        yield
    finally:
        logger.hear = before


class _Seldom:
    """A `tell` that passes on what it is called with, unless it did so a moment ago."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.told = tell, -math.inf

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.told >= PAUSE:
            self.told = time.monotonic()
            self.tell(text)


def _monitor(trt: Any, tell: Tell, interrupted: threading.Event) -> Any:
    """Make a progress monitor; TensorRT may call it from threads of its own."""

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
