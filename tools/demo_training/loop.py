"""The training loop of the demo models: seeded by step, with a moving average, exact to resume after a kill."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Seconds between two saved states, and steps between two lines of the log.
SAVE_EVERY, REPORT_EVERY = 240, 100
#: How much of the moving average a step keeps, once it has followed for long enough.
KEEP = 0.998


@dataclass
class Training:
    """What a stage trains: `model`, its moving average, the optimizers with their highest rates set, and for how long.

    `loss_of` takes the step, from which all its randomness must follow; `report` says how good the average is.
    """

    model: nn.Module
    average: nn.Module
    optimizers: list[torch.optim.Optimizer]
    steps: int
    loss_of: Callable[[int], Tensor]
    report: Callable[[], str]


def run(training: Training, file: Path) -> None:
    """Train to the last step and store the average's weights as `file`; a `.state` beside it is where to go on."""
    if file.exists():
        training.average.load_state_dict(torch.load(file, "cpu", weights_only=True))
        return
    state = file.with_suffix(".state")
    step = restore(training, state) if state.exists() else 0
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in training.optimizers]
    saved = time.time()
    while step < training.steps:
        loss = take_step(training, rates, step)
        step += 1
        if step % REPORT_EVERY == 0 or step == training.steps:
            print(f"{file.stem} step {step}/{training.steps} loss {loss:.4f} {training.report()}", flush=True)
        if time.time() - saved > SAVE_EVERY:
            save(state_of(training, step), state)
            saved = time.time()
    save(training.average.state_dict(), file)
    state.unlink(missing_ok=True)


def take_step(training: Training, rates: list[list[float]], step: int) -> float:
    """One step of all optimizers, and of the average; returns the loss."""
    set_rates(training, rates, schedule(step, training.steps))
    loss = training.loss_of(step)
    training.model.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in training.optimizers:
        optimizer.step()
    follow(training.average, training.model, min(KEEP, step / (step + 10)))
    return float(loss.detach())


def set_rates(training: Training, rates: list[list[float]], share: float) -> None:
    for optimizer, highest in zip(training.optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * share


def schedule(step: int, steps: int) -> float:
    """The share of the highest rate: warm up, hold, and fall to zero over the last half."""
    return min((step + 1) / 50, 1.0, 2 * (steps - step) / steps)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move the average towards the model; counts are taken over."""
    for slow, fast in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        slow.lerp_(fast, 1 - keep) if slow.is_floating_point() else slow.copy_(fast)


def state_of(training: Training, step: int) -> dict[str, Any]:
    optimizers = [optimizer.state_dict() for optimizer in training.optimizers]
    modules = {"model": training.model.state_dict(), "average": training.average.state_dict()}
    return {"step": step, "optimizers": optimizers} | modules


def restore(training: Training, path: Path) -> int:
    """Take over a saved state, but not its rates; returns its step."""
    state = torch.load(path, "cpu", weights_only=True)
    training.model.load_state_dict(state["model"])
    training.average.load_state_dict(state["average"])
    for optimizer, values in zip(training.optimizers, state["optimizers"], strict=True):
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(values)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    return state["step"]


def save(value: Any, path: Path) -> None:
    """Store under a temporary name and move into place, so that a kill leaves the file before."""
    part = path.with_suffix(path.suffix + ".part")
    torch.save(value, part)
    part.replace(path)
