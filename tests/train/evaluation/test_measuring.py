"""What psp-eval measures: any model in any batch, on pictures that are degraded, paired or drawn."""

from pathlib import Path

import numpy as np
import pytest
from eval_cases import NAMES, PIXELS, model_under_test, save_pictures, values_of

from psp_runtime.errors import PspError
from psp_runtime.pictures.loading import load
from psp_runtime.pictures.transforms import triangle
from psp_runtime.tasks import TASKS
from psp_train.data.samples import degrade
from psp_train.drawn import draw, sample
from psp_train.drawn.dataset import HELD_OUT_SEED
from psp_train.evaluation import cli
from psp_train.evaluation.metrics import MSE
from psp_train.evaluation.models import (
    EvaluationSample,
    drawn_samples,
    folder_samples,
)


def test_a_perfect_model():
    lazy = [lambda p=p, n=n: EvaluationSample(n, p, p) for p, n in zip(PIXELS, NAMES)]
    values = cli.measure(model_under_test(), lazy, [MSE])
    assert values == {name: {"mse": 0.0} for name in NAMES}
    summary = cli.summary(model_under_test(), values, 0.5)
    assert summary["metrics"] == {"mse": {"mean": 0.0, "std": 0.0}}
    assert (summary["pictures"], summary["seconds"]) == (3, 0.5)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_any_batch_gives_the_same_numbers_in_order(batch):
    seen = []

    def negative(pixels):
        seen.append(len(pixels))
        return 255 - pixels

    lazy = [lambda p=p, n=n: EvaluationSample(n, p, p) for p, n in zip(PIXELS, NAMES)]
    values = cli.measure(model_under_test(negative, batch=batch), lazy, [MSE])
    assert list(values) == NAMES and sum(seen) == 3 and max(seen) == min(batch, 3)
    np.testing.assert_allclose([v["mse"] for v in values.values()], values_of(255 - PIXELS, PIXELS))


def test_mean_and_deviation_over_pictures():
    values = {name: {"mse": value} for name, value in zip(NAMES, (1.0, 2.0, 6.0))}
    expected = {"mse": {"mean": 3.0, "std": round(14**0.5 / 3**0.5, 6)}}
    assert cli.summary(model_under_test(), values, 1)["metrics"] == expected


def test_runtime_is_the_median_of_warm_single_pictures(monkeypatch):
    clock, shapes = [0.0], []
    durations = iter([50.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 100.0])

    def slow(pixels):
        shapes.append(pixels.shape)
        clock[0] += next(durations)
        return pixels

    monkeypatch.setattr(cli.time, "perf_counter", lambda: clock[0])
    assert cli.median_seconds(model_under_test(slow), PIXELS[0]) == 5.5
    assert set(shapes) == {(1, 256, 256, 3)} and len(shapes) == cli.WARM_UP + cli.TIMED


def test_super_resolution_shrinks_good_pictures(here):
    lazy = folder_samples(model_under_test(task="super_resolution"), Path("test"), None, 4)
    for load_sample, pixels, name in zip(lazy, PIXELS, NAMES):
        sample = load_sample()
        assert sample.name == name and np.array_equal(sample.target, pixels)
        expected = degrade(TASKS["super_resolution"], pixels, np.random.default_rng(5), (4,))
        assert np.array_equal(sample.source, expected) and not np.array_equal(expected, pixels)


def test_inpainting_hides_the_triangle(here):
    model = model_under_test(task="inpainting")
    values = cli.measure(model, folder_samples(model, Path("test"), None, None), [MSE])
    hidden = triangle()[..., None]
    expected = [np.mean(hidden * (pixels / 127.5) ** 2) for pixels in PIXELS]
    np.testing.assert_allclose([v["mse"] for v in values.values()], expected)


def test_pairs_are_not_degraded(here):
    save_pictures({name.replace(".png", ".webp"): 255 - p for name, p in zip(NAMES, PIXELS)}, "small")
    sample = folder_samples(model_under_test(task="super_resolution"), Path("small"), Path("test"), None)[0]()
    assert np.array_equal(sample.source, load("small/a.webp", "rgb"))
    assert np.array_equal(sample.target, PIXELS[0])


@pytest.mark.parametrize(("task", "shape"), [("sketch", (256, 256, 1)), ("segmentation", (256, 256))])
def test_sketches_and_label_maps_are_paired(here, task, shape):
    save_pictures({name: np.random.default_rng(1).integers(0, 19, (256, 256), np.uint8) for name in NAMES}, "inputs")
    lazy = folder_samples(model_under_test(task=task), Path("inputs"), Path("test"), None)
    samples = [load_sample() for load_sample in lazy]
    assert [sample.name for sample in samples] == NAMES
    assert all(sample.source.shape == shape and sample.source.max() <= 18 for sample in samples)
    assert all(np.array_equal(sample.target, pixels) for sample, pixels in zip(samples, PIXELS))


@pytest.mark.parametrize("task", [name for name in TASKS if name != "toonify"])
def test_drawn_faces_of_every_task(task):
    vector = sample(1, HELD_OUT_SEED)[0]
    face = draw(vector)
    source = {"rgb": face.image, "sketch": face.sketch[..., None], "labels": face.labels}[TASKS[task].input]
    (load_sample,) = drawn_samples(model_under_test(task=task), 1, 8 if task == "super_resolution" else None)
    _, found, target = load_sample()
    plain = task not in ("super_resolution", "inpainting")
    assert np.array_equal(found, source) == plain and found.shape == source.shape
    assert np.array_equal(target, face.image) == (task != "frontalization")


def test_tasks_without_drawn_faces():
    with pytest.raises(PspError, match="no drawn faces for task toonify"):
        drawn_samples(model_under_test(task="toonify"), 1, None)
    with pytest.raises(PspError, match="fake knows 5 classes, but drawn faces have 19"):
        drawn_samples(model_under_test(task="segmentation", classes=5), 1, None)
