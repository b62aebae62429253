"""What a training starts from: average w, seed, published weights, another checkpoint, the demo."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import TINY_GENERATOR, tiny_model
from pickled.nvidia import seeded, tiny_table, write_torch
from training import make_settings

from psp_runtime.errors import PspError
from psp_train.recipes import make_recipe
from psp_train.training import build, start
from psp_train.training.distributed import Process
from psp_train.training.objective import load_networks
from psp_train.training.settings import Settings


def test_the_average_w_is_computed_where_the_file_has_none(generator, tiny, drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", generator=generator)
    model = build.build_model(settings)
    with torch.no_grad():
        w = model.decoder.map(torch.randn(20_000, 32, generator=torch.Generator().manual_seed(9)))
    assert (model.latent_avg == model.latent_avg[0]).all()
    assert (model.latent_avg[0] - w.mean(0)).abs().max() < 5 * w.std() / 20_000**0.5
    without = make_settings(drawn, tmp_path / "run", generator=generator, start_from_average=False)
    assert not build.build_model(without).latent_avg.any()


def test_a_stored_average_w_is_used(generator, tiny, drawn, tmp_path):
    average = torch.arange(32.0)
    torch.save(torch.load(generator, weights_only=True) | {"latent_avg": average}, tmp_path / "g.pt")
    model = build.build_model(make_settings(drawn, tmp_path / "run", generator=tmp_path / "g.pt"))
    assert torch.equal(model.latent_avg, average.expand(10, 32))
    assert not any(p.requires_grad for p in model.decoder.parameters()) and not model.decoder.training
    assert all(p.requires_grad for p in model.encoder.parameters())


def test_a_seed_is_a_start(generator, tiny, drawn, tmp_path):
    starts = [
        build.build_model(make_settings(drawn, tmp_path / "run", generator=generator, seed=seed)).encoder.state_dict()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
    assert not torch.equal(starts[0]["styles.0.linear.weight"], starts[2]["styles.0.linear.weight"])


def test_the_encoder_starts_from_weights_where_they_are(generator, tiny, drawn, tmp_path, monkeypatch):
    """Sketches keep their own first layer, as in the reference all of it, where photos' would be for other numbers.

    Where there is no file, a warning says that weights are random.
    """
    settings = make_settings(drawn, tmp_path / "run", "sketch", generator=generator, weights=tmp_path)
    with pytest.warns(UserWarning, match="random weights: no model_ir_se50.pth"):
        fresh = build.build_model(settings).encoder.state_dict()
    state = {key: torch.full_like(value, 2) for key, value in fresh.items() if key.startswith(("input", "body"))}
    state["input_layer.0.weight"] = torch.full((8, 3, 3, 3), 2.0)
    monkeypatch.setattr(build, "irse50_state", lambda folder: state)
    started = build.build_model(settings).encoder.state_dict()
    stem = {key for key in state if key.startswith("input_layer.")}
    assert len(stem) > 4 and all(torch.equal(started[key], fresh[key]) for key in stem)
    assert all((started[key] == 2).all() for key in state.keys() - stem)
    assert torch.equal(started["styles.0.linear.weight"], fresh["styles.0.linear.weight"])
    photos = make_settings(drawn, tmp_path / "run", generator=generator, weights=tmp_path)
    started = build.build_model(photos).encoder.state_dict()
    assert all((started[key] == 2).all() for key in state)


def test_an_encoder_goes_on_from_a_checkpoint(generator, tiny, drawn, tmp_path):
    before = tiny_model(seed=3)
    opts = {"dataset_type": "ffhq_encode", "encoder_type": "GradualStyleEncoder"}
    torch.save({"state_dict": before.state_dict(), "opts": opts}, tmp_path / "psp.pt")
    settings = make_settings(drawn, tmp_path / "run", "segmentation", generator=generator, init=tmp_path / "psp.pt")
    state, theirs = build.build_model(settings).encoder.state_dict(), before.encoder.state_dict()
    assert state["input_layer.0.weight"].shape[1] == 19
    assert all(torch.equal(state[key], theirs[key]) for key in theirs if not key.startswith("input_layer."))
    torch.save({"state_dict": before.state_dict(), "opts": opts | {"dataset_type": "cars_encode"}}, tmp_path / "psp.pt")
    again = build.build_model(settings).encoder.state_dict()  # of whatever task
    assert all(torch.equal(again[key], state[key]) for key in theirs if not key.startswith("input_layer."))
    other = make_settings(drawn, tmp_path / "run", "segmentation", "w", generator=generator, init=tmp_path / "psp.pt")
    with pytest.raises(build.PspError, match="another encoder"):
        build.build_model(other)


def test_a_resumed_run_needs_no_init(generator, tiny, drawn, tmp_path):
    """It may have been a step of another run, and be deleted."""
    settings = make_settings(drawn, tmp_path / "run", generator=generator, init=tmp_path / "gone.pt")
    with pytest.raises(build.PspError, match="no checkpoint at"):
        build.build_model(settings)
    settings.out.mkdir()
    for suffix in ("pt", "state"):
        (settings.out / f"step_00000002.{suffix}").touch()
    build.build_model(settings)


def test_a_demo_trains_over_the_bundled_generator():
    settings = Settings(make_recipe("sketch", "w"), Path("run"), demo=True)
    model = build.build_model(settings)
    assert (model.encoder.config.kind, model.encoder.config.input_channels) == ("w", 1)
    assert model.decoder.config.size == 256 and model.latent_avg.any()


def test_only_what_a_recipe_needs_is_loaded():
    assert load_networks(make_recipe("inversion", overrides=dict(lpips=0.0, identity=0.0)), None) == {}


def test_one_process_reads_the_label_maps_for_all(drawn, tiny, tmp_path, monkeypatch):
    settings = make_settings(drawn, tmp_path / "run", "segmentation")
    asked = []
    monkeypatch.setattr(start, "build", lambda settings, read_label_maps: asked.append(read_label_maps) or sys.exit())
    monkeypatch.setattr(start.distributed, "first_goes_first", lambda process: nullcontext())
    for rank in (0, 1):
        with pytest.raises(SystemExit):
            start.train(settings, Process(rank, 2, torch.device("cpu")), new=True)
    assert asked == [True, False]
    read = []
    monkeypatch.setattr(build.folders, "check_label_maps", lambda items, task: read.append(len(items)))
    for check in (True, False):
        build.build_samples(settings, check)
    assert read == [8]


def test_a_generator_of_nvidia(tiny, drawn, tmp_path):
    """Its stored average w is the start; the class of a conditional one is kept in run.json."""
    table = tiny_table(TINY_GENERATOR)
    file = write_torch(tmp_path / "cats.pkl", seeded(table, 3), conv_clamp=2.0)
    model = build.build_model(make_settings(drawn, tmp_path / "run", generator=file))
    assert torch.equal(model.latent_avg, seeded(table, 3)["mapping.w_avg"].expand(10, 32))
    assert model.decoder.config == replace(TINY_GENERATOR, conv_clamp=2.0)
    table |= {"mapping.embed.weight": [32, 3], "mapping.embed.bias": [32], "mapping.fc0.weight": [32, 64]}
    del table["mapping.w_avg"]
    file = write_torch(tmp_path / "classes.pkl", seeded(table, 3))
    settings = make_settings(drawn, tmp_path / "run", generator=file, class_index=2)
    assert Settings.from_json(settings.to_json()) == settings
    model = build.build_model(settings)
    with torch.no_grad():
        w = model.decoder.map(torch.randn(20_000, 32, generator=torch.Generator().manual_seed(9)))
    assert (model.latent_avg[0] - w.mean(0)).abs().max() < 5 * w.std() / 20_000**0.5
    with pytest.raises(PspError, match="give one class of it"):
        build.build_model(replace(settings, class_index=None))
