"""What a training saves: files that load, here and in the released code, and that a full disk does not harm."""

import errno
import resource
from contextlib import contextmanager

import pytest
import torch
from training import (
    contents,
    make_settings,
    make_trainer,
    train,
)

from psp_runtime.errors import PspError
from psp_train.checkpoints.psp import load_checkpoint
from psp_train.networks.psp import to_input
from psp_train.training import run_folder
from psp_train.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to write more into a file, half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("refused", ["system", "no space"])
def test_a_full_disk_leaves_the_checkpoint_before(refused, drawn, finished, tmp_path, monkeypatch):
    settings = make_settings(drawn, tmp_path / "run", validate_every=100)
    short = make_settings(drawn, tmp_path / "run", steps=2, validate_every=100)
    train(short)
    trainer, folder = make_trainer(settings), RunFolder(settings.out)
    assert trainer.restore() == 2
    before = contents(settings.out)
    size = (settings.out / "step_00000002.pt").stat().st_size

    def half(data, file):
        file.write(b"x" * (size // 2))
        raise OSError(errno.ENOSPC, "No space left on device")

    if refused == "no space":
        monkeypatch.setattr(run_folder.torch, "save", half)
    with files_of_at_most(size // 2 if refused == "system" else size * 4), pytest.raises(PspError) as error:
        folder.save(4, trainer.checkpoint(), trainer.state(4))
    monkeypatch.undo()
    assert "cannot write" in str(error.value) and "step_00000004" in str(error.value)
    assert contents(settings.out) == before
    load_checkpoint(settings.out / "step_00000002.pt")


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", steps=3, validate_every=1, save_every=1)
    trainer = make_trainer(settings)
    log, values = trainer.folder.log, iter([3.0, 1.0, 2.0])
    kept = []
    trainer.folder.save_best = lambda checkpoint: kept.append(checkpoint)
    original = trainer.objective.forward
    trainer.objective.forward = lambda r: original(r) if torch.is_grad_enabled() else (torch.tensor(next(values)), {})
    trainer.run()
    assert len(kept) == 2 and trainer.best == 1.0 and log
    assert RunFolder(settings.out).load(3)[1]["best"] == 1.0


#: What the reference's pSp class, its networks and its scripts read from `opts`.
REFERENCE = {
    *("encoder_type", "output_size", "input_nc", "label_nc", "learn_in_w", "start_from_latent_avg", "dataset_type"),
    *("resize_factors", "device"),
}


TYPES = {
    "psp": "GradualStyleEncoder",
    "w": "BackboneEncoderUsingLastLayerIntoW",
    "naive_wplus": "BackboneEncoderUsingLastLayerIntoWPlus",
}


@pytest.mark.parametrize(
    ("task", "variant", "name", "channels"),
    [
        ("inversion", None, "ffhq_encode", 3),
        ("sketch", "w", "celebs_sketch_to_face", 1),
        ("segmentation", "naive_wplus", "celebs_seg_to_face", 19),
        ("super_resolution", None, "celebs_super_resolution", 3),
        ("inpainting", None, "ffhq_encode", 3),
        ("frontalization", "local", "ffhq_frontalize", 3),
    ],
)
def test_checkpoints_are_those_of_the_reference(task, variant, name, channels, drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", task, variant)
    trainer = make_trainer(settings)
    batches = trainer.batches(0)
    trainer.step(1, batches)
    trainer.folder.save(1, trainer.checkpoint(), trainer.state(1))
    path = settings.out / "step_00000001.pt"
    data = torch.load(path, weights_only=True)
    opts, kind = data["opts"], settings.recipe.encoder
    assert set(opts) >= REFERENCE and opts["psp_toolkit"] == settings.recipe.to_json()
    assert (opts["dataset_type"], opts["input_nc"], opts["output_size"]) == (name, channels, 64)
    assert opts["label_nc"] == {"sketch": 1, "segmentation": 19}.get(task, 0)  # 0: the reference reads colours
    assert opts["resize_factors"] == ("1,2,4,8,16,32" if task == "super_resolution" else None)
    assert opts["encoder_type"] == TYPES.get(kind, opts["encoder_type"])
    assert opts["start_from_latent_avg"] is True and opts["learn_in_w"] is (kind == "w")
    assert data["latent_avg"].shape == ((1, 32) if kind == "w" else (10, 32))
    assert all(key.startswith(("encoder.", "decoder.")) for key in data["state_dict"])
    assert_same_pictures(trainer, path, next(batches), task, channels)


def assert_same_pictures(trainer, path, batch, task, channels):
    """What was trained is what loads."""
    loaded = load_checkpoint(path)
    assert loaded.task.name == task and not loaded.model.training
    x = to_input(batch.source, loaded.task.input, channels)
    trainer.model.eval()
    with torch.no_grad():
        for ours, theirs in zip(trainer.model(x), loaded.model(x)):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
