"""Requests of all callers gathered into batches for one engine, and a watch over it."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from psp_runtime.engines.contract import Arrays
from psp_runtime.errors import EngineError, PspError
from psp_runtime.serving.bodies import Refused

#: Seconds after which a batch counts as hung, and failed batches in a row after which the engine counts as broken.
HUNG, FAILURES = 120.0, 3
#: Seconds for which a run proves that the engine works, and seconds a proof may take.
FRESH, PROOF = 60.0, 20.0


@dataclass(frozen=True)
class Waiting:
    """Inputs [B,...] of one caller, and what is told about them."""

    inputs: Arrays
    answer: "asyncio.Future[Arrays]"

    @property
    def count(self) -> int:
        """Count pictures (or styles), B."""
        return len(next(iter(self.inputs.values())))


class Batcher:
    """Runs `compute` on batches of up to `size`, in `at_once` threads; a batch waits `delay` seconds for more.

    Once a batch hangs, or FAILURES in a row have failed, `broken` is true and every request is refused: the process
    must be replaced. `seen(pictures, seconds)` is told of every batch.
    """

    hung = HUNG

    def __init__(self, compute: Callable[[Arrays], Arrays], size: int, at_once: int, delay: float) -> None:
        self.compute, self.size, self.delay = compute, size, delay
        self.broken = False
        self.seen: Callable[[int, float], None] = lambda pictures, seconds: None
        self._pool = ThreadPoolExecutor(at_once, "engine")
        self._free = asyncio.Semaphore(at_once)
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures, self._proved = 0, -FRESH
        self._proof: asyncio.Future[bool] | None = None

    async def run(self, inputs: Arrays) -> Arrays:
        """Compute outputs for the inputs of one caller. Raises `EngineError`, and `Refused` (503) once it is broken."""
        if self.broken:
            raise Refused(503, "the engine does not answer and is being started anew: try again later")
        answer: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(inputs, answer))
        self._arrived.set()
        return await answer

    async def loop(self) -> None:
        """Gather and run batches, for ever."""
        while True:
            await self._free.acquire()
            task = asyncio.ensure_future(self._work(await self._gather()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def works(self, inputs: Arrays) -> bool:
        """Tell whether the engine runs: a batch has succeeded within FRESH seconds, or `inputs` do so now."""
        if self.broken:
            return False
        if not self._failures and asyncio.get_running_loop().time() - self._proved < FRESH:
            return True
        if self._proof is None or self._proof.done():  # one for all who ask
            self._proof = asyncio.ensure_future(self._prove(inputs))
        try:
            return await asyncio.wait_for(asyncio.shield(self._proof), PROOF)
        except asyncio.TimeoutError:
            return False

    async def _prove(self, inputs: Arrays) -> bool:
        try:
            await self.run(inputs)
        except PspError:
            return False
        return True

    async def _gather(self) -> list[Waiting]:
        """Collect the next batch: requests in their order, as many as fit."""
        clock = asyncio.get_running_loop().time
        while not self._waiting:
            await self._more(None)
        end = clock() + self.delay
        while sum(one.count for one in self._waiting) < self.size and clock() < end:
            await self._more(end - clock())
        batch = [self._waiting.popleft()]
        while self._waiting and sum(one.count for one in batch) + self._waiting[0].count <= self.size:
            batch.append(self._waiting.popleft())
        return [one for one in batch if not one.answer.done()]  # of those that have left, nothing is computed

    async def _more(self, seconds: float | None) -> None:
        self._arrived.clear()
        try:
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except asyncio.TimeoutError:
            return

    async def _work(self, batch: list[Waiting]) -> None:
        try:
            if batch:
                _share(batch, await self._outputs(batch))
        except Exception as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
        finally:
            self._free.release()

    async def _outputs(self, batch: list[Waiting]) -> Arrays:
        loop = asyncio.get_running_loop()
        whole = {name: np.concatenate([one.inputs[name] for one in batch]) for name in batch[0].inputs}
        started = loop.time()
        try:
            outputs = await asyncio.wait_for(loop.run_in_executor(self._pool, self.compute, whole), self.hung)
        except asyncio.TimeoutError:
            self.broken = True
            raise Refused(503, f"the engine has not answered for {self.hung:g} s and is being started anew") from None
        except EngineError:
            self._failures += 1
            self.broken = self._failures >= FAILURES
            raise
        self._failures, self._proved = 0, loop.time()
        self.seen(len(next(iter(whole.values()))), self._proved - started)
        return outputs


def _share(batch: list[Waiting], outputs: Arrays) -> None:
    """Give each caller its part of the outputs."""
    at = 0
    for one in batch:
        if not one.answer.done():
            one.answer.set_result({name: array[at : at + one.count] for name, array in outputs.items()})
        at += one.count
