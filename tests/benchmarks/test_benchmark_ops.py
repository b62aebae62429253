"""The benchmark of the CUDA kernels, as far as it goes without a GPU."""

import json
import sys

import ops
import pytest
import torch


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls of a side, one tensor, on a CPU."""
    for name, value in {"DEVICE": "cpu", "CALLS": 2, "WARM": 0, "FEWEST": 1, "TURNING": 1}.items():
        monkeypatch.setattr(ops, name, value)


def test_every_case_is_a_row_and_the_last_line_is_json(quick, monkeypatch, capsys):
    monkeypatch.setattr(ops, "training_step", lambda size, repeats: {"case": f"step at {size}"})
    monkeypatch.setattr(sys, "argv", ["ops.py", "--size", "8", "--repeats", "2"])
    ops.main()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["kernels"], report["training_step"]) == ("no GPU", {"case": "step at 8"})
    cases = [row["case"] for row in report["operators"]]
    assert len(set(cases)) == 3 * 2 * 5 and "down by 2, 32 x 8², channels-last" in cases
    for row in report["operators"]:
        low, median, high = row["ms_quartiles"]["kernel"]
        assert 0 < low <= median <= high and row["share_of_copy"] >= 0 and row["speedup"] > 0


def test_bytes_are_every_input_and_the_result_once():
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float16)
    one = x.nbytes
    moved = {name: moved for name, (_, moved) in ops.cases(x).items()}
    padded = one * 81 // 64
    assert moved == {
        "bias, leaky ReLU, gain": 2 * one,
        "its gradient": 3 * one,
        "FIR": padded + one,
        "up by 2": one // 4 + one,
        "down by 2": one + one // 4,
    }
    for name, (run, _) in ops.cases(x).items():
        assert run().shape == (1, 3, *((4, 4) if name == "down by 2" else (8, 8)))


@pytest.mark.parametrize(("megabytes", "count"), [(67, 6), (20, 10), (4, 24)])
def test_tensors_that_take_turns_are_larger_than_a_cache(megabytes, count):
    assert ops.turns(megabytes * 1_000_000) == count


def test_sides_that_differ_are_not_timed(quick):
    wrong = iter([torch.ones(4), torch.zeros(4)])
    with pytest.raises(SystemExit, match="FIR: the sides differ by 1: nothing was timed"):
        ops.both_sides([lambda: next(wrong)], "FIR")


def test_a_gpu_without_kernels_is_not_compared_with_itself(monkeypatch):
    monkeypatch.setattr(ops, "DEVICE", "cuda")
    monkeypatch.setattr(ops, "obstacle", lambda index: "the driver is too old")
    monkeypatch.setattr(sys, "argv", ["ops.py"])
    with pytest.raises(SystemExit, match="both sides would be plain torch: the driver is too old"):
        ops.main()


@pytest.mark.parametrize("words", [["--repeats", "1"], ["--size", "4"]])
def test_a_mistake_is_told(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["ops.py", *words])
    with pytest.raises(SystemExit) as end:
        ops.main()
    assert end.value.code == 2 and "--repeats takes 2 or more" in capsys.readouterr().err
