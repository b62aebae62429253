"""`psp-eval` as a user meets it: every kind of model, and one line for every mistake."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_cases import NAMES, PIXELS, of_tiny_engine, save_pictures, values_of
from models import tiny_checkpoint, tiny_model
from tiny_engines import write_onnx

from psp_runtime.tasks import TASKS
from psp_train.data.samples import degrade
from psp_train.drawn import draw, judges, sample
from psp_train.drawn.dataset import HELD_OUT_SEED
from psp_train.evaluation.metrics import resize_to_256
from psp_train.evaluation.models import (
    open_model,
    torch_model,
)
from psp_train.losses import published
from psp_train.networks.psp import to_input, to_picture


def report(outcome):
    """The JSON of the last line, which is also in a table."""
    code, out, _ = outcome
    assert code == 0, outcome
    return json.loads(out.splitlines()[-1])


def test_an_engine(psp_eval):
    outcome = psp_eval("--engine", "psp.onnx", "--data", "test", "--out", "results.json", "--device", "cpu")
    numbers, expected = report(outcome), values_of(of_tiny_engine(PIXELS), PIXELS)
    assert list(numbers["metrics"]) == ["mse"]
    assert numbers["metrics"]["mse"]["mean"] == pytest.approx(expected.mean(), rel=1e-3)
    assert numbers["metrics"]["mse"]["std"] == pytest.approx(expected.std(), rel=0.1)
    assert {name: numbers[name] for name in ("model", "task", "data", "pictures", "device", "provider")} == {
        "model": "psp.onnx",
        "task": "inversion",
        "data": "test",
        "pictures": 3,
        "device": "cpu",
        "provider": "CPUExecutionProvider",
    }
    assert 0 < numbers["seconds"] < 10
    assert "similarity and LPIPS are not measured: give --weights" in outcome[1]
    assert "s per picture, median of 10 warm runs at batch 1: cpu, CPUExecutionProvider" in outcome[1]
    written = json.loads(Path("results.json").read_text())
    assert {name: written[name] for name in numbers} == numbers
    assert list(written["per_picture"]) == NAMES
    found = [written["per_picture"][name]["mse"] for name in NAMES]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_targets(psp_eval):
    targets = of_tiny_engine(PIXELS)
    save_pictures(dict(zip(NAMES, targets)), "targets")
    numbers = report(psp_eval("--engine", "psp.onnx", "--data", "test", "--target", "targets"))
    assert numbers["metrics"]["mse"]["mean"] < 1e-4  # one level of rounding at most


def test_super_resolution_by_default_and_by_a_factor(psp_eval):
    write_onnx(Path("small.onnx"), task="super_resolution")
    command = ("--engine", "small.onnx", "--data", "test")
    for factor, options in ((8, ()), (2, ("--factor", 2))):
        numbers = report(psp_eval(*command, *options))
        task, rng = TASKS["super_resolution"], np.random.default_rng(0)
        outputs = of_tiny_engine(np.stack([degrade(task, pixels, rng, (factor,)) for pixels in PIXELS]))
        assert numbers["factor"] == factor
        assert numbers["metrics"]["mse"]["mean"] == pytest.approx(values_of(outputs, PIXELS).mean(), rel=1e-3)


def save_checkpoint(path="psp.pt", **opts):
    Path(path).parent.mkdir(exist_ok=True)
    opts = {"dataset_type": "ffhq_encode", "encoder_type": "GradualStyleEncoder"} | opts
    tiny = tiny_model()
    torch.save({"state_dict": tiny.state_dict(), "opts": opts, "latent_avg": tiny.latent_avg}, path)


def test_a_checkpoint(psp_eval):
    save_checkpoint()
    numbers = report(psp_eval("--checkpoint", "psp.pt", "--data", "test", "--device", "cpu"))
    with torch.inference_mode():
        outputs = resize_to_256(to_picture(tiny_model()(to_input(torch.from_numpy(PIXELS), "rgb", 3))[0]).numpy())
    assert numbers["metrics"]["mse"]["mean"] == pytest.approx(values_of(outputs, PIXELS).mean(), rel=1e-4)
    assert numbers["device"] == "cpu" and numbers["provider"].startswith("PyTorch 2.")


def test_a_checkpoint_and_its_engine_are_measured_alike(tmp_path):
    from psp_export.export import Options, export

    checkpoint = tiny_checkpoint()
    export(checkpoint, Options(tmp_path / "psp", "fp32", "onnx", verify=False))
    with open_model(tmp_path / "psp.onnx", None, None, "cpu") as engine:
        ours = engine.run(PIXELS)
    theirs = torch_model(checkpoint, "cpu").run(PIXELS)
    assert ours.dtype == theirs.dtype == np.uint8 and ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_demo(psp_eval):
    outcome = psp_eval("--demo", "--count", 2)
    numbers = report(outcome)
    assert list(numbers["metrics"]) == ["identity_distance", "feature_distance", "mse"]
    assert (numbers["model"], numbers["data"], numbers["pictures"]) == ("bundled demo model", "drawn faces", 2)
    assert numbers["metrics"]["mse"]["mean"] < 0.03
    assert "LPIPS" not in outcome[1] and "similarity" not in outcome[1]


def test_an_engine_on_drawn_faces(psp_eval):
    numbers = report(psp_eval("--demo", "--engine", "psp.onnx", "--count", 3))
    drawn = np.stack([draw(z).image for z in sample(3, HELD_OUT_SEED)])
    expected = values_of(of_tiny_engine(drawn), drawn).mean()
    assert numbers["metrics"]["mse"]["mean"] == pytest.approx(expected, rel=1e-3)


def test_published_networks(psp_eval, monkeypatch):
    ours = judges.load_judges()
    monkeypatch.setattr(published, "find", lambda *_: {})
    monkeypatch.setattr(published, "load_similarity", lambda _: ours.identity)
    monkeypatch.setattr(published, "load_lpips", lambda *_: ours.perceptual)
    outcome = psp_eval("--engine", "psp.onnx", "--data", "test", "--weights", "weights")
    assert list(report(outcome)["metrics"]) == ["similarity", "lpips", "mse"]
    assert "not measured" not in outcome[1]


def test_help_is_quick():
    code = "import sys, psp_train.evaluation.cli; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ENGINE, DATA = ("--engine", "psp.onnx"), ("--data", "test")


MISTAKES = [
    ((*ENGINE,), "give --data, the folder of test pictures, or --demo"),
    ((*DATA,), "expected --engine ENGINE or --checkpoint CHECKPOINT with --data FOLDER, or --demo"),
    ((*ENGINE, "--checkpoint", "psp.pt", *DATA), "give --engine or --checkpoint, not both"),
    ((*ENGINE, *DATA, "--encoder", "e4e"), "--encoder goes with --checkpoint: engines and demo models say"),
    (("--demo", "--encoder", "e4e"), "--encoder goes with --checkpoint"),
    (("--demo", *DATA), "leave out --data, --target and --weights"),
    ((*ENGINE, *DATA, "--count", "2"), "--count is for --demo: all pictures of a folder are measured"),
    (("--demo", "--weights", "test"), "leave out --data, --target and --weights"),
    (("--demo", "--task", "toonify"), "toonify"),
    (("--demo", "--task", "inversions"), "unknown task 'inversions': choose one of"),
    (("--engine", "nothing.onnx", *DATA), "nothing.onnx"),
    (("--engine", "text.onnx", *DATA), "text.onnx"),
    (("--engine", "encoder.onnx", *DATA), "only the encoder, expected the full engine"),
    (("--checkpoint", "nothing.pt", *DATA), "no checkpoint at nothing.pt"),
    (("--checkpoint", "text.onnx", *DATA), "text.onnx is not a PyTorch checkpoint"),
    (("--checkpoint", "unknown.pt", *DATA), "does not say which task it is for"),
    ((*ENGINE, *DATA, "--task", "sketch"), "--task sketch contradicts psp.onnx, which is for inversion"),
    ((*ENGINE, "--data", "nowhere"), "no folder nowhere"),
    ((*ENGINE, "--data", "empty"), "no pictures in empty"),
    ((*ENGINE, "--data", "damaged"), "cannot read damaged/a.png"),
    ((*ENGINE, *DATA, "--target", "one"), "2 of 3 pictures in test without one of the same name in one"),
    (("--engine", "sketch.onnx", *DATA), "give --target, the folder of their faces"),
    (("--engine", "labels.onnx", *DATA, "--target", "test"), "--data and --target are both test"),
    ((*ENGINE, *DATA, "--factor", "4"), "--factor is for super_resolution without --target"),
    (
        ("--engine", "small.onnx", *DATA, "--target", "test", "--factor", "4"),
        "--factor is for super_resolution without",
    ),
    ((*ENGINE, *DATA, "--weights", "empty"), "alexnet-owt-7be5be79.pth"),
    ((*ENGINE, *DATA, "--weights", "nowhere"), "(no such folder)"),
    ((*ENGINE, *DATA, "--out", "test"), "cannot write test: expected the name of a file"),
    ((*ENGINE, *DATA, "--out", "nowhere/results.json"), "cannot write nowhere/results.json"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_mistakes_are_one_line(psp_eval, here, arguments, said):
    for kind in ("sketch", "labels"):
        write_onnx(Path(f"{kind}.onnx"), kind)
    write_onnx(Path("small.onnx"), task="super_resolution")
    write_onnx(Path("encoder.onnx"), part="encoder")
    Path("text.onnx").write_text("not an engine\n")
    Path("empty").mkdir()
    save_pictures({"a.png": PIXELS[0]}, "one")
    save_pictures({"a.png": PIXELS[0]}, "damaged")
    Path("damaged/a.png").write_bytes(Path("one/a.png").read_bytes()[:1000])
    if "unknown.pt" in arguments:
        save_checkpoint("unknown.pt", dataset_type="cats")
    before = sorted(here.rglob("*"))
    code, out, err = psp_eval(*arguments)
    assert (code, out) == (2, "") and said in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none(psp_eval):
    code, _, err = psp_eval("--demo", "--device", "cuda")
    assert code == 2 and err.startswith("error: --device cuda: PyTorch finds no NVIDIA GPU") and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("--count", "0"), ("--device", "tpu"), ("--factor", "x"), ("--factor", "65"), ("--fast",)],
)
def test_wrong_options_are_one_line(psp_eval, arguments):
    code, _, err = psp_eval("--demo", *arguments)
    assert code == 2 and err.startswith("error: ") and err.endswith(" --help\n") and err.count("\n") == 1


def test_without_torch(psp_eval, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    code, _, err = psp_eval(*ENGINE, *DATA)
    assert (code, err) == (2, "error: psp-eval needs torch: pip install '.[cpu,train]'\n")


def test_a_full_disk_keeps_earlier_results(psp_eval, here, monkeypatch):
    Path("results.json").write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, out, err = psp_eval(*ENGINE, *DATA, "--out", "results.json")
    assert code == 2 and out == "" and "cannot write results.json: No space left on device" in err
    assert Path("results.json").read_text() == "earlier"
    assert not [path for path in here.iterdir() if path.name.startswith(".")]
