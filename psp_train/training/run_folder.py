"""The folder of a training run: settings, metrics, checkpoints, and the state that makes a resume exact.

    run.json                 the settings
    metrics.jsonl            one line per logged step: {"step", "split", "loss", terms, "learning_rate", "seconds"};
                             seconds are those of the clock, since 1970
    step_00000500.pt         checkpoint in the published layout; the last two are kept
    step_00000500.state      optimizer, loss scaler, best loss so far (data and randomness follow from seed and step)
    best.pt                  the checkpoint with the lowest validation loss
    pictures/                input, target and output of held-out samples
    tensorboard/             the same scalars and pictures, where tensorboard is installed

Every file is written under a temporary name and moved into place: a crash or a full disk leaves the earlier ones.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from psp_runtime.disk import delete_unfinished, replacing
from psp_runtime.errors import PspError

SETTINGS, METRICS = "run.json", "metrics.jsonl"

#: Checkpoints that are kept.
KEPT = 2


class RunFolder:
    """Reads and writes a run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / METRICS

    def check_new(self) -> None:
        """Raise `PspError` where the folder already holds a run, or is none."""
        if self.path.exists() and not self.path.is_dir():
            raise PspError(f"{self.path} is a file, expected a folder for the new run")
        if (self.path / SETTINGS).exists():
            raise PspError(f"{self.path} already holds a training: give --resume {self.path}, or another --out")
        left = sorted([*self.path.glob("step_*"), *self.path.glob(METRICS)])
        if left:
            raise PspError(f"{left[0]} is left from another training, without its {SETTINGS}: give another --out")

    def create(self, settings: Mapping[str, Any]) -> None:
        """Start a run: make the folder and write run.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / SETTINGS) as file:
            file.write(json.dumps(settings, indent=1).encode())

    def settings(self) -> dict[str, Any]:
        """Read what `create` was given. Raises `PspError` for a folder without a run."""
        try:
            return json.loads((self.path / SETTINGS).read_text())
        except (OSError, ValueError):
            raise PspError(f"{self.path} holds no training: expected a folder that psp-train --out made") from None

    def steps(self) -> list[int]:
        """List the steps with both a checkpoint and a state, ascending."""
        found = (re.fullmatch(r"step_(\d+)\.state", p.name) for p in self.path.glob("step_*.state"))
        return sorted(int(m[1]) for m in found if m and self.checkpoint(int(m[1])).exists())

    def checkpoint(self, step: int) -> Path:
        """Name the file of a step's weights."""
        return self.path / f"step_{step:08}.pt"

    def state(self, step: int) -> Path:
        """Name the file of what a step's checkpoint lacks."""
        return self.path / f"step_{step:08}.state"

    def save(self, step: int, checkpoint: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write checkpoint and state of a step, then drop the oldest: the disk must have room for one more."""
        write_tensors(self.checkpoint(step), checkpoint)
        write_tensors(self.state(step), state)
        oldest = min(self.steps()[-KEPT:])
        for path in self.path.glob("step_*"):
            found = re.fullmatch(r"step_(\d+)\.(pt|state)", path.name)
            if found and int(found[1]) < oldest:  # also one of a pair, where a run was killed between the two
                path.unlink()

    def save_best(self, checkpoint: Mapping[str, Any]) -> None:
        """Keep a checkpoint as best.pt."""
        write_tensors(self.path / "best.pt", checkpoint)

    def load(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read checkpoint and state of a step, on the CPU. Raises `PspError` for damaged files."""
        return read_tensors(self.checkpoint(step)), read_tensors(self.state(step))

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self, step: int) -> None:
        """Forget the metrics after `step`, which a resumed run writes again, and files that were never finished."""
        delete_unfinished(self.path)
        if self.metrics.exists():
            lines = self.metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _complete(line) and json.loads(line)["step"] <= step]
            with replacing(self.metrics) as file:
                file.write("".join(kept).encode())


def _complete(line: str) -> bool:
    """Tell a whole line from half of one, which a run killed while it wrote leaves."""
    return line.endswith("}\n")


def write_tensors(path: Path, data: Mapping[str, Any]) -> None:
    """Save tensors and plain values under a temporary name, then move the file into place.

    Raises `PspError` where the system refuses.
    """
    try:
        with replacing(path, durable=True) as file:
            torch.save(dict(data), file)
    except RuntimeError as error:  # how torch reports a failed write
        raise PspError(f"cannot write {path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """Load tensors and plain values, on the CPU. Raises `PspError` for a damaged file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise whatever the reader stumbles over
        reason = (isinstance(error, OSError) and error.strerror) or "it is damaged or cut off"
        raise PspError(f"cannot read {path}: {reason}. Remove it to resume from the step before") from error
