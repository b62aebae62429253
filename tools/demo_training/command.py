"""The options that the trainings of the demo models share, and what is wrong with them in one line."""

import argparse
from pathlib import Path

import torch

WORK = Path("runs/demo")


def parser(description: str) -> argparse.ArgumentParser:
    """A parser of `--work`, the folder of drawn faces and of all results."""
    result = argparse.ArgumentParser(description=description.splitlines()[0])
    result.add_argument("--work", type=Path, default=WORK, help="folder of drawn faces and results")
    return result


def training_parser(description: str, stages: dict, faces: int) -> argparse.ArgumentParser:
    """The same for a training in stages; each has its `batch`."""
    least = max(stage.batch for stage in stages.values())
    result, names = parser(description), ", ".join(map(str, stages))
    result.add_argument("--steps", type=count, nargs=len(stages), help=f"steps of {names} instead of ours")
    result.add_argument("--faces", type=at_least(least), default=faces, help="drawn faces to train on")
    result.add_argument("--device", type=device, default=torch.device("cpu"), help="cpu or cuda")
    return result


def at_least(least: int):
    """A type for argparse: whole numbers from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return number


count = at_least(1)


def device(name: str) -> torch.device:
    """A type for argparse: a device that torch can use here."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise argparse.ArgumentTypeError(f"torch cannot use {name!r} here: expected cpu or cuda") from None
