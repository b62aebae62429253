"""Times of several sides that take turns, so that a busy moment of the machine hits all of them."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

Result = TypeVar("Result")

#: Turns of a side: at least, and at most.
LEAST, MOST = 3, 200
#: Runs before anything is timed. ONNX Runtime lays its memory out in the first run and again in the second (that one
#: took four times as long on the baseline at 1024); a plan sets up a batch, then records its CUDA graph.
WARM_RUNS = {"cpu": 2, "cuda": 5}


class Timed(Protocol):
    """What can be timed: `run` returns when its result is in host memory."""

    def run(self) -> object:
        """Once."""

    def device_seconds(self) -> float | None:
        """How long the last run was on the device, where it says so."""


@dataclass
class Times:
    """Seconds of every run: host array to host array, and on the device where it says so."""

    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    def done(self, seconds: float) -> bool:
        """Whether the side has had its share of `seconds`."""
        return len(self.host) >= LEAST and (sum(self.host) >= seconds or len(self.host) >= MOST)

    def add(self, side: "Timed") -> None:
        """One more run."""
        start = time.perf_counter()
        side.run()
        self.host.append(time.perf_counter() - start)
        on_device = side.device_seconds()
        if on_device is not None:
            self.device.append(on_device)

    def summary(self) -> dict[str, float]:
        """Median, 95th percentile (of fewer than 20 runs: the slowest), least and most seconds, number of runs."""
        ordered = sorted(self.host)
        values: dict[str, float] = {
            "median": statistics.median(ordered),
            "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
            "min": ordered[0],
            "max": ordered[-1],
            "runs": len(ordered),
        }
        return values | ({"device": statistics.median(self.device)} if self.device else {})


def warm(run: Callable[[], Result], device: str) -> Result:
    """Run as often as a device ("cpu" or "cuda") needs; the last result."""
    for _ in range(WARM_RUNS[device] - 1):
        run()
    return run()


def take_turns(sides: Sequence[Timed], seconds: float, times: Sequence[Times]) -> None:
    """Run warm sides A B A B ... until each has had `seconds`, at least LEAST and at most MOST runs.

    Their times are added to `times`, which may hold some already.
    """
    turns = [Times() for _ in sides]
    while waiting := [i for i, turn in enumerate(turns) if not turn.done(seconds)]:
        for i in waiting:
            turns[i].add(sides[i])
    for total, turn in zip(times, turns):
        total.host += turn.host
        total.device += turn.device
