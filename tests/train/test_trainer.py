"""The loop: exact resume after kill -9, many processes as one, bad numbers, full disks, and checkpoints that load."""

import errno
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model
from PIL import Image
from torch import nn
from training import ALONE, ENVIRONMENT, draw_faces, gradients, losses, make_settings, make_trainer, metrics, train

from psp_runtime.errors import PspError
from psp_train.checkpoints.psp import load_checkpoint
from psp_train.networks.psp import to_input
from psp_train.recipes import Recipe, make_recipe
from psp_train.training import run_folder
from psp_train.training.distributed import Process
from psp_train.training.ranger import Ranger
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings
from psp_train.training.trainer import learning_rate, make_optimizer


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums of floats depend on the number of threads: ours is that of the processes we start."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("trainer") / "drawn")


@pytest.fixture(scope="module")
def finished(drawn, tmp_path_factory):
    """A training that nothing interrupted, and its trainer."""
    settings = make_settings(drawn, tmp_path_factory.mktemp("finished") / "run")
    return settings, train(settings)


def start(settings: Settings, code: str = "", **environment: object) -> subprocess.Popen:
    """Train in a process of its own; `code` runs before."""
    file = settings.out.with_suffix(".json")
    file.write_text(json.dumps(settings.to_json()))
    code = f"{code}\nimport sys, training; sys.argv[1:] = [{str(file)!r}]; training.main()"
    ours = ENVIRONMENT | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in environment.items()}
    return subprocess.Popen([sys.executable, "-c", code], env=ours, stderr=subprocess.PIPE, text=True)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(run / f"step_{step:08}.pt", weights_only=True)["state_dict"]


def assert_same_run(a: Path, b: Path, step: int = 6) -> None:
    """The same numbers were logged, and the same weights came out."""
    assert metrics(a) == metrics(b)
    ours, theirs = weights(a, step), weights(b, step)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not list(a.glob(".*.tmp"))


# ---- Resume ---------------------------------------------------------------------------------------------------


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


def test_training_learns(drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", steps=10, batch_size=4, optimizer="adam", validate_every=99)
    values = losses(train(settings).settings.out)
    assert min(values[-2:]) < 0.9 * values[0]


@pytest.mark.parametrize("lines", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_killed_between_two_lines_and_resumed(lines, drawn, finished, tmp_path):
    """SIGKILL at whatever comes after a line: before the first checkpoint, and after one."""
    settings = make_settings(drawn, tmp_path / "run")
    process = start(settings)
    log = settings.out / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < lines):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
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
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    if code == DIES_WHILE_SAVING:
        assert (settings.out / "step_00000004.pt").exists() and list(settings.out.glob(".*.tmp"))
    assert RunFolder(settings.out).steps() == [2]
    train(settings)
    assert_same_run(settings.out, finished[0].out)


@pytest.mark.parametrize("values", [dict(optimizer="adam"), dict(accumulate=2), dict(variant="local")])
def test_stopped_and_resumed(values, drawn, tmp_path):
    """The same of other recipes, without a process: more steps than asked for at first."""
    values = dict(task="super_resolution", validate_every=2) | values
    for steps in (2, 4):
        train(make_settings(drawn, tmp_path / "a", steps=steps, **values))
    train(make_settings(drawn, tmp_path / "b", steps=4, **values))
    assert len(losses(tmp_path / "a")) == 4
    assert_same_run(tmp_path / "a", tmp_path / "b", 4)


def test_another_number_of_processes_cannot_resume(finished):
    settings, trainer = finished
    trainer.process = Process(0, 2, torch.device("cpu"))
    try:
        with pytest.raises(PspError, match="was trained by 1 processes, and now there are 2"):
            trainer.restore()
    finally:
        trainer.process = ALONE


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


# ---- Many processes -------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def largest_error(found: dict, expected: dict) -> float:
    """Largest difference of two sets of arrays, relative to the largest value of each array."""
    assert found.keys() == expected.keys()
    errors = {key: np.abs(found[key] - e).max() / max(np.abs(e).max(), 1e-12) for key, e in expected.items()}
    return max(errors.values())


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_are_one_with_twice_the_batch(accumulate, drawn, tmp_path):
    both = dict(task="frontalization", accumulate=accumulate, steps=4)
    settings = make_settings(drawn, tmp_path / "two", batch_size=1, **both)
    group = dict(WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    processes = [start(settings, RANK=rank, LOCAL_RANK=rank, **group) for rank in (0, 1)]
    for process in processes:
        assert process.wait() == 0, process.stderr.read()
    ranks = [dict(np.load(tmp_path / f"gradients{rank}.npz")) for rank in (0, 1)]
    single = make_settings(drawn, tmp_path / "one", batch_size=2, **both)
    expected = gradients(single)
    assert max(largest_error(found, expected) for found in ranks) < 1e-9
    train(single)  # in float32
    np.testing.assert_allclose(losses(settings.out), losses(single.out), rtol=1e-3)
    assert RunFolder(settings.out).steps() == RunFolder(single.out).steps() == [2, 4]


def test_accumulated_batches_are_one_batch(drawn, tmp_path):
    """The gradients of two batches in one step are those of a batch of both, where BatchNorm keeps its statistics.

    In training BatchNorm sees each batch alone, as in any framework: two small batches are not one large one.
    """
    many = make_settings(drawn, tmp_path / "many", batch_size=2, accumulate=2)
    one = make_settings(drawn, tmp_path / "one", batch_size=4)
    assert largest_error(gradients(many, follow=False), gradients(one, follow=False)) < 1e-9


# ---- Numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_step_in_half_precision(amp, drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", "frontalization", steps=2, amp=amp)
    half, full = make_trainer(settings), make_trainer(make_settings(drawn, tmp_path / "full", "frontalization"))
    before = [p.detach().clone() for p in half.model.encoder.parameters()]
    batches = half.batches(0)
    loss, terms = half.step(1, batches)
    expected, expected_terms = full.step(1, full.batches(0))
    assert abs(loss / expected - 1) < 0.03
    assert all(abs(terms[name] / expected_terms[name] - 1) < 0.03 for name in terms)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, half.model.encoder.parameters()))
    if amp == "fp16":
        state = half.state(1)["scaler"]
        assert state["scale"] > 1


@pytest.mark.parametrize(("demodulate", "factor"), [(True, 3000), (False, 30000)])
def test_styles_too_large_for_half_precision(demodulate, factor, drawn, tmp_path):
    """Published styles overflow float16 when squared: demodulation has to happen in float32, on scaled styles.

    Where nothing demodulates, before RGB, large styles stand before small weights: their product with the features must
    not overflow either.
    """
    trainer = make_trainer(make_settings(drawn, tmp_path / "run", amp="fp16"))
    with torch.no_grad():
        for module in trainer.model.decoder.modules():
            if getattr(module, "demodulate", None) is demodulate:
                for parameter in module.modulation.parameters():
                    parameter *= factor
                module.weight /= 1 if demodulate else factor
    batch = next(trainer.batches(0))
    with torch.no_grad():
        expected = trainer.renderer(batch).output
        with torch.autocast("cpu", torch.float16):
            found = trainer.renderer(batch).output
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(value, drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", steps=4, save_every=1)
    trainer = make_trainer(settings)
    step = trainer.step

    def poisoned(number, batches):
        if number == 3:
            trainer.objective.networks["identity"].network.weight[0, 0, 0, 0] = value
        return step(number, batches)

    trainer.step = poisoned
    with pytest.raises(PspError) as error:
        trainer.run()
    assert "not finite at step 3" in str(error.value) and "\n" not in str(error.value)
    saved = json.loads((settings.out / "not_finite_00000003.json").read_text())
    order = [batch.names for batch, _ in zip(make_trainer(settings).batches(0), range(3))]
    assert saved["step"] == 3 and saved["files"] == order[2] and str(settings.data) in saved["files"][0]
    assert not np.isfinite(float(saved["terms"]["identity"])) and np.isfinite(float(saved["terms"]["l2"]))
    assert RunFolder(settings.out).steps() == [1, 2]  # from before
    assert str(settings.out / "not_finite_00000003.json") in str(error.value)


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(drawn, tmp_path):
    """The loss is a number, its derivative is not: a step more and the weights, and their checkpoint, would be none."""
    settings = make_settings(drawn, tmp_path / "run", save_every=1, accumulate=2)
    trainer = make_trainer(settings)
    forward, calls = trainer.objective.forward, []

    def edge(rendering):
        calls.append(1)
        loss, terms = forward(rendering)
        return (loss + (loss - loss.detach()).sqrt() if len(calls) == 5 else loss), terms

    trainer.objective.forward = edge
    with pytest.raises(PspError, match="the gradient is not finite at step 3: {'loss': '0"):
        trainer.run()
    assert RunFolder(settings.out).steps() == [1, 2]
    assert all(torch.isfinite(p).all() for p in trainer.model.encoder.parameters())
    saved = json.loads((settings.out / "not_finite_00000003.json").read_text())
    assert len(saved["files"]) == 4 and np.isfinite(float(saved["terms"]["loss"]))


def test_the_learning_rate_falls_at_the_end():
    recipe = Recipe(learning_rate=1.0, decay=0.5, steps=10)
    rates = [learning_rate(recipe, step) for step in range(1, 11)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert {learning_rate(Recipe(steps=10), step) for step in range(1, 11)} == {1e-4}


def test_optimizers():
    layer = nn.Linear(2, 2)
    ranger = make_optimizer(make_recipe("inversion"), layer)
    assert isinstance(ranger, Ranger) and ranger.param_groups[0]["lr"] == 1e-4
    adam = make_optimizer(make_recipe("inversion", "local"), layer)
    assert type(adam) is torch.optim.Adam and adam.param_groups[0]["lr"] == 1e-4


def test_the_generator_stays_as_it_is(finished):
    _, trainer = finished
    before = tiny_model().decoder.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.decoder.state_dict().items())
    frozen = [*trainer.model.decoder.parameters(), *trainer.objective.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in frozen)


# ---- Files ----------------------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to write more into a file, half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


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


# ---- Settings and metrics -------------------------------------------------------------------------------------


def test_settings_through_json(drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", "sketch", amp="bf16", weights=tmp_path, variant="w")
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_settings_hold_absolute_paths(drawn, monkeypatch):
    monkeypatch.chdir(drawn)
    values = Settings(Recipe(), out=Path("run"), data=Path("faces")).to_json()
    assert values["data"] == str(drawn.resolve() / "faces") and values["target"] is None


def test_settings_of_another_version(drawn, tmp_path):
    values = make_settings(drawn, tmp_path / "run").to_json()
    with pytest.raises(PspError, match="another version: it differs in colour"):
        Settings.from_json(values | {"colour": 1})


def test_a_process_alone_is_not_wrapped(finished):
    _, trainer = finished
    assert trainer.renderer.encoder is trainer.model.encoder and trainer.process is ALONE
