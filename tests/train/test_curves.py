"""Curves of a run: every term in a panel, and one clear line for files that cannot be plotted."""

import json
import math
import os
import sys

import numpy as np
import pytest
from PIL import Image

from psp_runtime.errors import PspError
from psp_train.training import curves
from psp_train.training.curves import plot, read_curves, smooth


def row(step, split="train", **values):
    return {"step": step, "split": split, "loss": 1 / step, "l2": 0.5 / step, **values}


def write(run, *rows, end="\n"):
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + end)
    return run


@pytest.fixture
def run(tmp_path):
    rows = [row(step, learning_rate=1e-4, seconds=9.0 * step) for step in range(10, 500, 10)]
    rows.insert(20, row(200, "validation", learning_rate=1e-4, seconds=1.0))
    return write(tmp_path / "my_run", *rows)


def drawn(run, monkeypatch):
    """The figure of a run, not its picture."""
    figures = []
    original = curves._draw
    monkeypatch.setattr(curves, "_draw", lambda *args: figures.append(original(*args)) or figures[0])
    plot(run)
    return figures[0]


def test_a_picture_is_written(run):
    path = plot(run)
    assert path == run / "curves.png"
    assert sorted(p.name for p in run.iterdir()) == ["curves.png", "metrics.jsonl"]
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_one_panel_for_each_term_with_its_values(run, monkeypatch):
    figure = drawn(run, monkeypatch)
    assert figure.get_suptitle() == "my_run"
    labels = ["loss (weighted sum)", "L2", "learning rate"]
    assert [axes.get_ylabel() for axes in figure.axes] == labels
    assert all(axes.get_xlabel() == "step" and axes.get_yscale() == "log" for axes in figure.axes)
    raw, smoothed, validation = figure.axes[1].lines
    np.testing.assert_allclose(raw.get_ydata(), 0.5 / np.arange(10, 500, 10))
    assert len(smoothed.get_ydata()) == 49 and smoothed.get_linewidth() > raw.get_linewidth()
    assert (list(validation.get_xdata()), list(validation.get_ydata())) == ([200], [0.5 / 200])
    assert validation.get_marker() == "o" and validation.get_linestyle() == "None"
    assert len(figure.axes[2].lines) == 2  # the validation's learning rate says nothing new


def test_terms_that_reach_zero_or_are_not_finite(tmp_path, monkeypatch):
    rows = [
        row(1, identity=0.5, mixing=-1),
        row(2, identity=0.0, mixing=math.nan),
        row(3, identity=0.2, lpips=math.inf),
    ]
    figure = drawn(write(tmp_path / "run", *rows), monkeypatch)
    scales = {axes.get_ylabel(): axes.get_yscale() for axes in figure.axes}
    assert scales["identity distance"] == scales["mixing"] == scales["perceptual distance"] == "linear"
    assert scales["L2"] == "log"


def test_one_line_is_enough(tmp_path):
    assert plot(write(tmp_path / "run", row(1))).exists()
    assert plot(write(tmp_path / "run", row(1, "validation"))).exists()


def test_steps_are_sorted_and_the_second_of_two_counts(tmp_path):
    rows = [row(3, lpips=0.3), row(1, lpips=0.1), row(3, lpips=0.4), row(2)]
    curve = read_curves(write(tmp_path / "run", *rows) / "metrics.jsonl")["lpips"]["train"]
    assert (list(curve.steps), list(curve.values)) == ([1, 3], [0.1, 0.4])


def test_a_line_being_written_is_left_out(tmp_path):
    run = write(tmp_path / "run", row(1), '{"step": 2, "sp', end="")
    assert list(read_curves(run / "metrics.jsonl")["loss"]["train"].steps) == [1]


def test_smoothing_in_closed_form():
    assert smooth(np.array([1.0, 2, 6, 3]), 0).tolist() == [1, 2, 6, 3]
    assert smooth(np.array([1.0, 2, 6, 3]), 1).tolist() == [1.5, 3, 11 / 3, 4.5]
    assert smooth(np.array([1.0, math.nan, 6, math.inf]), 1).tolist() == [1, 3.5, 6, 6]
    assert np.isnan(smooth(np.array([math.nan, math.nan]), 1)).all()


def test_every_curve_is_as_long_as_its_data():
    for count in (1, 2, 3, 50, 1001):
        assert len(smooth(np.ones(count), int(0.01 * count))) == count


GOOD = json.dumps(row(1))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "no .*metrics.jsonl: expected the folder of a training run"),
        ("", "metrics.jsonl is empty: nothing has been logged yet"),
        ('{"step": 1', "is empty"),
        (f"{GOOD}\n{{'step': 2}}\n", "line 2: not JSON. Remove the line"),
        (f"{GOOD[:20]}\n{GOOD}\n", "line 1: not JSON"),
        (f"{GOOD}\n\n", "line 2: not JSON"),
        ("[1, 2]\n", "line 1: expected an object with a split, one of train, validation"),
        ('{"step": 1, "loss": 1}\n', "line 1: expected an object with a split"),
        ('{"step": 1, "loss": 1, "split": ["train"]}\n', "line 1: expected an object with a split"),
        ('{"step": 1, "split": "train"}\n', "line 1: expected a step and a loss"),
        ('{"loss": 1, "split": "train"}\n', "line 1: expected a step and a loss"),
        ('{"step": NaN, "loss": 1, "split": "train"}\n', "line 1: expected a step and a loss"),
        ('{"step": "1", "loss": 1, "split": "train"}\n', "line 1: step is '1', expected a number"),
        ('{"step": 1, "loss": null, "split": "train"}\n', "line 1: loss is None, expected a number"),
        ("\ufffd\x00\n", "line 1: not JSON"),
    ],
)
def test_files_that_cannot_be_plotted(tmp_path, lines, said):
    if lines is not None:
        (tmp_path / "metrics.jsonl").write_text(lines)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PspError, match=said) as error:
        plot(tmp_path)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(PspError, match="line 1: not JSON"):
        plot(tmp_path)


def test_without_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PspError, match=r"matplotlib: pip install '\.\[train\]'"):
        plot(run)
    assert not (run / "curves.png").exists()


def test_a_full_disk_keeps_the_earlier_picture(run, monkeypatch):
    (run / "curves.png").write_bytes(b"earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PspError, match="cannot write .*curves.png: No space left on device"):
        plot(run)
    assert (run / "curves.png").read_bytes() == b"earlier" and len(list(run.iterdir())) == 2
