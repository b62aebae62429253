"""Run the steps of a ReStyle engine one after another, each going on from what the one before made.

"ReStyle" (Alaluf et al. 2021), section 3: the encoder sees the input and the picture so far, and corrects the latents.
What is fed back is the picture before it is clipped and rounded, at the size of the input. Styles are mixed in before
the generator of the last step alone, so that the encoder corrects the input's own latents.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines import contract
from psp_runtime.engines.contract import Arrays, check_iterations
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.session import Session
from psp_runtime.errors import EngineError, PspError

#: Steps of an engine that goes on from where another one's first step has come (toonify), unless told otherwise.
AFTER_ANOTHER = 2

Inputs = Mapping[str, NDArray[Any]]


def refine(
    once: Callable[[Inputs], Inputs], info: EngineInfo, inputs: Inputs, iterations: int, state: Arrays | None = None
) -> Iterator[Inputs]:
    """Yield what each step makes of `image`, `style` and `alpha` [B,...]: what `once` gives, a run of the step `info`.

    `state` is where it starts, as `next_state` gives it; by default the engine's average picture and latents.
    """
    state = first_state(info, len(inputs["image"])) if state is None else state
    for step in range(iterations):
        alpha = inputs["alpha"] if step == iterations - 1 else np.zeros_like(inputs["alpha"])
        done = once({"image": inputs["image"], "style": inputs["style"], "alpha": alpha, **state})
        yield done
        state = next_state(done)


def first_state(info: EngineInfo, count: int) -> Arrays:
    """Make what the first step begins with: the engine's own average, which `start` asks for."""
    state = {name: tensor.zeros(count) for name, tensor in contract.state(info).items()}
    return state | {"start": np.ones((count, 1), np.float32)}


def next_state(done: Inputs) -> Arrays:
    """Make what a step goes on from after another one gave `done`."""
    start = np.zeros((len(done["latents"]), 1), np.float32)
    return {"previous": done["picture"], "codes": done["latents"], "start": start}


class RefiningSession:
    """A step engine as a full one: picture to picture in `iterations` steps. See `Session`.

    With `first`, another step engine, its first step comes before them (ReStyle, section 5: toonify from a face).
    `told` is called with the number of pictures after every step. Raises `PspError` for a number of steps out of range
    and for engines that do not go together.
    """

    def __init__(self, step: Session, iterations: int | None = None, first: Session | None = None) -> None:
        self.step, self.first = step, first
        self.path, self.device, self.max_batch = step.path, step.device, step.max_batch
        self.precision = step.precision
        self.told: Callable[[int], object] = lambda pictures: None
        if first is not None:
            check_pair(step.info, first.info, first.path.name)
            self.max_batch = min(self.max_batch, first.max_batch)
        self.repeat(iterations)

    def repeat(self, iterations: int | None) -> None:
        """Run so many steps from now on, or as many as the engine says. Raises `PspError` for none or too many."""
        count = AFTER_ANOTHER if self.first else self.step.info.iterations
        if iterations is not None:
            check_iterations(iterations)
            count = iterations
        self.info = replace(self.step.info, part="full", iterations=count)

    @property
    def count(self) -> int:
        """Count the pictures that `steps` gives."""
        return self.info.iterations + (self.first is not None)

    def run(self, inputs: Inputs) -> Arrays:
        """See `Session.run`: what the last step gives, for each picture the last of its own `iterations`."""
        steps = inputs.get("iterations", np.zeros((len(inputs["image"]), 1), np.int32))[:, 0]
        steps = np.where(steps, steps, self.info.iterations)
        outputs = contract.outputs(self.info)
        whole = {name: tensor.zeros(len(steps)) for name, tensor in outputs.items()}
        for count in np.unique(steps):
            rows = steps == count
            last = self._last({name: array[rows] for name, array in inputs.items()}, int(count))
            for name in outputs:
                whole[name][rows] = last[name]
        return whole

    def _last(self, inputs: Inputs, count: int) -> Inputs:
        """Return what the last step gives: on the GPU alone where the engine can, step by step elsewhere."""
        on_gpu = getattr(self.step, "refine", None)
        if on_gpu is None or self.first is not None or count == 1:
            *_, last = self.steps(inputs, count)
            return last
        begin = first_state(self.step.info, len(inputs["image"]))
        done: Arrays = on_gpu({name: inputs[name] for name in ("image", "style", "alpha")} | begin, count)
        return done

    def steps(self, inputs: Inputs, count: int | None = None) -> Iterator[Arrays]:
        """Yield `output` and `latents` after each of `count` steps, and after that of the other engine before them."""
        state = None
        if self.first is not None:
            plain = {**inputs, "alpha": np.zeros_like(inputs["alpha"])}
            (begun,) = refine(self.first.run, self.first.info, plain, 1)
            yield self._whole(begun)
            state = next_state(begun)
        yield from map(self._whole, refine(self.step.run, self.step.info, inputs, count or self.info.iterations, state))

    def _whole(self, done: Inputs) -> Arrays:
        self.told(len(done["latents"]))
        return {name: done[name] for name in ("output", "latents")}

    def run_many(self, batches: Iterable[Inputs]) -> Iterator[Arrays]:
        """See `Session.run_many`."""
        return map(self.run, batches)

    @property
    def once(self) -> "RefiningSession":
        """Do the same in a single step: enough where all of the latents are mixed in, whatever the input."""
        return RefiningSession(self.step, 1)

    def close(self) -> None:
        """Free the engines."""
        self.step.close()
        if self.first is not None:
            self.first.close()


def as_whole(session: Session, iterations: int | None = None, first: Session | None = None) -> Session:
    """Make an engine from picture to picture: `session` itself, or the steps of ReStyle together.

    Raises `EngineError` for a part of an engine, `PspError` for steps of an engine that has none.
    """
    contract.require_full(session.info, session.path)
    if session.info.part == "step":
        return RefiningSession(session, iterations, first)
    given = {"iterations": iterations is not None and not session.info.iterations, "first": first is not None}
    if wrong := " and ".join(name for name, odd in given.items() if odd):
        raise PspError(f"{session.path} makes its pictures in one step: leave out {wrong}")
    if iterations is not None:  # a server's, which runs the steps itself
        check_iterations(iterations)
        session.info = replace(session.info, iterations=iterations)
    return session


def run_steps(session: RefiningSession, inputs: Inputs, batch: int) -> Arrays:
    """Return `output` [B,N,...] and `latents` [B,N,L,S] of every step, for any number of pictures, `batch` at once."""
    count, most = len(inputs["image"]), min(batch, session.max_batch)
    tensors = contract.outputs(session.info)
    found = {name: [np.zeros((0, session.count, *one.shape), one.dtype)] for name, one in tensors.items()}
    for start in range(0, count, most):
        steps = list(session.steps({name: array[start : start + most] for name, array in inputs.items()}))
        for name, parts in found.items():
            parts.append(np.stack([step[name] for step in steps], axis=1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def check_pair(step: EngineInfo, first: EngineInfo, name: str) -> None:
    """Raise `EngineError` unless a step of `first`, the engine called `name`, can come before those of `step`."""
    if first.part != "step":
        raise EngineError(f"{name} makes its picture in one step: expected the engine of a ReStyle checkpoint")
    for field in ("input", "input_shape", "output_shape", "styles", "style_dim"):
        wanted, found = getattr(step, field), getattr(first, field)
        if found != wanted:
            raise EngineError(f"{name} is no engine to go on from: its {field} is {found}, expected {wanted}")
