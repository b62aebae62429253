"""The curves of a training run, RUN/metrics.jsonl as RUN/curves.png: one panel for each term of the loss."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from psp_runtime.disk import cache_folder, replacing
from psp_runtime.errors import PspError
from psp_train.training.run_folder import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = "curves.png"
SPLITS = ("train", "validation")
COLUMNS = 3
#: A curve is smoothed over this share of its points.
SMOOTHING = 0.02

#: What a panel's vertical axis says; other terms are called by their names. Not "LPIPS": a training on drawn faces has
#: another network in its place.
AXIS_LABELS = {
    "loss": "loss (weighted sum)",
    "l2": "L2",
    "l1": "L1",
    "lpips": "perceptual distance",
    "identity": "identity distance",
    "moco": "MoCo distance",
    "w_norm": "length of the latents",
    "l2_crop": "L2, inner face",
    "lpips_crop": "perceptual distance, inner face",
}


class Curve(NamedTuple):
    """One term of one split: float64 [N] each, steps ascending."""

    steps: np.ndarray
    values: np.ndarray


#: Curves by term and split.
Curves = dict[str, dict[str, Curve]]


def plot(run: Path) -> Path:
    """Draw the curves of a run folder and return the picture's path, RUN/curves.png.

    Raises `PspError` for a run without readable metrics, and where matplotlib is not installed.
    """
    figure = _draw(read_curves(run / METRICS), run.resolve().name)
    with replacing(run / CURVES) as file:
        figure.savefig(file, format="png", dpi=110)
    return run / CURVES


def read_curves(path: Path) -> Curves:
    """Read all terms of a metrics file. A last line without its end is one being written, and is left out.

    Raises `PspError` for a missing, empty or damaged file; it names the line.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise PspError(f"no {path}: expected the folder of a training run (psp-train --out)") from None
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    rows = [_read_row(path, number, line) for number, line in enumerate(lines, 1)]
    if not rows:
        raise PspError(f"{path} is empty: nothing has been logged yet")
    return _collect(rows)


def _read_row(path: Path, number: int, line: bytes) -> dict[str, float | str]:
    try:
        row = json.loads(line)
    except ValueError:
        raise _damaged(path, number, "not JSON") from None
    if not isinstance(row, dict) or row.get("split") not in SPLITS:
        raise _damaged(path, number, f"expected an object with a split, one of {', '.join(SPLITS)}")
    for name, value in row.items():
        if name != "split" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise _damaged(path, number, f"{name} is {value!r}, expected a number")
    if not {"step", "loss"} <= row.keys() or not math.isfinite(row["step"]):
        raise _damaged(path, number, "expected a step and a loss")
    return row


def _damaged(path: Path, number: int, what: str) -> PspError:
    return PspError(f"{path}, line {number}: {what}. Remove the line to plot the others")


def _collect(rows: list[dict[str, float | str]]) -> Curves:
    """Collect rows into curves, in the order in which the terms first appear, the learning rate last."""
    found: dict[str, dict[str, dict[float, float]]] = {}
    for row in rows:
        step, split = row.pop("step"), row.pop("split")
        row.pop("seconds", None)
        for name, value in row.items():  # of a step logged twice, the second counts
            found.setdefault(name, {}).setdefault(split, {})[step] = value
    if "learning_rate" in found:
        rate = found.pop("learning_rate")
        found["learning_rate"] = {split: rate[split] for split in SPLITS[:1] if split in rate}
    return {name: {split: _curve(points) for split, points in splits.items()} for name, splits in found.items()}


def _curve(points: Mapping[float, float]) -> Curve:
    steps, values = np.array(sorted(points.items()), np.float64).T
    return Curve(steps, values)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Average [N] over `width` neighbours on either side, fewer at the ends; values that are not finite are skipped."""
    window, good = np.ones(2 * width + 1), np.isfinite(values)

    def sums(x: np.ndarray) -> np.ndarray:
        return np.convolve(x, window)[width : width + len(x)]

    with np.errstate(invalid="ignore"):
        return sums(np.where(good, values, 0)) / sums(good.astype(np.float64))


def _draw(curves: Curves, name: str) -> "Figure":
    if folder := cache_folder():  # its list of fonts, which it would keep in the home folder
        os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    try:
        from matplotlib.figure import Figure  # without pyplot: nothing global, and no display is looked for
    except ImportError:
        raise PspError("plotting needs matplotlib: pip install '.[train]'") from None
    curves = {term: splits for term, splits in curves.items() if splits}
    columns = min(COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows + 0.5), layout="constrained")
    figure.suptitle(name)
    for place, (term, splits) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        _draw_term(axes, term, splits)
        if place == 1:
            axes.legend(loc="upper right")
    return figure


def _draw_term(axes: "Axes", term: str, splits: dict[str, Curve]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if "train" in splits:
        steps, values = splits["train"]
        smoothed = smooth(values, int(SMOOTHING * len(values) / 2))
        axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.6)
        axes.plot(steps, smoothed, color="tab:blue", linewidth=1.2, label="training")
    if "validation" in splits:
        axes.plot(*splits["validation"], "o", color="tab:orange", markersize=4, label="validation")
    values = np.concatenate([curve.values for curve in splits.values()])
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_formatter=NullFormatter())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.locator_params(axis="x", nbins=5)  # room for six digits
    axes.set_xlabel("step")
    axes.set_ylabel(AXIS_LABELS.get(term, term.replace("_", " ")))
    axes.grid(alpha=0.3)
