"""Runs a visitor waits for: what is being done, and the end of those he no longer wants."""

import threading
from collections.abc import Callable

#: Says to the visitor what is being done: words, the number of steps done, and that of all; None where they have none.
Told = Callable[[str, int | None, int | None], object]


class Cancelled(Exception):
    """The visitor has pressed Cancel, or asked for something else."""


class Watch:
    """One run of a visitor, from the moment he asked for it. Whoever works on it calls `step` now and then.

    `number` tells it from his other runs: what he asked for before may still be on its way, with older values.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.told: Told = lambda words, done, total: None
        self._ended, self._begun = threading.Event(), threading.Lock()
        self.replaced = False

    def begin(self, told: Told) -> bool:
        """Let `told` be called from now on; False if this run has begun before."""
        self.told = told
        return self._begun.acquire(blocking=False)

    def step(self, words: str, done: int | None = None, total: int | None = None) -> None:
        """Say what comes next. Raises `Cancelled` where nobody waits for it."""
        if self._ended.is_set():
            raise Cancelled
        self.told(words, done, total)

    def end(self, replaced: bool = False) -> None:
        """End the run at its next step; `replaced` by one that shows its own results in the same place."""
        self.replaced = self.replaced or replaced
        self._ended.set()


class Watches:
    """The last run that each visitor has asked for in each place of the page."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], Watch] = {}

    def new(self, visitor: str, place: str) -> int:
        """Begin to watch a run, and give its number; it takes the place of the visitor's run before."""
        before = self.last(visitor, place)
        before.end(replaced=True)
        self._runs[visitor, place] = Watch(before.number + 1)
        return before.number + 1

    def last(self, visitor: str, place: str) -> Watch:
        """Return the run that a visitor has asked for last in a place."""
        return self._runs.setdefault((visitor, place), Watch())

    def forget(self, visitor: str) -> None:
        """End all runs of a visitor who has left."""
        for key in [key for key in self._runs if key[0] == visitor]:
            self._runs.pop(key).end()
