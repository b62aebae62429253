"""NVIDIA's network pickles: pictures and mapping of the published code, and what is refused by name."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from models import TINY_GENERATOR, inputs, relative_error, tiny_model
from pickled.nvidia import (
    TABLES,
    family_golden,
    seeded,
    seeded_tensors,
    tiny_table,
    write_tensorflow,
    write_torch,
)

from psp_train.checkpoints.generators import load_generator
from psp_train.checkpoints.nvidia import _clamp, _renamed
from psp_train.checkpoints.nvidia_pickles import Network
from psp_train.checkpoints.psp import checkpoint_dict, load_checkpoint
from psp_train.checkpoints.state_files import WeightsError
from psp_train.networks import Generator, GeneratorConfig
from psp_train.recipes import make_recipe

TINY = seeded(tiny_table(TINY_GENERATOR), seed=5)
#: Of another FP32 implementation, the largest difference over the largest value.
NEAR = 5e-6


def check_pictures(generator: Generator, expected: dict[str, np.ndarray]) -> None:
    w = inputs("w", (2, generator.config.styles, 512), int(expected["seed"]), 0.7)
    with torch.no_grad():
        picture = generator(w).numpy()
    if "image" in expected:
        assert relative_error(picture, expected["image"]) < NEAR
        return
    factor = picture.shape[-1] // 64
    down = picture.reshape(2, 3, 64, factor, 64, factor).mean((3, 5))
    parts = {"down": down, "crop0": picture[..., :16, :16], "crop1": picture[..., 116:132, 64:80]}
    parts["crop2"] = picture[..., -16:, -16:]
    scale = np.abs(expected["down"]).max()
    for name, part in parts.items():
        assert np.abs(part - expected[name]).max() / max(scale, np.abs(expected[name]).max()) < NEAR, name


@pytest.mark.parametrize(
    ("name", "protocol", "clamp"), [("nv_64", 4, 256), ("nv_64", 2, None), ("nv_256", 3, None), ("nv_clamp_64", 3, 2.0)]
)
def test_pytorch_layout(tmp_path: Path, name: str, protocol: int, clamp: float | None) -> None:
    expected = family_golden(name)
    seed = int(expected["seed"])
    file = write_torch(tmp_path / "g.pkl", seeded_tensors(name, seed), protocol, conv_clamp=clamp)
    generator, average = load_generator(file)
    assert generator.config.conv_clamp == clamp
    with torch.no_grad():
        assert relative_error(generator.map(inputs("z", (2, 512), seed)), expected["w"]) < NEAR
    assert np.array_equal(average[0], expected["w_avg"])
    check_pictures(generator, expected)


def test_tensorflow_layout(tmp_path: Path) -> None:
    expected = family_golden("nv_tf_64")
    seed = int(expected["seed"])
    generator, average = load_generator(write_tensorflow(tmp_path / "g.pkl", seeded_tensors("nv_tf_64", seed), 3))
    with torch.no_grad():
        assert relative_error(generator.map(inputs("z", (2, 512), seed)), expected["w"]) < NEAR
    assert np.array_equal(average[0], expected["w_avg"])
    check_pictures(generator, expected)


def test_one_class_of_a_conditional_generator(tmp_path: Path) -> None:
    expected = family_golden("nv_cond_64")
    seed = int(expected["seed"])
    file = write_torch(tmp_path / "g.pkl", seeded_tensors("nv_cond_64", seed))
    z = inputs("z", (2, 512), seed)
    for row, number in enumerate(expected["classes"]):
        generator, _ = load_generator(file, int(number))
        with torch.no_grad():
            assert relative_error(generator.map(z)[row], expected["w"][row]) < NEAR
    check_pictures(generator, expected)
    for wrong in (None, 10):
        with pytest.raises(WeightsError, match="is a conditional generator: give one class of it, --class 0 to 9"):
            load_generator(file, wrong)


def test_every_key_of_a_published_generator_has_its_place() -> None:
    """Of 1024 pixels: all keys of pSp's decoder, each once, and nothing else."""
    found = [_renamed(key) for key in TABLES["nv_published_1024"] if key != "mapping.w_avg"]
    assert None not in found
    with torch.device("meta"):
        expected = Generator(GeneratorConfig()).state_dict()
    names = [one[0] for one in found if one and one[0]]
    assert sorted(names) == sorted(expected)


def test_the_clamp_is_kept(tmp_path: Path) -> None:
    """In a checkpoint of an encoder over such a generator, too."""
    generator, _ = load_generator(write_torch(tmp_path / "g.pkl", TINY, conv_clamp=0.5))
    model = tiny_model()
    free, model.decoder = model.decoder, generator
    w = inputs("w", (1, 10, 32))
    torch.save(checkpoint_dict(model, make_recipe("inversion", None, {})), tmp_path / "psp.pt")
    loaded = load_checkpoint(tmp_path / "psp.pt").model.decoder
    clamped = generator(w).detach()
    assert torch.equal(loaded(w), clamped)
    free.load_state_dict(generator.state_dict())
    assert relative_error(free(w).detach(), clamped.numpy()) > 0.1


def test_noise_that_is_not_used(tmp_path: Path) -> None:
    bare = {key: value for key, value in TINY.items() if "noise_" not in key}
    generator, _ = load_generator(write_torch(tmp_path / "g.pkl", bare, use_noise=False))
    expected, _ = load_generator(write_torch(tmp_path / "g.pkl", TINY))
    for layer in (expected.conv1, *expected.convs):
        layer.noise.weight.data.zero_()
    w = inputs("w", (1, 10, 32))
    assert torch.equal(generator(w), expected(w))


def test_a_file_without_an_average(tmp_path: Path) -> None:
    bare = {key: value for key, value in TINY.items() if key != "mapping.w_avg"}
    assert load_generator(write_torch(tmp_path / "g.pkl", bare))[1] is None


STYLEGAN3 = {"synthesis.input.weight": torch.ones(4, 4), "synthesis.L0_36_512.weight": torch.ones(4, 4, 3, 3)}


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (STYLEGAN3, {}, "is a StyleGAN3 generator: .*expected a StyleGAN2 one"),
        ({"conv.weight": torch.ones(2)}, {}, "is no StyleGAN2 generator: it has no synthesis.b4.const"),
        (TINY, {"architecture": "resnet"}, "has synthesis.b(4|8|16|32|64).architecture 'resnet'.* have 'skip'"),
        (TINY, {"architecture": "orig"}, "architecture 'orig'"),
        (TINY, {"activation": "relu"}, "activation 'relu', the generators of this toolkit have 'lrelu'"),
        (TINY, {"img_channels": 1}, "has img_channels 1, .*have 3"),
        (TINY, {"bias_gain": 1}, "bias_gain 1, "),
        (TINY | {"synthesis.b8.skip.weight": torch.ones(2)}, {}, "the architecture 'resnet'"),
        (TINY | {"synthesis.b8.gate.weight": torch.ones(2)}, {}, "also has synthesis.b8.gate.weight"),
        ({k: v for k, v in TINY.items() if k != "synthesis.b16.conv1.bias"}, {}, "missing convs.3.activate.bias"),
        (TINY | {"synthesis.b8.resample_filter": torch.ones(2, 2)}, {}, r"kernel has shape \[2, 2\]"),
        (TINY | {"mapping.fc0.weight": torch.ones(32, 64)}, {}, r"style.1.weight has shape \[32, 64\]"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, tensors: dict, changes: dict, message: str) -> None:
    file = write_torch(tmp_path / "g.pkl", tensors, **changes)
    with pytest.raises(WeightsError, match=message) as caught:
        load_generator(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_resnet_as_published(tmp_path: Path) -> None:
    file = write_torch(tmp_path / "g.pkl", seeded({k: [1] for k in TABLES["nv_resnet_64"]}, 0))
    with pytest.raises(WeightsError, match="architecture 'resnet'"):
        load_generator(file)


def test_clamps_that_cannot_be_honoured(tmp_path: Path) -> None:
    for clamp in (float("nan"), -1.0, "256"):
        file = write_torch(tmp_path / "g.pkl", TINY, conv_clamp=clamp)
        with pytest.raises(WeightsError, match=f"has conv_clamp {clamp!r}: expected a number above 0"):
            load_generator(file)
    network = Network(
        False, attributes={"synthesis.b4.conv1": {"conv_clamp": 1}, "synthesis.b4.torgb": {"conv_clamp": 2}}
    )
    with pytest.raises(WeightsError, match="has several conv_clamp, 1, 2: expected one for all layers"):
        _clamp(file, network)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"architecture": "resnet"}, "architecture 'resnet'"),
        ({"mapping_lrmul": 1.0}, "bias_gain 1.0"),
        ({"resample_kernel": [1, 2, 1]}, re.escape("has the filter [1, 2, 1]: expected [1, 3, 3, 1]")),
        ({"version": 3}, "a TensorFlow network of version 3, older than StyleGAN2"),
    ],
)
def test_tensorflow_refusals(tmp_path: Path, kwargs: dict, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_generator(write_tensorflow(tmp_path / "g.pkl", TINY, **kwargs))


def test_tensorflow_clamp(tmp_path: Path) -> None:
    assert load_generator(write_tensorflow(tmp_path / "g.pkl", TINY, conv_clamp=7))[0].config.conv_clamp == 7


def test_a_class_where_there_are_none(tmp_path: Path) -> None:
    for file in (write_torch(tmp_path / "g.pkl", TINY), tmp_path / "g.pt"):
        torch.save({"g_ema": tiny_model().decoder.state_dict()}, tmp_path / "g.pt")
        with pytest.raises(WeightsError, match="--class 3: .* has no classes, leave it out"):
            load_generator(file, 3)
