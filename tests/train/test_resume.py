"""A run that was killed, stopped or finished goes on as if nothing had happened, or says why it cannot."""

import shutil
import signal
import time

import pytest
from PIL import Image
from training import (
    assert_same_run,
    contents,
    exit_code,
    losses,
    make_settings,
    make_trainer,
    metrics,
    said,
    start,
    train,
)

from psp_runtime.errors import PspError
from psp_train.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_a_run_leaves(finished):
    settings, _ = finished
    names = {path.name for path in settings.out.iterdir()}
    files = {f"step_0000000{step}.{kind}" for step in (4, 6) for kind in ("pt", "state")}  # the last two
    assert names - {"tensorboard"} == files | {"run.json", "metrics.jsonl", "best.pt", "pictures"}
    lines = metrics(settings.out)
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [3, 6]
    assert set(lines[0]) == {"step", "split", "loss", "l2", "lpips", "identity", "learning_rate"}
    with Image.open(settings.out / "pictures/step_00000003.png") as grid:
        assert grid.size == (2 * 256, 3 * 256)


@pytest.mark.parametrize("lines", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_killed_between_two_lines_and_resumed(lines, drawn, finished, tmp_path):
    """SIGKILL at whatever comes after a line: before the first checkpoint, and after one."""
    settings = make_settings(drawn, tmp_path / "run")
    process = start(settings)
    log = settings.out / "metrics.jsonl"
    while process.is_alive() and (not log.exists() or log.read_bytes().count(b"\n") < lines):
        time.sleep(0.001)
    process.kill()
    assert exit_code(process) == -signal.SIGKILL, said(settings).read_text()
    train(settings)
    assert_same_run(settings.out, finished[0].out)


#: A process that dies of kill -9 in the middle of a file that holds `{key}` = 4: a checkpoint's state, or a line.
DIES_WHILE_SAVING = """
import io, os, signal, torch
save = torch.save
def dying(data, file):
    whole = io.BytesIO()
    save(data, whole)
    if data.get("step") == 4:
        file.write(whole.getvalue()[:len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    file.write(whole.getvalue())
torch.save = dying
"""


DIES_WHILE_LOGGING = """
import os, signal
from psp_train.training.run_folder import RunFolder
log = RunFolder.log
def dying(self, line):
    if line["step"] == 3 and line["split"] == "validation":
        with self.metrics.open("a") as file:
            file.write('{"step": 3, "split": "valid')
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    log(self, line)
RunFolder.log = dying
"""


@pytest.mark.parametrize(
    "code", [DIES_WHILE_SAVING, pytest.param(DIES_WHILE_LOGGING, marks=pytest.mark.slow)], ids=["state", "metrics"]
)
def test_killed_while_writing_and_resumed(code, drawn, finished, tmp_path):
    settings = make_settings(drawn, tmp_path / "run")
    process = start(settings, code)
    assert exit_code(process) == -signal.SIGKILL, said(settings).read_text()
    if code == DIES_WHILE_SAVING:
        assert (settings.out / "step_00000004.pt").exists() and list(settings.out.glob(".*.tmp"))
    assert RunFolder(settings.out).steps() == [2]
    train(settings)
    assert_same_run(settings.out, finished[0].out)


@pytest.mark.parametrize("values", [dict(optimizer="adam"), dict(accumulate=2), dict(variant="local")])
def test_stopped_and_resumed(values, drawn, tmp_path):
    """The same of other recipes, without a process: more steps than asked for at first."""
    values = dict(task="super_resolution", validate_every=1) | values
    for steps in (1, 2):
        train(make_settings(drawn, tmp_path / "a", steps=steps, **values))
    train(make_settings(drawn, tmp_path / "b", steps=2, **values))
    assert len(losses(tmp_path / "a")) == 2
    assert_same_run(tmp_path / "a", tmp_path / "b", 2)


def test_a_run_on_other_samples_cannot_resume(drawn, tmp_path, monkeypatch):
    """One picture less is another order and another choice of held-out pictures; the run stays as it was."""
    faces = tmp_path / "faces"
    shutil.copytree(drawn / "faces", faces)
    values = dict(data=faces, masks=None, optimizer="adam")
    settings = make_settings(drawn, tmp_path / "run", steps=3, **values)
    train(make_settings(drawn, tmp_path / "run", steps=2, **values))
    (settings.out / "metrics.jsonl").write_text('{"step": 9}\n')  # what a resume would drop
    before, picture = contents(settings.out), (faces / "a4.png").read_bytes()
    (faces / "a4.png").unlink()
    with pytest.raises(PspError, match=r"other samples: .* removed .* --init .*step_00000002\.pt"):
        train(settings)
    assert contents(settings.out) == before
    with monkeypatch.context() as patch:  # the state of an earlier version cannot say
        patch.setattr("psp_train.training.trainer.FINGERPRINT_VERSION", "3:")
        assert make_trainer(settings).restore() == 2
    (faces / "a4.png").write_bytes(picture)
    train(settings)
    assert RunFolder(settings.out).steps() == [2, 3]


def test_a_finished_run_resumed_changes_nothing(finished):
    settings, _ = finished
    before = contents(settings.out)
    train(settings)
    assert contents(settings.out) == before
