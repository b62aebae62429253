"""The numbers of psp-eval in closed form."""

from pathlib import Path

import numpy as np
import torch
from eval_cases import PIXELS, values_of
from PIL import Image

from psp_train.drawn import draw, sample
from psp_train.evaluation.metrics import MSE, demo_metrics, mse, picture_distance, published_metrics, resize_to_256
from psp_train.losses import published


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
