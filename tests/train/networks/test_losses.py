"""Losses and their networks: the reference's numbers, closed forms, and gradients that go where they should."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import (
    GOLDEN_LOSSES,
    KEY_TABLES,
    LOSSES_SEED,
    inputs,
    relative_error,
    resnet50_table,
    seeded_heads,
    seeded_network,
)
from torch import nn

from psp_train.losses.distances import LPIPS, IdentityDistance, MoCoDistance, w_norm
from psp_train.networks.arcface import IR101, IRSE50, output_layer
from psp_train.networks.config import EncoderConfig
from psp_train.networks.encoder import Backbone
from psp_train.networks.features import VGG16, AlexNet, Bottleneck, ResNet50


def copying(network):
    """Make every convolution copy its input channels, and every normalisation (nearly) nothing."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.eval()


def keys_and_shapes(network):
    return {key: list(value.shape) for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def lpips():
    loss = LPIPS(seeded_network(AlexNet))
    loss.heads.load_state_dict(seeded_heads(loss))
    return loss


@pytest.fixture(scope="module")
def identity():
    return IdentityDistance(seeded_network(IRSE50))


class ShallowFaces(IRSE50):
    """IR-SE50 with one unit in each of its stages."""

    def __init__(self):
        Backbone.__init__(self, EncoderConfig(units=(1, 1, 1, 1)))
        self.output_layer = output_layer(affine=True)


@pytest.fixture(scope="module")
def shallow():
    """What does not depend on the number of layers is shown with few."""
    return IdentityDistance(seeded_network(ShallowFaces))


@pytest.fixture(scope="module")
def pair():
    x = inputs("x", (2, 3, 256, 256), LOSSES_SEED, 0.5)
    return x, x / 2 + inputs("y", (2, 3, 256, 256), LOSSES_SEED, 0.25)


def test_lpips_is_the_references(lpips, pair):
    distances = lpips(*pair)
    assert relative_error(distances, GOLDEN_LOSSES["lpips_per_sample"]) < 1e-4
    assert relative_error(distances.mean(), GOLDEN_LOSSES["lpips"]) < 1e-4


def test_identity_is_the_references(identity, pair):
    assert relative_error(identity.features(pair[0]), GOLDEN_LOSSES["identity_features"]) < 1e-4
    assert relative_error(identity(*pair).mean(), GOLDEN_LOSSES["identity_loss"]) < 1e-4


def test_w_norm_is_the_references():
    latents, average = inputs("codes", (2, 18, 512), LOSSES_SEED), inputs("avg", (18, 512), LOSSES_SEED)
    assert relative_error(w_norm(latents, average), GOLDEN_LOSSES["w_norm_loss"]) < 1e-4


@pytest.mark.parametrize(
    ("kind", "table"), [(AlexNet, "alexnet"), (IRSE50, "ir_se50"), (IR101, "ir_101")], ids=lambda x: str(x)
)
def test_keys_are_the_published_ones(kind, table):
    with torch.device("meta"):
        assert keys_and_shapes(kind()) == KEY_TABLES[table]


def test_keys_of_the_heads_are_the_published_ones(lpips):
    assert keys_and_shapes(lpips.heads) == KEY_TABLES["lpips_alex_lin"]


def vgg16_table():
    """torchvision's VGG16 features by their definition: convolutions are 2 apart, 3 across a maximum."""
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    channels = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    table = {}
    for number, inner, outer in zip(numbers, channels, channels[1:]):
        table[f"features.{number}.weight"] = [outer, inner, 3, 3]
        table[f"features.{number}.bias"] = [outer]
    return table


@pytest.mark.parametrize(
    ("kind", "table", "parameters"),
    [(VGG16, vgg16_table(), 14_714_688), (ResNet50, resnet50_table(), 25_557_032 - 1000 * 2049)],
)
def test_torchvisions_networks_by_their_definition(kind, table, parameters):
    with torch.device("meta"):
        network = kind()
    assert keys_and_shapes(network) == table
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_alexnet_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in AlexNet().parameters()) == 2_469_696


def test_vgg16_taps_follow_each_maximum():
    x = inputs("x", (1, 3, 32, 32))
    for stage, features in enumerate(copying(VGG16())(x)):
        expected = F.max_pool2d(x.clamp(min=0), 2**stage)
        assert features.shape == (1, VGG16.channels[stage], 32 // 2**stage, 32 // 2**stage)
        assert torch.equal(features[:, :3], expected)
        assert not features[:, 3:].any()


def test_alexnet_taps_are_the_five_activations(lpips):
    features = lpips.network(inputs("x", (1, 3, 256, 256)))
    shapes = [(64, 63), (192, 31), (384, 15), (256, 15), (256, 15)]
    assert [(map.shape[1], map.shape[2]) for map in features] == shapes
    assert all(map.min() == 0 for map in features)


def test_resnet50_shortcuts_halve_after_the_first_stage():
    network = copying(ResNet50())
    for name, parameter in network.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.zeros_(parameter)  # shortcuts alone
    x = inputs("x", (2, 3, 64, 64))
    expected = F.max_pool2d(x[:, :, ::2, ::2].clamp(min=0), 3, 2, 1)[:, :, ::8, ::8].mean((2, 3))
    features = network(x)
    assert features.shape == (2, 2048)
    assert relative_error(features[:, :3].detach(), expected.numpy()) < 1e-4
    assert not features[:, 64:].any()


def test_resnet50_strides_its_3x3_convolutions():
    block = copying(Bottleneck(8, 4, stride=2))
    nn.init.zeros_(block.downsample[0].weight)
    block.conv2.weight.data = block.conv2.weight.data.roll((-1, -1), (2, 3))  # each pixel from its upper left
    x = inputs("x", (1, 8, 8, 8)).abs()
    upper_left = F.pad(x, (1, 0, 1, 0))[:, :, :-1, :-1]
    assert relative_error(block(x)[:, :4].detach(), upper_left[:, :4, ::2, ::2].numpy()) < 1e-4


def test_lpips_on_vgg16_is_its_formula():
    loss = LPIPS(copying(VGG16()))
    loss.heads.load_state_dict(seeded_heads(loss))
    x, y = inputs("x", (2, 3, 32, 32), scale=0.5), inputs("y", (2, 3, 32, 32), scale=0.5)
    total = np.zeros(2)
    for stage, head in enumerate(loss.heads.state_dict().values()):
        a, b = (direction_in_float64(picture, stage) for picture in (x, y))
        total += ((a - b) ** 2 * head[0, :3].double().numpy()).sum(1).mean((1, 2))
    assert relative_error(loss(x, y), total) < 1e-5


def direction_in_float64(picture, stage):
    """What the copying VGG16 sees of a picture at a stage, scaled to length 1 over channels."""
    mean, std = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    colours = (picture.double().numpy() - mean[:, None, None]) / std[:, None, None]
    pooled = F.max_pool2d(torch.from_numpy(colours).clamp(min=0), 2**stage).numpy()
    return pooled / (np.sqrt((pooled**2).sum(1, keepdims=True)) + 1e-10)


def test_identical_pictures_have_no_distance(lpips, shallow, pair):
    assert not lpips(pair[0], pair[0]).any()
    assert shallow(pair[0], pair[0]).abs().max() < 1e-6


def test_distances_are_symmetric_and_per_sample(lpips, pair):
    x, y = pair
    forth = lpips(x, y)
    assert torch.allclose(forth, lpips(y, x), rtol=1e-6)
    assert torch.allclose(forth, torch.cat([lpips(x[:1], y[:1]), lpips(x[1:], y[1:])]), rtol=1e-5)


def test_identity_sees_the_face_of_a_picture_of_any_size():
    loss = IdentityDistance(nn.Flatten())  # features are the face itself
    x = inputs("x", (1, 3, 256, 256))
    face = F.adaptive_avg_pool2d(x[:, :, 35:223, 32:220], 112).flatten(1)
    assert torch.equal(loss.features(x), face)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(loss.features(doubled), face, atol=1e-6)


def test_moco_takes_every_256_224th_pixel():
    loss = MoCoDistance(nn.Flatten())
    x = inputs("x", (2, 3, 256, 256))
    pixels = torch.arange(224) * 256 // 224
    expected = x[:, :, pixels][:, :, :, pixels].flatten(1)
    assert torch.allclose(loss.features(x), expected / expected.norm(dim=1, keepdim=True), atol=1e-7)
    assert torch.allclose(loss(x, -x), torch.full((2,), 2.0), atol=1e-5)


def test_moco_measures_with_resnet50(pair):
    loss = MoCoDistance(seeded_network(ResNet50))
    x, y = (picture[:1].requires_grad_(index == 0) for index, picture in enumerate(pair))
    value = loss(x.clone(), y)
    features = loss.features(y)
    assert features.shape == (1, 2048) and features.norm() == pytest.approx(1)
    assert 0 < value.item() < 2
    value.sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


def test_w_norm_of_constants():
    latents = torch.full((4, 18, 512), 0.5)
    assert w_norm(latents, None).item() == pytest.approx(0.5 * np.sqrt(18 * 512))
    assert w_norm(latents, latents[0]).item() == 0
    assert w_norm(latents, torch.full((18, 512), 2.0)).item() == pytest.approx(1.5 * np.sqrt(18 * 512))
    assert w_norm(latents.half(), None).dtype == torch.float32


@pytest.mark.parametrize("name", ["lpips", "shallow"])
def test_gradients_reach_pictures_and_no_weights(name, pair, request):
    loss = request.getfixturevalue(name)
    x = pair[0][:1].clone().requires_grad_()
    loss(x, pair[1][:1]).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in loss.parameters())
    assert not loss(pair[0][:1], pair[1][:1]).requires_grad  # targets build no graph


def test_gradients_are_finite_where_nothing_is_seen(lpips):
    blind = copy.deepcopy(lpips)
    for layer in blind.network.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.bias, -1000)
    x = inputs("x", (1, 3, 64, 64)).requires_grad_()
    blind(x, lpips.standardise(x.detach())).sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("name", ["lpips", "shallow"])
def test_train_changes_nothing(name, pair, request):
    loss = request.getfixturevalue(name)
    x, y = (picture[:, :, ::4, ::4] for picture in pair)
    before = loss(x, y)
    nn.Sequential(loss).train()
    assert not any(module.training for module in loss.modules())
    assert torch.equal(loss(x, y), before)


def test_autocast_gives_float32_distances(lpips, shallow, pair, monkeypatch):
    """Against FP32's on small pictures and few layers: many CPUs have no bf16 and take long."""
    x, y = (picture[:1, :, ::4, ::4] for picture in pair)
    features, seen = shallow.features, []
    with torch.autocast("cpu", torch.bfloat16), monkeypatch.context() as patch:
        patch.setattr(shallow, "features", lambda picture: seen.append(features(picture)) or seen[-1])
        distances = lpips(x, y), shallow(x, y)
    lengths = torch.cat(seen).norm(dim=1)
    assert [distance.dtype for distance in distances] == [torch.float32, torch.float32]
    assert lengths.numpy() == pytest.approx(1, abs=1e-6) and len(lengths) == 2
    assert relative_error(distances[0], lpips(x, y).numpy()) < 0.02
    assert relative_error(distances[1], shallow(x, y).numpy()) < 0.1
