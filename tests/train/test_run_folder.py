"""The folder of a training run: what is kept, what does not count, what a resume forgets."""

import pytest
import torch

from psp_runtime.errors import PspError
from psp_train.training.run_folder import RunFolder, write_tensors


def test_the_last_two_checkpoints_are_kept(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (10, 20, 30):
        folder.save(step, {"weights": torch.ones(2)}, {"step": step})
    assert folder.steps() == [20, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step_000000{s}.{kind}" for s in (20, 30) for kind in ("pt", "state")
    ]
    assert folder.load(30)[1] == {"step": 30}


def test_half_a_pair_does_not_count_and_does_not_stay(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save(10, {}, {"step": 10})
    write_tensors(folder.checkpoint(20), {})  # killed before its state was written
    assert folder.steps() == [10]
    (tmp_path / "step_final.pt").touch()  # somebody's copy
    for step in (30, 40):
        folder.save(step, {}, {})
    assert sorted(path.stem for path in tmp_path.glob("*.pt")) == ["step_00000030", "step_00000040", "step_final"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save(10, {"a": torch.ones(100)}, {})
    folder.state(10).write_bytes(folder.state(10).read_bytes()[:50])
    with pytest.raises(PspError) as error:
        folder.load(10)
    assert str(error.value).startswith(f"cannot read {folder.state(10)}: it is damaged or cut off. Remove it")


def test_metrics_after_a_step_are_forgotten(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.log({"step": step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 2')
    for name in (".17-4.tmp", ".mine.tmp"):
        (tmp_path / name).touch()
    folder.rewind(2)
    assert folder.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "metrics.jsonl"]
