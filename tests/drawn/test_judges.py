"""The judges of drawn faces: near their stored errors on faces nobody has seen, and usable as losses."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from psp_train.drawn import draw, judges, parameters, sample, with_parameters

SEED, COUNT = 14, 40  # tools/train_judges.py trains on seed 11 and measures on 12


@pytest.fixture(scope="module")
def judge():
    return judges.load_judges()


@pytest.fixture(scope="module")
def z():
    return sample(COUNT, SEED)


@pytest.fixture(scope="module")
def x(z):
    return pictures(z)


def pictures(z):
    """[N,3,256,256] in [-1,1], as a generator makes them."""
    images = np.stack([draw(row).image for row in z])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def turned(z):
    """The same faces, turned to the other side."""
    return np.stack([with_parameters(row, yaw=-parameters(row)["yaw"]) for row in z])


def blurred(x, factor):
    return F.interpolate(F.avg_pool2d(x, factor), scale_factor=float(factor), mode="bilinear")


def test_weights_are_small_and_share_nothing(judge):
    assert judges.WEIGHTS_FILE.stat().st_size <= 3e6
    parameters = [p for network in judge for p in network.parameters()]
    assert len({p.data_ptr() for p in parameters}) == len(parameters)
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in parameters)
    assert not any(network.training for network in judge)


def test_yaw_error_is_near_the_stored_one(judge, z, x):
    truth = torch.tensor([parameters(row)["yaw"] for row in z])
    assert (judge.yaw(x) - truth).abs().mean() < 1.5 * judges.errors()["yaw_degrees"] + 0.2


def test_label_maps_are_near_the_stored_accuracy(judge, z, x):
    truth = torch.from_numpy(np.stack([draw(row, judges.SIZE).labels for row in z]))
    guess = judge.segmenter(x)
    assert guess.dtype == torch.int64 and guess.shape == (COUNT, judges.SIZE, judges.SIZE)
    wrong = (guess != truth).float().mean()
    assert wrong < 1.5 * (1 - judges.errors()["segmenter_accuracy"])


def test_identity_survives_turning(judge, z, x):
    """A turned face is far nearer to itself than another one is, by about the stored distances."""
    stored, own, other = judges.errors(), judge.identity(x, pictures(turned(z))), judge.identity(x, x.roll(1, 0))
    assert own.mean() < 2 * stored["identity_changed"]
    assert other.mean() > 0.8 * stored["identity_other"]
    assert (own < other).all()


def test_features_of_identity_are_unit_vectors(judge, x):
    features = judge.identity.features(x[:3])
    assert features.shape == (3, len(judges.IDENTITY_PARAMETERS))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("name", ["perceptual", "identity"])
def test_equal_pictures_have_no_distance(judge, x, name):
    assert getattr(judge, name)(x[:4], x[:4].clone()).tolist() == [0] * 4


def test_feature_distance_grows_with_blur(judge, x):
    x = x[:16]
    distances = torch.stack([judge.perceptual(x, blurred(x, factor)) for factor in (2, 4, 8)])
    assert (distances[0] > 0).all() and (distances.diff(dim=0) > 0).all()
    assert (judge.perceptual(x, x.roll(1, 0)) > distances[0]).all()


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_distances_take_any_size(judge, x, size):
    small = F.adaptive_avg_pool2d(x[:2], size)
    for distance in (judge.perceptual, judge.identity):
        assert distance(small, small.roll(1, 0)).shape == (2,)


@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_flow_to_the_pictures_only(judge, x, bf16):
    picture = x[:2].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = [judge.perceptual(picture, x[2:4]), judge.identity(picture, x[2:4]), judge.yaw(picture)]
    for loss in losses:
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss.sum(), picture)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_gradients_flow_to_both_pictures(judge, x):
    a, b = x[:2].clone().requires_grad_(), x[2:4].clone().requires_grad_()
    for distance in (judge.perceptual, judge.identity):
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(distance(a, b).sum(), (a, b)))
