"""The benchmark of the training step: its two sides compute the same, and it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_step
from measure import baseline
from models import inputs, tiny_model

from psp_train.ops import upfirdn2d

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_baseline_gives_our_picture_and_gradient():
    model = training_step.channels_last(tiny_model().double())  # FP32 rounds across leaky ReLU's kink
    codes = inputs("w", (2, 10, 32), scale=0.7).double()
    ours = training_step.picture_and_gradient(model.decoder, codes)
    theirs = training_step.picture_and_gradient(lambda w: baseline.synthesise(model.decoder, w), codes)
    assert ours[0].shape == (2, 3, 64, 64) and ours[1].shape == (2, 10, 32)
    for a, b in zip(ours, theirs):
        assert (a - b).abs().max() < 1e-12 * b.abs().max()
        assert b.std() > 0.01 * b.abs().max()  # there is something to compare


@pytest.mark.parametrize("up, down, pad", [(1, 1, (1, 1)), (2, 1, (2, 1)), (1, 2, (0, 3))])
def test_baseline_gives_our_filter(up, down, pad):
    x, fir = inputs("x", (2, 3, 6, 5)), inputs("fir", (4, 4))
    expected = upfirdn2d(x, fir, up, down, pad)
    torch.testing.assert_close(baseline.upfirdn2d(x, fir, up, down, pad), expected)


def test_rows_for_options():
    options = training_step.parse(["--amp", "bf16", "--compile"])
    names = [side.name for side in training_step.sides(options)]
    assert names == ["baseline", "ours", "ours, bf16", "ours, compiled", "ours, bf16, compiled"]


def test_summary_is_relative_to_the_first_row():
    rows = training_step.summary({"a": [3.0, 1.0, 2.0], "b": [1.0]}, {"a": 2**30, "b": 2**29}, batch=4)
    assert rows["a"] == {
        "seconds": 2.0, "min": 1.0, "max": 3.0, "pictures_per_second": 2.0, "ratio": 1.0, "peak_gib": 1.0
    }  # fmt: skip
    assert rows["b"]["ratio"] == 2 and rows["b"]["peak_gib"] == 0.5


@pytest.mark.long
def test_script_runs_and_its_last_line_parses():
    command = ["training_step.py", "--demo", "--batch", "1", "--repeats", "1", "--device", "cpu"]
    done = subprocess.run([sys.executable, *command], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result["rows"]) == ["baseline", "ours"]
    assert all(row["min"] <= row["seconds"] <= row["max"] for row in result["rows"].values())
    assert all(row["peak_gib"] > 0.1 for row in result["rows"].values())
    assert result["difference"]["picture"] < training_step.TOLERANCE["picture"]
    assert result["gflop_per_picture"]["generator"] > 0
