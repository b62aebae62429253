"""A progress bar with speed and time left; plain lines where the output is not a terminal."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from psp_runtime import console

#: Seconds between two lines of a log file.
LINE_INTERVAL = 30.0


class Progress:
    """`with Progress("training", 1000) as progress: progress.advance(text="loss 0.12")`, on stderr.

    `total` steps, of which some may be `done`; the speed is in `unit`s per second, `per_step` of them in a step.
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "", per_step: float = 1.0) -> None:
        self.title, self.total, self.done, self.unit, self.per_step = title, total, done, unit, per_step
        self.first, self.start, self.shown = done, time.monotonic(), time.monotonic()
        self.bar = _bar() if sys.stderr.isatty() and console.shows_progress() else None
        self.task = self.bar.add_task(title, total=total, completed=done, text="") if self.bar else None

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None:
            self._line("")

    def advance(self, text: str = "") -> None:
        """Go one step further; `text` stands beside the speed."""
        self.done += 1
        text = f"{self.speed():.1f} {self.unit}/s  {text}" if self.unit else text
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.done, text=text)
        elif time.monotonic() - self.shown > LINE_INTERVAL:
            self.shown = time.monotonic()
            self._line(text)

    def speed(self) -> float:
        """Return units per second since the start."""
        return (self.done - self.first) * self.per_step / max(time.monotonic() - self.start, 1e-9)

    def _line(self, text: str) -> None:
        if not console.shows_progress():
            return
        passed, steps = time.monotonic() - self.start, self.done - self.first
        left = passed / steps * (self.total - self.done) if steps else 0.0
        print(f"{self.title} {self.done}/{self.total}  {passed:.0f} s, {left:.0f} s left  {text}", file=sys.stderr)


def _bar() -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, TextColumn("{task.fields[text]}"), console=_stderr())


def _stderr():
    from rich.console import Console

    return Console(stderr=True)
