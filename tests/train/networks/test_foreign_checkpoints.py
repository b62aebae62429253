"""Checkpoints as people have them: wrapped, with plain data of NumPy and pathlib, incomplete, or none at all."""

import io
import pathlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from models import inputs, tiny_model
from test_checkpoints import published, write

from psp_train.checkpoints.foreign import plain_types
from psp_train.checkpoints.generators import load_generator
from psp_train.checkpoints.layouts import check_heads
from psp_train.checkpoints.psp import load_checkpoint
from psp_train.checkpoints.state_files import WeightsError
from psp_train.networks import GeneratorConfig


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def same(path, model, **asked):
    """Whether the file gives the model, by a picture of it."""
    x = inputs("x", (1, 3, 256, 256))
    return torch.equal(load_checkpoint(path, **asked).model(x)[0], model(x)[0])


@pytest.mark.parametrize(
    ("old", "new"),
    [("", "module."), ("encoder.", "encoder.module."), ("decoder.", "decoder.module."), ("", "module.module.")],
)
def test_dataparallel(tmp_path, model, old, new):
    state = {new + key.removeprefix(old) if key.startswith(old) else key: v for key, v in model.state_dict().items()}
    assert same(write(tmp_path, published(model, state_dict=state)), model)


def test_dataparallel_of_a_generator_and_an_average_as_an_array(tmp_path, model):
    state = {f"module.{key}": value for key, value in model.decoder.state_dict().items()}
    generator, average = load_generator(
        write(tmp_path, {"g_ema": state, "latent_avg": model.latent_avg[0].double().numpy()})
    )
    w = inputs("w", (1, 10, 32))
    assert torch.equal(generator(w), model.decoder(w)) and torch.equal(average, model.latent_avg[:1].expand(10, 32))


def test_plain_data_of_numpy_and_pathlib(tmp_path, model):
    opts = published(model)["opts"] | {
        "exp_dir": Path("/tmp/run"),
        "lr": np.float64(1e-4),
        "seed": np.int64(3),
        "start_from_latent_avg": np.bool_(True),
        "dataset_type": np.str_("ffhq_encode"),
        "factors": np.arange(3),
        "names": np.array(["a", None], object),
        "scales": [np.float32(1), np.zeros((2, 2), np.uint8)],
    }
    assert same(write(tmp_path, published(model, opts=opts, latent_avg=model.latent_avg.double().numpy())), model)


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_either_numpy(tmp_path, model, name):
    """NumPy 1 and 2 name the same functions in different modules."""
    buffer = io.BytesIO()
    torch.save(published(model, latent_avg=model.latent_avg.numpy()), buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "psp.pt").write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray\n", f"c{name}\n".encode()))
    assert same(tmp_path / "psp.pt", model)


def test_paths_of_another_system_only_name_a_file():
    kinds = {entry[1]: entry[0] for entry in plain_types() if isinstance(entry, tuple)}
    assert kinds["pathlib.WindowsPath"] is pathlib.PureWindowsPath
    assert kinds["pathlib._local.PosixPath"] is PurePosixPath


def test_arrays_of_objects_run_no_code(tmp_path, model):
    opts = published(model)["opts"] | {"files": np.array([print, None], object)}
    with pytest.raises(WeightsError, match="must not run code"):
        load_checkpoint(write(tmp_path, published(model, opts=opts)))


@pytest.mark.parametrize("value", [False, np.bool_(False), 0])
def test_an_average_that_is_not_added(tmp_path, model, value):
    """The released code adds it only where its option says so; the encoder alone gives the latents here."""
    opts = published(model)["opts"] | {"start_from_latent_avg": value}
    loaded = load_checkpoint(write(tmp_path, published(model, opts=opts))).model
    x = inputs("x", (1, 3, 256, 256))
    assert model.latent_avg.abs().min() > 0 and not loaded.latent_avg.any()
    assert torch.equal(loaded(x)[1], model.encoder(x))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan warning", "is a saved web page, .* browser"),
        (b"\n <HTML>", "is a saved web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1200\n", "Git LFS pointer.*git lfs pull"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    (tmp_path / "psp.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        load_checkpoint(tmp_path / "psp.pt")
    assert "\n" not in str(caught.value)


def test_what_is_incomplete_is_named(tmp_path, model):
    state = model.state_dict()
    encoder = {key: value for key, value in state.items() if key.startswith("encoder.")}
    for data, words in [
        (state, "is a bare state dict, without opts and latent_avg"),
        ({f"module.{key}": value for key, value in state.items()}, "is a bare state dict"),
        (model.encoder.state_dict(), "is an encoder without its generator"),
        (published(model, state_dict=encoder), r"has an encoder without its generator \(decoder\.\*\)"),
    ]:
        with pytest.raises(WeightsError, match=words):
            load_checkpoint(write(tmp_path, data))


def test_heads_for_another_size_are_one_sentence(tmp_path, model):
    state = dict(model.state_dict())
    for head in range(10, 18):
        state |= {key.replace("styles.9.", f"styles.{head}."): v for key, v in state.items() if ".styles.9." in key}
    words = r"has 18 heads, for pictures of 1024x1024, and its generator makes 64x64 from 10 styles"
    with pytest.raises(WeightsError, match=words):
        load_checkpoint(write(tmp_path, published(model, state_dict=state)))


def test_e4e_may_have_more_heads_than_its_generator_has_styles():
    state = {f"encoder.styles.{head}.linear.weight": torch.zeros(1) for head in range(18)}
    check_heads(Path("e4e.pt"), state, {"encoder_type": "Encoder4Editing"}, GeneratorConfig(size=512))
    with pytest.raises(WeightsError, match="512x512 from 16 styles"):
        check_heads(Path("psp.pt"), state, {}, GeneratorConfig(size=512))
