"""Published weights: every file layout in, and one clear line for what is missing, damaged or something else."""

import pickle
from pathlib import Path

import pytest
import torch
from models import (
    FILE_NAMES,
    GOLDEN_LOSSES,
    KEY_TABLES,
    LOSSES_SEED,
    inputs,
    relative_error,
    same,
    seeded_heads,
    seeded_network,
    thin,
    thin_state,
)

from psp_train.checkpoints.state_files import WeightsError
from psp_train.losses.distances import LPIPS
from psp_train.losses.published import (
    FILES,
    LPIPS_FILES,
    find,
    irse50_state,
    load_identity,
    load_lpips,
    load_moco,
    load_resnet50,
    load_similarity,
)
from psp_train.networks.arcface import IR101, IRSE50
from psp_train.networks.config import EncoderConfig
from psp_train.networks.encoders import build_encoder
from psp_train.networks.features import VGG16, AlexNet, ResNet50


def classifier(*shapes):
    return {f"classifier.{6 * i}.weight": thin(shape) for i, shape in enumerate(shapes)}


def moco_file(**changes):
    """MoCo's checkpoint: the encoder with its head, the momentum encoder, the queue and the optimizer."""
    inner = thin_state(ResNet50)
    inner |= {"fc.0.weight": thin((2048, 2048)), "fc.0.bias": thin((2048,)), "fc.2.weight": thin((128, 2048))}
    state = {f"module.encoder_{which}.{key}": value for which in "qk" for key, value in inner.items()}
    state |= {"module.queue": thin((128, 65536)), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}} | changes


@pytest.fixture
def lpips_folder(tmp_path):
    """AlexNet (seeded, in the format of old PyTorch) and heads as published."""
    lpips = LPIPS(seeded_network(AlexNet))
    state = lpips.network.state_dict() | classifier((4096, 9216), (1000, 4096))
    torch.save(state, tmp_path / FILE_NAMES["alexnet"], _use_new_zipfile_serialization=False)
    torch.save(seeded_heads(lpips), tmp_path / FILE_NAMES["lpips_alex"])
    return tmp_path


@pytest.fixture
def resnet_folder(tmp_path):
    state = thin_state(ResNet50) | {"fc.weight": thin((1000, 2048)), "fc.bias": thin((1000,))}
    torch.save(state, tmp_path / FILE_NAMES["resnet50"])
    return tmp_path


def test_lpips_from_files_is_the_references(lpips_folder):
    loss = load_lpips(lpips_folder)
    x = inputs("x", (2, 3, 256, 256), LOSSES_SEED, 0.5)
    y = x / 2 + inputs("y", (2, 3, 256, 256), LOSSES_SEED, 0.25)
    assert relative_error(loss(x, y), GOLDEN_LOSSES["lpips_per_sample"]) < 1e-4
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@pytest.mark.parametrize("name", ["lpips_alex.pth", "lpips/alex.pth"])
def test_other_names_of_the_heads(lpips_folder, name):
    (lpips_folder / "lpips").mkdir()
    (lpips_folder / FILE_NAMES["lpips_alex"]).rename(lpips_folder / name)
    assert find(lpips_folder, ["lpips_alex"]) == {"lpips_alex": lpips_folder / name}
    load_lpips(lpips_folder)


def test_lpips_on_vgg16(tmp_path):
    state = thin_state(VGG16)
    torch.save(state | classifier((4096, 25088), (4096, 4096), (1000, 4096)), tmp_path / FILE_NAMES["vgg16"])
    heads = thin_state(lambda: LPIPS(VGG16()).heads)
    torch.save(heads, tmp_path / FILE_NAMES["lpips_vgg"])
    loss = load_lpips(tmp_path, "vgg")
    assert same(loss.network.state_dict(), state)
    assert same(loss.heads.state_dict(), heads)


@pytest.mark.parametrize(
    ("load", "kind", "purpose"),
    [(load_identity, IRSE50, "ir_se50"), (load_similarity, IR101, "ir_101")],
)
def test_face_networks(tmp_path, load, kind, purpose):
    state = thin_state(kind)
    assert {key: list(value.shape) for key, value in state.items()} == KEY_TABLES[purpose]
    torch.save(state, tmp_path / FILE_NAMES[purpose])
    assert same(load(tmp_path).network.state_dict(), state)


def test_ir_se50_starts_an_encoder(tmp_path):
    state = thin_state(IRSE50)
    torch.save(state, tmp_path / FILE_NAMES["ir_se50"])
    start = irse50_state(tmp_path)
    assert same(start, {key: value for key, value in state.items() if not key.startswith("output_layer")})
    with torch.device("meta"):
        encoder = build_encoder(EncoderConfig())
    differences = encoder.load_state_dict(start, strict=False, assign=True)
    assert not differences.unexpected_keys
    assert all(key.startswith(("styles.", "latlayer")) for key in differences.missing_keys)


@pytest.mark.parametrize("name", FILES["moco"].names)
def test_moco_takes_the_query_encoder(tmp_path, name):
    torch.save(moco_file(), tmp_path / name)
    assert same(load_moco(tmp_path).network.state_dict(), thin_state(ResNet50))


def test_resnet50_is_there_to_be_trained(resnet_folder):
    network = load_resnet50(resnet_folder)
    assert same(network.state_dict(), thin_state(ResNet50))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_files_of_old_or_half_precision(tmp_path):
    state = {key: value for key, value in thin_state(ResNet50).items() if not key.endswith("num_batches_tracked")}
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "resnet50-19c8e357.pth")
    loaded = load_resnet50(tmp_path).state_dict()
    assert same({key: loaded[key] for key in state}, state)
    assert loaded["bn1.num_batches_tracked"] == 0


def test_the_published_name_comes_first(tmp_path):
    for name in ("resnet50-11111111.pth", FILE_NAMES["resnet50"], "resnet50-00000000.pth"):
        (tmp_path / name).touch()
    assert find(tmp_path, ["resnet50"])["resnet50"].name == FILE_NAMES["resnet50"]


def test_one_line_names_everything_that_is_missing(tmp_path):
    (tmp_path / FILE_NAMES["ir_se50"]).touch()
    (tmp_path / FILE_NAMES["moco"]).mkdir()  # a folder is no file
    with pytest.raises(WeightsError) as error:
        find(tmp_path, [*LPIPS_FILES["vgg"], "ir_se50", "moco"])
    text = str(error.value)
    assert "\n" not in text and str(tmp_path) in text and FILE_NAMES["ir_se50"] not in text
    for purpose in ("vgg16", "lpips_vgg", "moco"):
        assert f"{FILE_NAMES[purpose]} (from {FILES[purpose].source})" in text


@pytest.mark.parametrize(("folder", "said"), [(None, "give --weights"), (Path("/nowhere"), "no such folder")])
def test_no_folder(folder, said):
    with pytest.raises(WeightsError, match=f"{said}.*{FILE_NAMES['resnet50']}.*download.pytorch.org"):
        load_resnet50(folder)


def refused(folder, match):
    path = folder / FILE_NAMES["resnet50"]
    with pytest.raises(WeightsError, match=match) as error:
        load_resnet50(folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 100, 20_000, -100])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_cut_off(resnet_folder, size, zipped):
    path = resnet_folder / FILE_NAMES["resnet50"]
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:size])
    refused(resnet_folder, "not a PyTorch checkpoint.*download it again")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>quota exceeded</html>", "is a saved web page"),
        (b"\x80\x02", "not a PyTorch checkpoint.*download it again"),
        (bytes(4096), "not a PyTorch checkpoint.*download it again"),
    ],
)
def test_files_of_another_kind(resnet_folder, content, said):
    (resnet_folder / FILE_NAMES["resnet50"]).write_bytes(content)
    refused(resnet_folder, said)


def test_files_that_would_run_code(resnet_folder):
    (resnet_folder / FILE_NAMES["resnet50"]).write_bytes(pickle.dumps(print, protocol=2))
    refused(resnet_folder, "must not run code")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: [*state], "expected a dict, found list"),
        (lambda state: {}, r"265 keys differ: missing conv1.weight.* and 260 more"),
        (lambda state: {"state_dict": 3}, "missing conv1.weight"),
        (
            lambda state: state | {"layer1.0.conv1.weight": thin((64, 64, 3, 3))},
            r"has shape \[64, 64, 3, 3\], expected",
        ),
        (lambda state: state | {"layer5.weight": thin((1,))}, "1 key differs: unknown layer5.weight"),
        (lambda state: {key: value for key, value in state.items() if key != "bn1.bias"}, "missing bn1.bias"),
    ],
)
def test_files_of_something_else(resnet_folder, change, match):
    path = resnet_folder / FILE_NAMES["resnet50"]
    torch.save(change(torch.load(path)), path)
    refused(resnet_folder, match)


def test_a_resnet_is_not_moco(tmp_path):
    torch.save(moco_file(state_dict=thin_state(ResNet50)), tmp_path / FILE_NAMES["moco"])
    with pytest.raises(WeightsError, match="missing module.encoder_q.conv1.weight"):
        load_moco(tmp_path)
