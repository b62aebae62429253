"""The encoders over ResNet-50: their keys, their checkpoints and where their training starts."""

from dataclasses import replace

import pytest
import torch
from models import (
    FILE_NAMES,
    inputs,
    relative_error,
    resnet50_table,
    same,
    thin,
    thin_state,
    tiny_model,
)

from psp_train.checkpoints.psp import checkpoint_dict, load_checkpoint
from psp_train.checkpoints.state_files import WeightsError
from psp_train.networks import PSP, EncoderConfig, build_encoder
from psp_train.networks.config import published_config
from psp_train.networks.features import ResNet50
from psp_train.networks.pointwise import PointwiseConv
from psp_train.recipes import make_recipe
from psp_train.training.build import DEMO_RESNET, build_model, demo_model
from psp_train.training.settings import Settings

KINDS = {"resnet_w": "global", "resnet_wplus": "local"}


HEADS = {"resnet_w": 1, "resnet_wplus": 18}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_shapes_at_the_published_size(kind):
    with torch.device("meta"):
        encoder = build_encoder(published_config(kind))
    expected = {f"backbone.{key}": shape for key, shape in resnet50_table().items()}
    for number in range(HEADS[kind]):
        expected |= {f"heads.{number}.weight": [512, 2048], f"heads.{number}.bias": [512]}
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == expected


def test_parameters_are_those_of_resnet50():
    """With the classifier (two tensors, 1000 classes of 2048 features) 161 tensors of 25,557,032 numbers."""
    with torch.device("meta"):
        sizes = [parameter.numel() for parameter in build_encoder(published_config("resnet_w")).backbone.parameters()]
    assert len(sizes) + 2 == 161
    assert sum(sizes) + 1000 * 2048 + 1000 == 25_557_032


def test_published_sizes():
    assert published_config("psp", 1, 14, 64) == EncoderConfig("psp", 1, 14, 64)
    assert published_config("resnet_w").units == (3, 4, 6, 3)
    assert published_config("resnet_w").widths == EncoderConfig().widths


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_linear_in_the_features(kind):
    encoder = tiny_model(kind).encoder
    x = inputs("x", (2, 3, 256, 256), scale=0.5)
    latents, features = encoder(x), encoder.backbone(x)
    assert latents.shape == (2, 10, 32)
    for style in range(10):
        head = encoder.heads[style if kind == "resnet_wplus" else 0]
        assert relative_error(latents[:, style], (features @ head.weight.T + head.bias).numpy()) < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolution_is_the_strided_one(stride):
    conv = PointwiseConv(5, 7, stride)
    x = inputs("x", (2, 5, 9, 8)).requires_grad_()
    expected = torch.nn.functional.conv2d(x, conv.weight, stride=stride)
    assert conv.stride == (stride, stride)  # the deployable form reads it
    torch.testing.assert_close(conv(x), expected)
    gradients = [torch.autograd.grad(y.square().sum(), (x, conv.weight)) for y in (conv(x), expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_trains_in_channels_last(kind):
    """The widths at which oneDNN's own strided 1x1 convolution writes out of bounds."""
    config = EncoderConfig(kind, 3, 10, 32, **DEMO_RESNET)
    encoder = build_encoder(config).to(memory_format=torch.channels_last)
    x = inputs("x", (2, 3, 256, 256), scale=0.5).contiguous(memory_format=torch.channels_last)
    encoder(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("task", "channels"), [("inversion", 3), ("sketch", 1)])
def test_round_trip_through_a_checkpoint(tmp_path, kind, task, channels):
    model = tiny_model(kind, channels)
    torch.save(checkpoint_dict(model, make_recipe(task, KINDS[kind])), tmp_path / "psp.pt")
    loaded = load_checkpoint(tmp_path / "psp.pt")
    assert (loaded.task.name, loaded.encoder) == (task, model.encoder.config)
    assert same(loaded.model.state_dict(), model.state_dict())
    assert torch.equal(loaded.model.latent_avg, model.latent_avg)


def test_stages_of_equal_width_are_told_apart(tmp_path):
    tiny = tiny_model("resnet_w")
    config = replace(tiny.encoder.config, units=(1, 2, 1, 1), widths=(8, 8, 8, 8))
    model = PSP(config, tiny.decoder.config)
    torch.save(checkpoint_dict(model, make_recipe("inversion", "global")), tmp_path / "psp.pt")
    assert load_checkpoint(tmp_path / "psp.pt").encoder == config


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("encoder.heads.3.bias", "missing encoder.heads.3.bias"),
        ("encoder.heads.9.weight", "missing encoder.heads.9.weight"),
        ("encoder.backbone.layer2.0.bn1.bias", "missing encoder.backbone.layer2.0.bn1.bias"),
        ("encoder.backbone.layer3.0.conv1.weight", "it lacks 'encoder.backbone.layer3.0.conv1.weight'"),
    ],
)
def test_a_missing_key_is_named(tmp_path, key, said):
    data = checkpoint_dict(tiny_model("resnet_wplus"), make_recipe("inversion", "local"))
    del data["state_dict"][key]
    torch.save(data, tmp_path / "psp.pt")
    with pytest.raises(WeightsError, match=said):
        load_checkpoint(tmp_path / "psp.pt")


@pytest.fixture(scope="module")
def stylegan2(tmp_path_factory):
    """The tiny generator as a StyleGAN2 file."""
    path = tmp_path_factory.mktemp("generator") / "stylegan2.pt"
    model = tiny_model()
    torch.save({"g_ema": model.decoder.state_dict(), "latent_avg": model.latent_avg[0]}, path)
    return path


def started(tmp_path, stylegan2, task):
    return build_model(Settings(make_recipe(task, "global"), tmp_path, generator=stylegan2, weights=tmp_path))


@pytest.mark.parametrize(("task", "kept"), [("inversion", ()), ("sketch", ("conv1.", "bn1."))])
def test_training_starts_from_imagenet(tmp_path, stylegan2, task, kept):
    state = thin_state(ResNet50)
    torch.save(state | {"fc.weight": thin((1000, 2048)), "fc.bias": thin((1000,))}, tmp_path / FILE_NAMES["resnet50"])
    encoder = started(tmp_path, stylegan2, task).encoder
    own = encoder.backbone.state_dict()
    assert encoder.config == published_config("resnet_w", own["conv1.weight"].shape[1], 10, 32)
    changed = {key for key in state if not torch.equal(own[key], state[key])}
    assert changed == {key for key in state if key.startswith(kept)}
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_training_from_random_weights_says_so(tmp_path, stylegan2):
    with pytest.warns(UserWarning, match=f"starts from random weights: no {FILE_NAMES['resnet50']}"):
        started(tmp_path, stylegan2, "inversion")


@pytest.mark.parametrize("kind", KINDS)
def test_demo_encoder_is_small(kind):
    model, _ = demo_model(make_recipe("segmentation", KINDS[kind]))
    assert model.encoder.config.kind == kind and model.encoder.config.input_channels == 19
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) < 200_000
