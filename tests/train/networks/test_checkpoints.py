"""Checkpoint import: every published layout, and one clear line for everything else."""

import argparse
import pickle
import warnings

import pytest
import torch
from models import TINY_GENERATOR, inputs, tiny_model

from psp_train.checkpoints.generators import load_generator
from psp_train.checkpoints.psp import load_checkpoint, load_demo_checkpoint
from psp_train.checkpoints.state_files import WeightsError

ENCODER_TYPES = {
    "psp": "GradualStyleEncoder",
    "w": "BackboneEncoderUsingLastLayerIntoW",
    "naive_wplus": "BackboneEncoderUsingLastLayerIntoWPlus",
    "resnet_w": "ResNetEncoderIntoW",
    "resnet_wplus": "ResNetEncoderIntoWPlus",
}


def published(model, kind="psp", dataset="ffhq_encode", **changes):
    """A file in the published layout; `changes` replace or (None) remove top-level entries."""
    opts = {"dataset_type": dataset, "encoder_type": ENCODER_TYPES[kind], "output_size": 64, "lr": 0.0001}
    data = {"state_dict": model.state_dict(), "opts": opts, "latent_avg": model.latent_avg}
    return {key: value for key, value in (data | changes).items() if value is not None}


def write(tmp_path, data):
    path = tmp_path / "psp.pt"
    torch.save(data, path)
    return path


@pytest.mark.parametrize("kind", ENCODER_TYPES)
def test_round_trip_of_every_encoder(tmp_path, kind):
    model = tiny_model(kind)
    loaded = load_checkpoint(write(tmp_path, published(model, kind)))
    assert (loaded.task.name, loaded.encoder.kind, loaded.generator) == ("inversion", kind, TINY_GENERATOR)
    assert loaded.encoder == model.encoder.config
    x = inputs("x", (1, 3, 256, 256))
    assert torch.equal(loaded.model(x)[0], model(x)[0])


@pytest.mark.parametrize(
    ("dataset", "task", "channels"),
    [
        ("ffhq_encode", "inversion", 3),
        ("ffhq_frontalize", "frontalization", 3),
        ("celebs_sketch_to_face", "sketch", 1),
        ("celebs_seg_to_face", "segmentation", 19),
        ("celebs_super_resolution", "super_resolution", 3),
    ],
)
def test_task_and_channels_come_from_the_file(tmp_path, dataset, task, channels):
    loaded = load_checkpoint(write(tmp_path, published(tiny_model(channels=channels), dataset=dataset)))
    assert loaded.task.name == task
    assert loaded.encoder.input_channels == channels


def test_latent_avg_in_every_shape(tmp_path):
    model = tiny_model()
    styles, dim = model.latent_avg.shape
    for average in (model.latent_avg, model.latent_avg[:1], model.latent_avg[0], None):
        loaded = load_checkpoint(write(tmp_path, published(model, latent_avg=average))).model.latent_avg
        expected = torch.zeros(styles, dim) if average is None else average.expand(styles, dim)
        assert torch.equal(loaded, expected)


def test_old_files_without_options(tmp_path):
    data = published(tiny_model(), opts={"dataset_type": "ffhq_frontalize"})
    assert load_checkpoint(write(tmp_path, data)).generator.size == 64
    data = published(tiny_model(), opts=None)
    assert load_checkpoint(write(tmp_path, data), "inversion", "psp").task.name == "inversion"


def test_half_precision_and_old_zip_free_files(tmp_path):
    model = tiny_model()
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    path = tmp_path / "old.pt"
    torch.save(published(model, state_dict=half), path, _use_new_zipfile_serialization=False)
    loaded = load_checkpoint(path).model
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_inpainting_and_toonify_refine_an_inversion_file(tmp_path):
    path = write(tmp_path, published(tiny_model()))
    assert load_checkpoint(path, "toonify").task.name == "toonify"
    assert load_checkpoint(path, "inpainting").task.name == "inpainting"


#: Options of a file that names its encoder, and no task that is known here.
MY_DATA = {"dataset_type": "my_data", "encoder_type": ENCODER_TYPES["psp"]}


@pytest.mark.parametrize(
    ("changes", "task", "expected"),
    [
        ({}, "frontalization", "--task frontalization contradicts"),
        ({}, "sketch", "--task sketch contradicts"),
        ({}, "sketching", "unknown task 'sketching': choose one of inversion"),
        ({"opts": MY_DATA}, None, "give --task"),
        (
            {"opts": MY_DATA},
            "sketch",
            "takes 3 input channels, but a psp encoder of task sketch takes 1",
        ),
        ({"opts": {"encoder_type": "ResNetEncoder"}}, "inversion", "'ResNetEncoder'"),
        ({"opts": {"encoder_type": ENCODER_TYPES["w"]}}, "inversion", "those of a 'psp' or 'e4e' encoder"),
        ({"latent_avg": "none"}, None, "latent_avg is a str, expected a tensor [10, 32]"),
        ({"latent_avg": torch.zeros(3, 5)}, None, "latent_avg has shape [3, 5], expected [10, 32]"),
        ({"state_dict": None}, None, "expected a 'state_dict'"),
        ({"state_dict": {"conv.weight": torch.zeros(3)}}, None, "not a checkpoint of pSp over StyleGAN2"),
    ],
)
def test_contradictions(tmp_path, changes, task, expected):
    path = write(tmp_path, published(tiny_model(), **changes))
    with pytest.raises(Exception) as caught:
        load_checkpoint(path, task)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_keys_are_one_error_naming_the_first(tmp_path):
    state = tiny_model().state_dict()
    state["encoder.extra"] = torch.zeros(1)
    del state["encoder.latlayer2.bias"]
    state["decoder.to_rgb1.bias"] = torch.zeros(1, 4, 1, 1)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(write(tmp_path, published(tiny_model(), state_dict=state)))
    message = str(caught.value)
    assert "3 keys differ" in message
    assert "missing encoder.latlayer2.bias" in message
    assert "unknown encoder.extra" in message
    assert "decoder.to_rgb1.bias has shape [1, 4, 1, 1], expected [1, 3, 1, 1]" in message


class Payload:
    """Would write a file if it were unpickled with code allowed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_file_cannot_run_code(tmp_path):
    trap = tmp_path / "trap"
    path = write(tmp_path, {"state_dict": {}, "opts": Payload(str(trap))})
    with pytest.raises(WeightsError, match="must not run code"):
        load_checkpoint(path)
    assert not trap.exists()
    path.write_bytes(pickle.dumps(Payload(str(trap))))
    with pytest.raises(WeightsError):
        load_checkpoint(path)
    assert not trap.exists()


def test_damaged_files(tmp_path):
    path = write(tmp_path, published(tiny_model()))
    whole = path.read_bytes()
    texts = (b"not a checkpoint\n" * 100, b"<svg>\n", b"n", b"# notes")
    for content in (whole[: len(whole) // 2], b"", *texts, b"PK\x03\x04", bytes(range(256)) * 40):
        path.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            load_checkpoint(path)
        assert str(caught.value).startswith(f"{path} is not a PyTorch checkpoint, or is cut off")
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "missing.pt")


def test_options_may_be_a_namespace(tmp_path):
    """As training scripts have them: it is data, like a dict."""
    data = published(tiny_model())
    loaded = load_checkpoint(write(tmp_path, data | {"opts": argparse.Namespace(**data["opts"])}))
    assert loaded.task.name == "inversion"
    model = tiny_model().decoder
    path = write(tmp_path, {"g_ema": model.state_dict(), "args": argparse.Namespace(size=64)})
    assert load_generator(path)[0].config == TINY_GENERATOR


def test_a_generator_without_noise_and_firs(tmp_path):
    """Some published files leave out what is not trained."""
    model = tiny_model().decoder
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("noises.") and not k.endswith(".kernel")}
    with pytest.warns(UserWarning, match="holds no noise: fixed random noise"):
        generator, _ = load_generator(write(tmp_path, {"g_ema": state}))
    found = generator.state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items() if "noises." not in key)
    assert all(value.std() > 0.5 for key, value in found.items() if key.startswith("noises."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again, _ = load_generator(write(tmp_path, {"g_ema": state}))
    assert all(torch.equal(found[key], value) for key, value in again.state_dict().items())


def test_an_average_that_must_be_there(tmp_path):
    data = published(tiny_model(), latent_avg=None)
    assert (load_checkpoint(write(tmp_path, data)).model.latent_avg == 0).all()
    data["opts"]["start_from_latent_avg"] = True
    with pytest.raises(WeightsError, match="is a checkpoint of pSp without latent_avg, which its encoder starts from"):
        load_checkpoint(write(tmp_path, data))


def test_generator_file(tmp_path):
    model = tiny_model()
    data = {"g_ema": model.decoder.state_dict(), "latent_avg": model.latent_avg[0], "d": {}}
    path = write(tmp_path, data)
    generator, average = load_generator(path)
    w = inputs("w", (2, 10, 32))
    assert torch.equal(generator(w), model.decoder(w))
    assert torch.equal(average, model.latent_avg[0].expand(10, 32))
    with pytest.raises(WeightsError, match="generator without an encoder"):
        load_checkpoint(path)
    with pytest.raises(WeightsError, match="expected 'g_ema'"):
        load_generator(write(tmp_path, published(model)))


def test_demo_checkpoint():
    loaded = load_demo_checkpoint()
    assert loaded.task.name == "inversion"
    assert len(loaded.sha256) == 64
    with pytest.raises(Exception, match="no bundled demo model for task 'toonify'"):
        load_demo_checkpoint("toonify")
