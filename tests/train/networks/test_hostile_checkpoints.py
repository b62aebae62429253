"""Checkpoints that were damaged, or hold what no model can be made of: one line each, and never another model."""

import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from models import tiny_model

from psp_train.checkpoints.psp import load_checkpoint
from psp_train.checkpoints.state_files import WeightsError


@pytest.fixture(scope="module")
def model():
    return tiny_model("resnet_w")


def saved(tmp_path, model, **changes):
    opts = {"dataset_type": "ffhq_encode", "encoder_type": "ResNetEncoderIntoW"}
    torch.save(
        {"state_dict": model.state_dict(), "opts": opts, "latent_avg": model.latent_avg} | changes, tmp_path / "psp.pt"
    )
    return tmp_path / "psp.pt"


def refused(path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_a_flipped_byte_in_any_record_is_noticed(tmp_path, model):
    """60 places: a few in each part of the file, most in the weights."""
    path = saved(tmp_path, model)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        spans = {}
        for record in archive.infolist():
            with archive.open(record) as content:
                spans[record.filename] = (content._orig_compress_start, record.file_size)
    places = [start + int(share * (size - 1)) for start, size in spans.values() for share in (0, 0.5, 1) if size]
    chosen = np.random.default_rng(0).permutation(places)[:60]
    for place in chosen:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "is damaged: its record psp/" in refused(path)
    path.write_bytes(whole)
    assert torch.equal(load_checkpoint(path).model.latent_avg, model.latent_avg)


def test_files_saved_without_crcs_load(tmp_path, model):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, model)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(path).task.name == "inversion"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x.to(torch.complex64), "complex"),
        (lambda x: x.to_sparse(), "sparse"),
        (lambda x: x.to("meta"), "without values"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantized"),
    ],
)
@pytest.mark.parametrize("key", ["decoder.conv1.conv.weight", "encoder.backbone.conv1.weight"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize")
def test_odd_tensors_are_named(tmp_path, model, change, kind, key):
    state = OrderedDict(model.state_dict())
    state[key] = change(state[key])
    assert f"{key} is {kind}, expected plain numbers" in refused(saved(tmp_path, model, state_dict=state))


def test_an_odd_average_is_named(tmp_path, model):
    for change, kind in ((model.latent_avg.to_sparse(), "sparse"), (model.latent_avg + 0j, "complex")):
        assert f"latent_avg is {kind}, expected plain numbers" in refused(saved(tmp_path, model, latent_avg=change))


@pytest.mark.parametrize(
    ("opts", "reason"),
    [
        ([1, 2], "opts is a list, expected a dict"),
        ("ffhq_encode", "opts is a str, expected a dict"),
        (7, "opts is a int, expected a dict"),
        (torch.zeros(3), "opts is a Tensor, expected a dict"),
        ({"dataset_type": ["ffhq_encode"]}, "its opts have a list as dataset_type, expected a str"),
        ({"dataset_type": torch.zeros(3)}, "its opts have a Tensor as dataset_type, expected a str"),
        ({"encoder_type": {"a": 1}}, "its opts have a dict as encoder_type, expected a str"),
        ({"start_from_latent_avg": torch.zeros(3)}, "have a Tensor as start_from_latent_avg, expected a bool or int"),
        ({"psp_toolkit": "sketch"}, "its opts have a str as psp_toolkit, expected a Mapping"),
        ({"psp_toolkit": {"task": ["sketch"]}}, "does not say which task it is for"),
    ],
)
def test_odd_options_are_named(tmp_path, model, opts, reason):
    assert reason in refused(saved(tmp_path, model, opts=opts))
