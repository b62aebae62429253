"""Another generator under an encoder: `psp export --generator`, with the files people have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import TINY_GENERATOR, inputs, relative_error, tiny_model
from pickled.nvidia import seeded, tiny_table, write_torch
from typer.testing import CliRunner

from psp_export.cli import app
from psp_export.deploy import DeployedGenerator
from psp_export.deploy.custom_ops import use_custom_ops
from psp_export.deploy.precision import to_half
from psp_export.export import Options, export
from psp_export.verify.cases import pictures
from psp_runtime import read_info
from psp_runtime.arrays.directions import read_direction
from psp_runtime.engines.session import open_session
from psp_runtime.errors import PspError
from psp_runtime.run.find_direction import Direction, find_direction
from psp_train.checkpoints.generators import load_generator, with_generator
from psp_train.checkpoints.psp import load_checkpoint
from psp_train.networks import Generator, GeneratorConfig
from psp_train.networks.psp import to_input, to_picture

CLAMP = 0.8
CONDITIONAL = tiny_table(TINY_GENERATOR) | {
    "mapping.embed.weight": [32, 3],
    "mapping.embed.bias": [32],
    "mapping.fc0.weight": [32, 64],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and generators to put under its encoder."""
    folder = tmp_path_factory.mktemp("generators")
    model = tiny_model()
    opts = {"dataset_type": "ffhq_encode", "encoder_type": "GradualStyleEncoder"}
    data = {"state_dict": model.state_dict(), "opts": opts, "latent_avg": model.latent_avg}
    torch.save(data, folder / "psp.pt")
    write_torch(folder / "toon.pkl", seeded(tiny_table(TINY_GENERATOR), 3), conv_clamp=CLAMP)
    write_torch(folder / "classes.pkl", seeded(CONDITIONAL, 3))
    small = GeneratorConfig(size=32, style_dim=32, mapping_layers=2, channels=(16, 24, 16, 12))
    write_torch(folder / "small.pkl", seeded(tiny_table(small), 3))
    torch.save({"g_ema": tiny_model(seed=4).decoder.state_dict(), "g_optim": {"state": {}}}, folder / "nada.pt")
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the encoder over NVIDIA's generator."""
    checkpoint = with_generator(load_checkpoint(folder / "psp.pt"), folder / "toon.pkl")
    files = export(checkpoint, Options(tmp_path_factory.mktemp("engine") / "toon", "fp32", "onnx"))
    assert all("dB" in file.parity for file in files if file.part == "full")
    return files[0].path


def test_an_engine_of_an_nvidia_generator(folder: Path, engine: Path) -> None:
    """Its pictures are those of E and the pickle's own G, clamp included."""
    model, (generator, _) = tiny_model(), load_generator(folder / "toon.pkl")
    images = pictures("rgb", 0, 2, seed=1)
    feeds = {"image": images, "style": np.zeros((2, 10, 32), np.float32), "alpha": np.zeros((2, 10), np.float32)}
    done = open_session(engine, "cpu").run(feeds)
    with torch.no_grad():
        latents = model.encode(to_input(torch.from_numpy(images), "rgb", 3))
        expected = to_picture(generator(latents)).numpy().astype(int)
    assert relative_error(done["latents"], latents.numpy()) < 1e-5
    assert np.abs(done["output"].astype(int) - expected).max() <= 1
    assert read_info(engine).checkpoint != load_checkpoint(folder / "psp.pt").sha256


def test_semantics_of_its_weights(
    folder: Path, engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """psp direction --sefa: eigenvectors of the weights of the layers asked for, in their rows, or the rows before."""
    convs = load_generator(folder / "toon.pkl")[0].convs
    weights = torch.cat([convs[layer - 1].conv.modulation.weight for layer in (2, 3)]).detach().double()
    weights = weights / weights.norm(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(weights.T @ weights)
    for rows_before, rows in ((False, [2, 3]), (True, [1, 2])):
        out = tmp_path / "sefa.npy"
        find_direction(Direction(engine=engine, sefa=True, layers="2-3", count=4, rows_before=rows_before, out=out))
        found = np.load(out)
        assert found.shape == (4, 10, 32)
        assert np.flatnonzero(found.any((0, 2))).tolist() == rows
        cosines = np.abs((found[:, rows[0]] * vectors.T.numpy()[::-1][:4]).sum(1))
        assert np.allclose(cosines, 1, atol=1e-6) and np.array_equal(found[:, rows[0]], found[:, rows[1]])
    step = read_direction(out, read_info(engine), "3")
    assert np.array_equal(step, found[3])
    said = capsys.readouterr().out
    assert ": 4 directions of rows 1 to 2, the strongest first; next, psp edit" in said
    find_direction(Direction(engine=engine, sefa=True, layers="3", count=1, out=out))
    assert ": 1 direction of row 3; next, psp edit" in capsys.readouterr().out
    for layers, message in (
        ("0-9", "--layers 0-9: no convolution reads row 9, expected 0 to 8"),
        ("0", "--rows-before"),
    ):
        with pytest.raises(PspError, match=message):
            find_direction(Direction(engine=engine, sefa=True, layers=layers, rows_before=True, out=out))


@pytest.mark.parametrize("custom_ops", [False, True])
def test_the_clamp_in_an_engine(folder: Path, custom_ops: bool) -> None:
    """In the deployable form it is what it is in training, in half precision too; without it, the picture differs."""
    generator, _ = load_generator(folder / "toon.pkl")
    free = Generator(replace(generator.config, conv_clamp=None))
    free.load_state_dict(generator.state_dict())
    deployed = DeployedGenerator(generator)
    if custom_ops:
        use_custom_ops(deployed)
    w = inputs("w", (2, 10, 32), scale=0.7)
    with torch.no_grad():
        expected, without = (to_picture(one(w)).int() for one in (generator, free))
        assert (without - expected).abs().float().mean() > 10
        assert (deployed(w).int() - expected).abs().max() <= 1
        assert (to_half(deployed)(w).int() - expected).abs().float().mean() < 1


def test_a_generator_of_rosinality_keeps_the_average_of_the_encoder(folder: Path) -> None:
    loaded = with_generator(load_checkpoint(folder / "psp.pt"), folder / "nada.pt")
    assert torch.equal(loaded.model.latent_avg, tiny_model().latent_avg)
    w = inputs("w", (1, 10, 32))
    assert torch.equal(loaded.model.decoder(w), tiny_model(seed=4).decoder(w))
    assert loaded.name == "psp.pt over nada.pt"


def test_one_class(folder: Path) -> None:
    one, other = (with_generator(load_checkpoint(folder / "psp.pt"), folder / "classes.pkl", k) for k in (0, 2))
    z, w = inputs("z", (1, 32)), inputs("w", (1, 10, 32))
    assert torch.equal(one.model.decoder(w), other.model.decoder(w))
    assert relative_error(one.model.decoder.map(z).detach(), other.model.decoder.map(z).detach().numpy()) > 0.01


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--checkpoint", "psp.pt", "--class", "1"), "--class 1 is for a conditional --generator"),
        (("--checkpoint", "psp.pt", "--generator", "toon.pkl", "--class", "1"), "--class 1: toon.pkl has no classes"),
        (("--checkpoint", "psp.pt", "--generator", "classes.pkl"), "classes.pkl is a conditional generator: give one"),
        (
            ("--checkpoint", "psp.pt", "--generator", "small.pkl"),
            "small.pkl makes pictures of 32 pixels from latents [8,32], but the encoder of psp.pt gives [10,32]",
        ),
        (("--checkpoint", "toon.pkl"), "toon.pkl is a bare pickle, as NVIDIA's generators are, not a pSp checkpoint"),
        (("--checkpoint", "psp.pt", "--generator", "psp.pt"), "psp.pt is not a StyleGAN2 generator: expected 'g_ema'"),
        (("--checkpoint", "psp.pt", "--generator", "none.pkl"), "no checkpoint at none.pkl"),
        (("--checkpoint", "nada.pt"), "is a StyleGAN2 generator without an encoder"),
    ],
)
def test_mistakes(folder: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], expected: str) -> None:
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    done = CliRunner().invoke(app, [*args, "--backend", "onnx"])
    said = str(done.exception) if done.exception else done.output
    assert expected in said and done.exit_code != 0
    assert set(folder.iterdir()) == before
