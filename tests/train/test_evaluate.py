"""psp-eval: numbers in closed form, every kind of input, and one line for every mistake."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_checkpoint, tiny_model
from PIL import Image
from tiny_engines import expected_output, write_onnx

from psp_runtime.errors import PspError
from psp_runtime.pictures.loading import load
from psp_runtime.pictures.transforms import triangle
from psp_runtime.tasks import TASKS
from psp_train.data.samples import degrade
from psp_train.drawn import draw, judges, sample
from psp_train.drawn.dataset import HELD_OUT_SEED
from psp_train.evaluation import cli
from psp_train.evaluation.metrics import MSE, demo_metrics, mse, picture_distance, published_metrics, resize_to_256
from psp_train.evaluation.models import (
    EvaluationSample,
    ModelUnderTest,
    drawn_samples,
    folder_samples,
    open_model,
    torch_model,
)
from psp_train.losses import published
from psp_train.networks.psp import to_input, to_picture

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 256, 256, 3), np.uint8)
NAMES = ["a.png", "b.png", "more/a.png"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an engine and test pictures, one of them in a sub-folder."""
    monkeypatch.chdir(tmp_path)
    write_onnx(Path("psp.onnx"))
    save(dict(zip(NAMES, PIXELS)), "test")
    return tmp_path


def save(pictures, folder):
    for name, pixels in pictures.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def psp_eval(here, monkeypatch, capsys):
    """Run psp-eval in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["psp-eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def report(outcome):
    """The JSON of the last line, which is also in a table."""
    code, out, _ = outcome
    assert code == 0, outcome
    return json.loads(out.splitlines()[-1])


def of_tiny_engine(pixels):
    """What the tiny engine makes of pictures, at 256x256."""
    ramp = np.arange(32, dtype=np.float32) / 2550
    return resize_to_256(np.stack([expected_output(p, np.float32(p.mean()) * ramp) for p in pixels]))


def model(run=lambda pixels: pixels, task="inversion", batch=2, classes=19):
    return ModelUnderTest("fake", TASKS[task], classes, batch, "cpu", "none", run)


def values_of(outputs, targets):
    """The MSE of pictures in [-1,1], written out."""
    return np.mean((outputs / 127.5 - 1 - (targets / 127.5 - 1)) ** 2, axis=(1, 2, 3))


# ---- Metrics --------------------------------------------------------------------------------------------------


def test_mse_is_that_of_pictures_from_minus_one_to_one():
    a, b = PIXELS[:2], PIXELS[1:]
    np.testing.assert_allclose(mse(a, b), values_of(a, b), rtol=1e-12)
    black, white = np.zeros((1, 256, 256, 3), np.uint8), np.full((1, 256, 256, 3), 255, np.uint8)
    assert mse(black, white) == mse(white, black) == [4.0] and mse(white, white) == [0.0]


def test_other_sizes_are_brought_to_256():
    assert resize_to_256(PIXELS) is PIXELS
    large = np.kron(PIXELS[:1, :, :, :], np.ones((1, 2, 2, 1), np.uint8))
    assert resize_to_256(large).shape == (1, 256, 256, 3)
    expected = np.asarray(Image.fromarray(large[0]).resize((256, 256), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_to_256(large)[0], expected)


def test_networks_see_minus_one_to_one():
    seen = []

    class Fake(torch.nn.Module):
        def forward(self, x, y):
            seen.extend((x, y))
            return (x - y).abs().mean((1, 2, 3))

    values = picture_distance(Fake(), "cpu")(PIXELS[:2], np.full_like(PIXELS[:2], 255))
    assert seen[0].shape == (2, 3, 256, 256) and seen[1].unique().tolist() == [1.0]
    np.testing.assert_allclose(values, 2 - 2 * PIXELS[:2].astype(float).mean((1, 2, 3)) / 255, rtol=1e-5)


def test_published_metrics(monkeypatch):
    def distance(value):
        return lambda *_: lambda x, y: torch.full((len(x),), value)

    monkeypatch.setattr(published, "find", lambda *_: {})
    monkeypatch.setattr(published, "load_similarity", distance(0.25))
    monkeypatch.setattr(published, "load_lpips", distance(0.125))
    monkeypatch.setattr(
        "psp_train.evaluation.metrics.picture_distance", lambda network, _: lambda a, b: network(a, b).numpy()
    )
    found = {metric.name: metric.compare(PIXELS, PIXELS).tolist() for metric in published_metrics(Path("w"), "cpu")}
    assert found == {"similarity": [0.75] * 3, "lpips": [0.125] * 3, "mse": [0.0] * 3}
    assert published_metrics(None, "cpu") == [MSE]


def test_judges_of_drawn_faces_have_names_of_their_own():
    judged = demo_metrics("cpu")
    assert [metric.name for metric in judged] == ["identity_distance", "feature_distance", "mse"]
    one, other = (draw(z).image[None] for z in sample(2, seed=9))
    for metric in judged:
        assert metric.compare(one, one)[0] < 1e-6 < metric.compare(one, other)[0]


# ---- Measuring ------------------------------------------------------------------------------------------------


def test_a_perfect_model():
    jobs = [lambda p=p, n=n: EvaluationSample(n, p, p) for p, n in zip(PIXELS, NAMES)]
    values = cli.measure(model(), jobs, [MSE])
    assert values == {name: {"mse": 0.0} for name in NAMES}
    summary = cli.summary(model(), values, 0.5)
    assert summary["metrics"] == {"mse": {"mean": 0.0, "std": 0.0}}
    assert (summary["pictures"], summary["seconds"]) == (3, 0.5)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_any_batch_gives_the_same_numbers_in_order(batch):
    seen = []

    def negative(pixels):
        seen.append(len(pixels))
        return 255 - pixels

    jobs = [lambda p=p, n=n: EvaluationSample(n, p, p) for p, n in zip(PIXELS, NAMES)]
    values = cli.measure(model(negative, batch=batch), jobs, [MSE])
    assert list(values) == NAMES and sum(seen) == 3 and max(seen) == min(batch, 3)
    np.testing.assert_allclose([v["mse"] for v in values.values()], values_of(255 - PIXELS, PIXELS))


def test_mean_and_deviation_over_pictures():
    values = {name: {"mse": value} for name, value in zip(NAMES, (1.0, 2.0, 6.0))}
    assert cli.summary(model(), values, 1)["metrics"] == {"mse": {"mean": 3.0, "std": round(14**0.5 / 3**0.5, 6)}}


def test_runtime_is_the_median_of_warm_single_pictures(monkeypatch):
    clock, shapes = [0.0], []
    durations = iter([50.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 100.0])

    def slow(pixels):
        shapes.append(pixels.shape)
        clock[0] += next(durations)
        return pixels

    monkeypatch.setattr(cli.time, "perf_counter", lambda: clock[0])
    assert cli.median_seconds(model(slow), PIXELS[0]) == 5.5
    assert set(shapes) == {(1, 256, 256, 3)} and len(shapes) == cli.WARM_UP + cli.TIMED


# ---- Samples --------------------------------------------------------------------------------------------------


def test_super_resolution_shrinks_good_pictures(here):
    jobs = folder_samples(model(task="super_resolution"), Path("test"), None, 4)
    for job, pixels, name in zip(jobs, PIXELS, NAMES):
        sample = job()
        assert sample.name == name and np.array_equal(sample.target, pixels)
        expected = degrade(TASKS["super_resolution"], pixels, np.random.default_rng(5), (4,))
        assert np.array_equal(sample.source, expected) and not np.array_equal(expected, pixels)


def test_inpainting_hides_the_triangle(here):
    values = cli.measure(
        model(task="inpainting"), folder_samples(model(task="inpainting"), Path("test"), None, None), [MSE]
    )
    hidden = triangle()[..., None]
    expected = [np.mean(hidden * (pixels / 127.5) ** 2) for pixels in PIXELS]
    np.testing.assert_allclose([v["mse"] for v in values.values()], expected)


def test_pairs_are_not_degraded(here):
    save({name.replace(".png", ".webp"): 255 - p for name, p in zip(NAMES, PIXELS)}, "small")
    sample = folder_samples(model(task="super_resolution"), Path("small"), Path("test"), None)[0]()
    assert np.array_equal(sample.source, load("small/a.webp", "rgb"))
    assert np.array_equal(sample.target, PIXELS[0])


@pytest.mark.parametrize(("task", "shape"), [("sketch", (256, 256, 1)), ("segmentation", (256, 256))])
def test_sketches_and_label_maps_are_paired(here, task, shape):
    save({name: RNG.integers(0, 19, (256, 256), np.uint8) for name in NAMES}, "inputs")
    samples = [job() for job in folder_samples(model(task=task), Path("inputs"), Path("test"), None)]
    assert [sample.name for sample in samples] == NAMES
    assert all(sample.source.shape == shape and sample.source.max() <= 18 for sample in samples)
    assert all(np.array_equal(sample.target, pixels) for sample, pixels in zip(samples, PIXELS))


@pytest.mark.parametrize("task", [name for name in TASKS if name != "toonify"])
def test_drawn_faces_of_every_task(task):
    vector = sample(1, HELD_OUT_SEED)[0]
    face = draw(vector)
    source = {"rgb": face.image, "sketch": face.sketch[..., None], "labels": face.labels}[TASKS[task].input]
    (job,) = drawn_samples(model(task=task), 1, 8 if task == "super_resolution" else None)
    _, found, target = job()
    plain = task not in ("super_resolution", "inpainting")
    assert np.array_equal(found, source) == plain and found.shape == source.shape
    assert np.array_equal(target, face.image) == (task != "frontalization")


def test_tasks_without_drawn_faces():
    with pytest.raises(PspError, match="no drawn faces for task toonify"):
        drawn_samples(model(task="toonify"), 1, None)
    with pytest.raises(PspError, match="fake knows 5 classes, but drawn faces have 19"):
        drawn_samples(model(task="segmentation", classes=5), 1, None)


# ---- The command ----------------------------------------------------------------------------------------------


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
    save(dict(zip(NAMES, targets)), "targets")
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
    ((*ENGINE, *DATA, "--target", "one"), "2 of 3 pictures in test have no picture of the same name in one"),
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
    save({"a.png": PIXELS[0]}, "one")
    save({"a.png": PIXELS[0]}, "damaged")
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
    assert (code, err) == (2, "error: psp-eval needs torch: pip install 'psp-toolkit[cpu,train]'\n")


def test_a_full_disk_keeps_earlier_results(psp_eval, here, monkeypatch):
    Path("results.json").write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, out, err = psp_eval(*ENGINE, *DATA, "--out", "results.json")
    assert code == 2 and out == "" and "cannot write results.json: No space left on device" in err
    assert Path("results.json").read_text() == "earlier"
    assert not [path for path in here.iterdir() if path.name.startswith(".")]
