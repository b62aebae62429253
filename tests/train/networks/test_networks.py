"""Networks against the reference implementation's outputs on the same weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import golden, golden_model, inputs, relative_error, tiny_model

from psp_train.networks import EncoderConfig, Generator, GeneratorConfig, build_encoder
from psp_train.networks.psp import mix, to_input, to_picture

TOLERANCE = 1e-4


def test_generator_and_mapping_64():
    data = golden("generator_64")
    seed = int(data["seed"])
    model = golden_model("psp_64", 64, seed=seed)
    assert relative_error(model.decoder(inputs("w", (2, 10, 512), seed, 0.7)), data["image"]) < TOLERANCE
    assert relative_error(model.decoder.map(inputs("z", (4, 512), seed)), data["mapped"]) < TOLERANCE


@pytest.mark.slow
def test_published_size_1024():
    data = golden("psp_1024")
    seed = int(data["seed"])
    model = golden_model("psp_1024", 1024, seed=seed)
    assert relative_error(model.encoder(inputs("image", (1, 3, 256, 256), seed, 0.5)), data["latents"]) < TOLERANCE
    image = model.decoder(inputs("w", (1, 18, 512), seed, 0.7))
    assert relative_error(F.avg_pool2d(image, 16), data["down"]) < TOLERANCE
    assert relative_error(image[:, :, :16, :16], data["crop0"]) < TOLERANCE
    assert relative_error(image[:, :, 500:516, 300:316], data["crop1"]) < TOLERANCE
    assert relative_error(image[:, :, -16:, -16:], data["crop2"]) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "table", "kind"),
    [("encoder_w", "w_256", "w"), ("encoder_naive_wplus", "naive_wplus_256", "naive_wplus")],
)
def test_ablation_encoders(name, table, kind):
    data = golden(name)
    seed = int(data["seed"])
    model = golden_model(table, 256, kind, seed=seed)
    latents = model.encoder(inputs("image", (2, 3, 256, 256), seed, 0.5)[1:])
    expected = np.broadcast_to(data["latents"][1].reshape(-1, 512), (1, 14, 512))
    assert relative_error(latents, expected) < TOLERANCE


@pytest.mark.long  # as the segmentation encoder below, which is not of three channels either
def test_sketch_encoder():
    data = golden("encoder_sketch")
    seed = int(data["seed"])
    model = golden_model("psp_256_sketch", 256, channels=1, seed=seed)
    image = inputs("image", (1, 1, 256, 256), seed, 0.5).clamp(0, 1)
    assert relative_error(model.encoder(image), data["latents"]) < TOLERANCE


def test_segmentation_encoder():
    data = golden("encoder_seg")
    model = golden_model("psp_256_seg", 256, channels=19, seed=int(data["seed"]))
    labels = np.kron(data["labels"], np.ones((8, 8), np.uint8))[None]
    latents = model.encoder(to_input(torch.from_numpy(labels), "labels", 19))
    assert relative_error(latents, data["latents"]) < TOLERANCE


def test_mixing_is_exact_at_both_ends():
    a, b = torch.randn(2, 4, 8) * 1e4, torch.randn(2, 4, 8) * 1e-4
    assert torch.equal(mix(a, b, torch.zeros(2, 4)), a)
    assert torch.equal(mix(a, b, torch.ones(2, 4)), b)


def test_to_picture_clips_and_truncates():
    x = torch.tensor([-2.0, -1.0, 0.0, 0.999, 2.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_picture(x)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255]


def test_input_ranges():
    rgb = torch.tensor([[0, 255, 51]], dtype=torch.uint8).view(1, 1, 1, 3)
    assert to_input(rgb, "rgb", 3).flatten().tolist() == pytest.approx([-1, 1, -0.6])
    assert to_input(rgb[..., 1:2], "sketch", 1).item() == 1


@pytest.mark.parametrize("size", [64, 128, 256, 512, 1024])
def test_every_size_has_its_styles(size):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(size=size))
    assert generator.config.styles == 2 * int(np.log2(size)) - 2
    assert len(generator.convs) + 2 == generator.config.styles  # first conv and last to_rgb


@pytest.mark.parametrize("kind", ["psp", "w", "naive_wplus", "resnet_w", "resnet_wplus"])
def test_encoders_of_any_width(kind):
    config = EncoderConfig(kind, 3, 10, 24, (1, 1, 1, 1), (8, 12, 16, 20))
    assert build_encoder(config).eval()(torch.zeros(2, 3, 256, 256)).shape == (2, 10, 24)


def test_gradients_reach_the_encoder_through_the_frozen_generator():
    model = tiny_model()
    model.encoder.requires_grad_(True)
    model(inputs("image", (1, 3, 256, 256)))[0].square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())
