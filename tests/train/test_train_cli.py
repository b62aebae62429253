"""`psp-train` as a user meets it: options, exit codes, one line for every mistake, and nothing left by a mistake."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import TINY_GENERATOR
from pickled.nvidia import seeded, tiny_table, write_torch
from PIL import Image
from training import make_settings

from psp_train.checkpoints.psp import load_checkpoint
from psp_train.recipes import make_recipe
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings


def assert_mistake(result: tuple[int, str, str], *expected: object) -> None:
    """Exit code 2 and one line on stderr that says all that is expected."""
    code, out, err = result
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert code == 2 and out == "" and len(lines) == 1 and lines[0].startswith("error: "), err
    assert all(str(part) in lines[0] for part in expected), err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--demo", "--out", "OUT"), "give --task, one of inversion, frontalization,"),
        (("--task", "portrait", "--demo", "--out", "OUT"), "unknown task 'portrait': choose one of inversion"),
        (("--task", "inversion", "--demo"), "give --out"),
        (("--task", "sketch", "--demo", "--variant", "big", "--out", "OUT"), "unknown variant 'big'"),
        (("--task", "sketch", "--demo", "--set", "l3=1", "--out", "OUT"), "--set l3=1: expected NAME=VALUE"),
        (("--task", "sketch", "--demo", "--set", "l2=big", "--out", "OUT"), "'big' is not a value of l2"),
        (("--task", "sketch", "--demo", "--set", "l2=-1", "--out", "OUT"), "l2 is -1.0"),
        (("--task", "sketch", "--demo", "--set", "render_size=16", "--out", "OUT"), "makes 32, 64, 128, 256"),
        (("--task", "sketch", "--demo", "--set", "seed=99999999999999999999", "--out", "OUT"), "expected a number up"),
        (("--task", "sketch", "--demo", "--set", "moco=1", "--out", "OUT"), "moco"),
        (("--task", "sketch", "--device", "cuda", "--demo", "--out", "OUT"), "no CUDA GPU"),
        (("--task", "inversion", "--data", "FACES", "--out", "OUT"), "give --weights"),
        (("--task", "sketch", "--demo", "--init", "none.pt", "--out", "OUT"), "no checkpoint at none.pt"),
        (("--task", "sketch", "--demo", "--weights", "w", "--generator", "g.pt"), "leave out --generator, --weights"),
    ],
)
def test_mistakes_in_options(args, expected, psp_train, drawn, tmp_path):
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    paths = {"OUT": tmp_path / "run", "FACES": drawn / "faces"}
    assert_mistake(psp_train(*(paths.get(arg, arg) for arg in args)), expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--task", "inversion"), "give --data"),
        (("--task", "inversion", "--data", "none"), "no folder none"),
        (("--task", "sketch", "--data", "SKETCHES"), "give --target"),
        (("--task", "inversion", "--data", "FACES"), "--held-out 100 leaves none of 8 samples to train on"),
        (("--task", "inversion", "--data", "FACES", "--set", "mask=labels"), "give --masks"),
        (("--task", "segmentation", "--data", "FACES", "--target", "SKETCHES"), "colour picture, expected a label map"),
        (("--task", "inversion", "--data", "FACES", "--set", "render_size=128"), "makes 32, 64"),
        (("--task", "inversion", "--data", "FACES", "--masks", "SKETCHES"), "--masks are for --set mask=labels"),
    ],
)
def test_mistakes_in_data(args, expected, psp_train, drawn, generator, tiny, tmp_path):
    paths = {"SKETCHES": drawn / "sketches", "FACES": drawn / "faces"}
    args = (*(paths.get(arg, arg) for arg in args), "--generator", generator, "--out", tmp_path / "run")
    assert_mistake(psp_train(*args), expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["", "run", "below/run"])
def test_a_run_among_its_data(out, psp_train, drawn, generator, tiny, tmp_path, monkeypatch):
    """It keeps pictures of what it makes: a resume would train on them."""
    shutil.copytree(drawn / "faces", tmp_path / "faces")
    monkeypatch.chdir(tmp_path / "faces")
    args = ("--task", "inversion", "--generator", generator, "--held-out", 2, "--out", Path(out))
    assert_mistake(psp_train(*args, "--data", "."), "lies in --data .", "give a folder outside")
    assert_mistake(psp_train(*args, "--data", drawn / "faces", "--target", "."), "lies in --target .")
    assert len(list(tmp_path.rglob("*"))) == 1 + 8


def test_no_generator(psp_train, drawn, tiny, tmp_path):
    args = ("--task", "inversion", "--data", drawn / "faces", "--out", tmp_path / "run")
    assert_mistake(psp_train(*args), "give --generator, a StyleGAN2 checkpoint")
    assert_mistake(psp_train(*args, "--generator", tmp_path / "x.pt"), "no checkpoint at", "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_all_missing_weights_in_one_line(psp_train, drawn, generator, tmp_path):
    args = ("--task", "inversion", "--data", drawn / "faces", "--generator", generator, "--out", tmp_path / "run")
    names = ("alexnet-owt-7be5be79.pth", "alex.pth", "model_ir_se50.pth", "https://")
    assert_mistake(psp_train(*args, "--weights", tmp_path), *names, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_label_map(psp_train, drawn, generator, tiny, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for path in (drawn / "labels").iterdir():
        (labels / path.name).write_bytes(path.read_bytes())
    Image.fromarray(np.full((64, 64), 19, np.uint8)).save(labels / "a3.png")
    args = ("--data", labels, "--target", drawn / "faces", "--generator", generator, "--held-out", 2)
    mistake = psp_train("--task", "segmentation", *args, "--out", tmp_path / "run")
    assert_mistake(mistake, labels / "a3.png", "class id 19", "knows 0..18")
    assert not (tmp_path / "run").exists()


def test_a_run_from_the_beginning_and_on(psp_train, drawn, tiny, tmp_path):
    """Train over a generator of NVIDIA's, find the folder taken, resume with more steps: from anywhere, and again
    without naming them."""
    run, generator = tmp_path / "run", tmp_path / "afhqcat.pkl"
    tensors = seeded(tiny_table(TINY_GENERATOR), 3)
    write_torch(generator, tensors, conv_clamp=2.0)
    args = ("--task", "sketch", "--data", drawn / "sketches", "--target", drawn / "faces", "--generator", generator)
    every = ("--held-out", 2, "--log-every", 1, "--validate-every", 2, "--save-every", 1, "--workers", 0)
    code, out, err = psp_train(*args, *every, "--out", run, "--steps", 1, "--set", "batch_size=2")
    assert code == 0 and "training sketch 1/1" in err
    assert out.startswith(f"{run}/") and f"psp export --checkpoint {run}/" in out and out.endswith(f"plot {run}\n")
    named = Path(out.partition(",")[0])
    assert named.is_file() and named.suffix == ".pt"
    trained = load_checkpoint(named)
    assert trained.generator == replace(TINY_GENERATOR, conv_clamp=2.0)
    assert torch.equal(trained.model.decoder.input.input[0], tensors["synthesis.b4.const"])
    assert torch.equal(trained.model.latent_avg[0], tensors["mapping.w_avg"])
    assert RunFolder(run).steps() == [1]
    before = (run / "metrics.jsonl").read_text()
    assert_mistake(psp_train(*args, "--out", run), "already holds a training", "--resume")
    assert (run / "metrics.jsonl").read_text() == before
    assert psp_train("--resume", run, "--steps", 2)[0] == 0
    assert RunFolder(run).steps() == [1, 2]
    stored = Settings.from_json(RunFolder(run).settings())
    assert stored.recipe == make_recipe("sketch", overrides=dict(batch_size=2, steps=2))
    assert (stored.data, stored.out, stored.held_out) == (drawn / "sketches", run, 2)
    assert psp_train("--resume", run)[0] == 0 and RunFolder(run).steps() == [1, 2]
    for file in run.glob("step_*"):
        file.unlink()
    code, _, err = psp_train("--resume", run)
    assert code == 0 and f"warning: {run} holds no checkpoint yet: it is trained from the first step on" in err


def test_a_run_cannot_take_back_steps(psp_train, drawn, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(make_settings(drawn, run.path).to_json())
    run.save(2, {}, {})
    before = (run.path / "run.json").read_bytes()
    assert_mistake(psp_train("--resume", run.path, "--steps", 1), "--steps 1", "has done 2 steps already")
    assert (run.path / "run.json").read_bytes() == before


def test_the_new_run_is_a_file(psp_train, drawn, tmp_path):
    (tmp_path / "run").touch()
    mistake = psp_train("--task", "inversion", "--data", drawn / "faces", "--out", tmp_path / "run")
    assert_mistake(mistake, tmp_path / "run", "is a file, expected a folder")


def test_resume_of_no_run(psp_train, tmp_path):
    assert_mistake(psp_train("--resume", tmp_path / "run"), tmp_path / "run", "holds no training")
    (tmp_path / "run.json").write_text("{")
    assert_mistake(psp_train("--resume", tmp_path), "holds no training")
    (tmp_path / "run.json").write_text("{}")
    assert_mistake(psp_train("--resume", tmp_path), "another version")


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        (("--set", "l2=3"), "l2"),
        (("--set", "seed=1", "--steps", 9), "seed"),
        (("--amp", "bf16"), "--amp"),
        (("--task", "sketch"), "--task"),
        (("--data", "elsewhere", "--compile"), "--compile, --data"),
    ],
)
def test_resume_with_other_settings(args, refused, psp_train, drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run")
    RunFolder(settings.out).create(settings.to_json())
    mistake = psp_train("--resume", settings.out, *args)
    assert_mistake(mistake, f"only --steps can change, not {refused}")
    assert [path.name for path in settings.out.iterdir()] == ["run.json"]


def test_options_of_the_command_line(psp_train):
    code, out, _ = psp_train("--help")
    assert code == 0
    assert all(name in out for name in ("--task", "--resume", "--demo", "--set", "torchrun", "plot", "sketches"))


def test_plot(psp_train, tmp_path):
    rows = [{"step": step, "split": "train", "loss": 1 / step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = psp_train("plot", tmp_path)
    assert (code, out.strip(), err) == (0, str(tmp_path / "curves.png"), "")
    assert_mistake(psp_train("plot", tmp_path / "none"), "metrics.jsonl")


def test_sketches(psp_train, drawn, tmp_path):
    code, out, err = psp_train("sketches", drawn / "faces", tmp_path / "sketches")
    assert code == 0 and "sketches made: 8" in out, err
    with Image.open(tmp_path / "sketches/a3.png") as sketch:
        assert sketch.mode == "L" and sketch.size == (256, 256)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"no picture")
    assert psp_train("sketches", tmp_path / "photos", tmp_path / "more")[0] == 1


def test_files_of_another_training_are_not_continued(psp_train, tmp_path):
    for name in ("step_00000002.pt", "metrics.jsonl"):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        (run / name).write_text("{}")
        mistake = psp_train("--task", "sketch", "--demo", "--out", run)
        assert_mistake(mistake, f"{name} is left from another training", "give another --out")
        assert [path.name for path in run.iterdir()] == [name]


def test_faces_are_not_drawn_among_other_files(psp_train, tmp_path):
    """A demo's --data is where to draw: not a folder of photos."""
    photo = tmp_path / "photos/a.png"
    photo.parent.mkdir()
    photo.write_bytes(b"a photo")
    for data in (photo.parent, photo):
        mistake = psp_train("--task", "sketch", "--demo", "--data", data, "--out", tmp_path / "run")
        assert_mistake(mistake, data, "holds other files", "another --data")
    assert list(tmp_path.rglob("*")) == [photo.parent, photo]
