"""Training of e4e and ReStyle: offsets that join one by one, and several steps on a batch."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from family import golden
from models import relative_error
from training import ALONE, make_settings, make_setup, make_trainer, message, train

from psp_export.export import engine_info
from psp_export.options import Options
from psp_runtime.errors import PspError
from psp_train.checkpoints.psp import _trained_iterations, load_checkpoint
from psp_train.checkpoints.state_files import WeightsError
from psp_train.losses.distances import delta_norm
from psp_train.losses.published import resnet34_state
from psp_train.networks.config import published_config
from psp_train.networks.encoder import add_first
from psp_train.networks.encoders import build_encoder
from psp_train.networks.psp import fed_back, to_input, to_picture
from psp_train.recipes import VARIANTS, make_recipe
from psp_train.training import start
from psp_train.training.build import load_matching
from psp_train.training.objective import Rendering
from psp_train.training.validation import grid

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("stage", [0, 4])
def test_offsets_of_a_stage_are_those_of_the_released_code(stage):
    expected = golden("e4e_64")
    codes = torch.from_numpy(expected["codes"])
    raw = torch.cat([codes[:, :1], codes[:, 1:] - codes[:, :1]], dim=1)
    assert relative_error(add_first(raw, stage), expected[f"codes_stage{stage}"]) < 5e-6
    assert torch.equal(add_first(raw, 9), add_first(raw))


def test_the_released_schedule():
    recipe = make_recipe("inversion", "e4e")
    steps = {1: 0, 19_999: 0, 20_000: 1, 21_999: 1, 22_000: 2, 52_000: 17}
    assert {step: recipe.deltas(step) for step in steps} == steps
    assert make_recipe("inversion").deltas(1) is None
    assert (recipe.delta_norm, recipe.lpips, recipe.l2, recipe.identity, recipe.w_norm) == (2e-4, 0.8, 1, 0.1, 0)
    for name in ("restyle", "restyle_e4e"):
        assert VARIANTS[name]["iterations"] == 5


def test_lengths_of_offsets():
    latents = np.random.default_rng(0).standard_normal((3, 6, 4))
    lengths = np.linalg.norm(latents[:, 1:] - latents[:, :1], axis=2).mean(0)
    for deltas, rows in ((None, 4), (5, 4), (4, 3), (2, 1), (1, 0), (0, 0)):  # the last one is left out
        found = delta_norm(torch.from_numpy(latents), deltas)
        assert float(found) == pytest.approx(lengths[:rows].sum(), rel=1e-6)


def test_heads_wait_for_their_turn(drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", "inversion", "e4e", steps=3, deltas_from=2, deltas_every=1)
    trainer = make_trainer(settings)
    heads = trainer.model.encoder.styles
    for step, (moved, still) in enumerate([(0, 1), (1, 2), (2, 3)], 1):
        before = [head.linear.weight.detach().clone() for head in heads]
        trainer.step(step, trainer.batches(step - 1))
        changed = [not torch.equal(a, head.linear.weight) for a, head in zip(before, heads, strict=True)]
        assert trainer.model.encoder.deltas == step - 1
        assert changed[moved] and not any(changed[still:])


def test_too_few_steps_for_every_head(drawn, tmp_path, monkeypatch):
    """A tiny generator has 10 styles: 9 offsets."""
    monkeypatch.setattr(start, "build", lambda settings, **_: make_setup(settings))
    monkeypatch.setattr(start, "Trainer", lambda *_: SimpleNamespace(run=lambda: None))
    monkeypatch.setattr(start, "what_next", str)
    settings = make_settings(drawn, tmp_path / "run", "inversion", "e4e", steps=600)
    with pytest.warns(UserWarning, match="600 steps train 0 of the 9 offsets, .*: give 36000 steps or more"):
        start.train(settings, ALONE, new=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (dict(steps=18, deltas_from=2, deltas_every=2), dict(steps=36_000)):
            start.train(make_settings(drawn, tmp_path / "run", "inversion", "e4e", **values), ALONE, new=True)
        start.train(make_settings(drawn, tmp_path / "run", "inversion"), ALONE, new=True)
    with pytest.warns(UserWarning, match="17 steps train 8 of the 9 offsets"):
        start.warn_of_idle_heads(make_recipe("inversion", "e4e", dict(steps=17, deltas_from=2, deltas_every=2)), 10)


def test_gradients_of_two_steps(drawn, tmp_path):
    """The gradient is the sum over the steps; what a step goes on from is taken as given."""
    settings = make_settings(drawn, tmp_path / "run", "inversion", "restyle", iterations=2, steps=1)
    trainer = make_trainer(settings)
    model, encoder = trainer.model, trainer.model.encoder.train()
    batch = next(trainer.batches(0))
    values = trainer.backward(1, 0, batch, last=True)
    found = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    x, target = (to_input(pixels, "rgb", 3) for pixels in (batch.source, batch.target))
    target = torch.nn.functional.adaptive_avg_pool2d(target, 64)
    latents = model.latent_avg.expand(len(x), -1, -1)
    picture, losses = model.synthesize(latents), []
    for _ in range(2):
        latents = latents.detach() + encoder(torch.cat([x, fed_back(picture.detach(), x)], dim=1))
        picture = model.synthesize(latents)
        loss, _ = trainer.objective(Rendering(picture, target, latents))
        loss.backward()
        losses.append(float(loss.detach()))
    wanted = np.concatenate([p.grad.numpy().ravel() for p in encoder.parameters()])
    assert relative_error(np.concatenate([gradient.numpy().ravel() for gradient in found]), wanted) < 1e-3
    assert float(values["loss"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("task", "variant", "body"),
    [("inversion", "restyle_e4e", "irse"), ("cars", "e4e", "irse")]
    + [("cars", "restyle", "resnet34"), ("inversion", "restyle_e4e", "resnet34")],
)
def test_a_run_is_a_checkpoint_of_its_kind(drawn, tmp_path, task, variant, body):
    settings = make_settings(drawn, tmp_path / "run", task, variant, steps=2, body=body)
    train(settings)
    loaded = load_checkpoint(tmp_path / "run" / "best.pt")
    assert loaded.encoder.kind == VARIANTS[variant]["encoder"] and loaded.task.name == task
    assert loaded.encoder.body == body
    assert loaded.model.rows == ((8, 56) if task == "cars" else None)


def test_as_many_steps_as_were_trained(drawn, tmp_path):
    """In the pictures of a validation, in PyTorch afterwards, and in the engine."""
    settings = make_settings(drawn, tmp_path / "run", "inversion", "restyle", iterations=2, steps=1)
    trainer = train(settings)
    batch = next(trainer.batches(0))
    x = to_input(batch.source, "rgb", 3)
    with torch.no_grad():
        shown = grid(trainer.model.eval(), batch, trainer.setup)[-256:]
        *_, last = trainer.model.refine(x, 2)
    np.testing.assert_array_equal(shown, np.concatenate(list(to_picture(fed_back(last.picture, x)).numpy()), axis=1))
    loaded = load_checkpoint(tmp_path / "run" / "best.pt")
    assert len(list(loaded.model.refine(x[:1]))) == 2
    assert engine_info(loaded, Options()).iterations == 2


def test_steps_that_a_file_names(tmp_path):
    for steps, wanted in ((1, 5), (3, 3), (21, 5), ("3", 5), (None, 5)):
        assert _trained_iterations({"psp_toolkit": {"iterations": steps}}) == wanted
    assert _trained_iterations({}) == 5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (dict(iterations=2), "iterations is 2: a psp encoder takes one step, set it to 1"),
        (dict(delta_norm=0.1), "delta_norm: for e4e's encoders, not for psp: set to 0"),
        (dict(body="resnet34"), "body is resnet34: only ReStyle's encoders have it, not psp, set it to irse"),
        (dict(encoder="restyle_psp", mixing=1.0), "a restyle_psp encoder refines pictures in colours, without mixing"),
    ],
)
def test_recipes_that_make_no_sense(values, words):
    with pytest.raises(PspError) as caught:
        make_recipe("inversion", None, values)
    assert words in message(caught)


def test_resnet34_starts_from_torchvisions_blocks(tmp_path):
    """A ReStyle encoder of the published size takes the blocks of the file; its first layer, of six channels, stays."""
    config = published_config("restyle_psp", styles=1, body="resnet34")
    encoder = build_encoder(config)
    state = {}
    for key, value in encoder.body.state_dict().items():
        block, name = key.split(".", 1)
        layer = next(n for n in range(4, 0, -1) if int(block) >= (0, 3, 7, 13)[n - 1])
        state[f"layer{layer}.{int(block) - (0, 3, 7, 13)[layer - 1]}.{name}"] = torch.full_like(value, int(block) + 1)
    assert {"layer1.0.conv1.weight", "layer3.5.bn2.running_var", "layer4.0.downsample.1.bias"} <= set(state)
    state |= {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 512)}
    torch.save(state, tmp_path / "resnet34-b627a593.pth")
    stem = encoder.conv1.weight.detach().clone()
    load_matching(resnet34_state(tmp_path), encoder)
    assert torch.equal(encoder.conv1.weight, stem)
    for number, block in enumerate(encoder.body, 1):
        assert all((value == number).all() for value in block.state_dict().values())
    with pytest.warns(UserWarning, match="starts from random weights: no resnet34-b627a593.pth in"):
        assert resnet34_state(tmp_path / "empty") == {}
    torch.save({"layer1.0.conv1.weight": stem}, tmp_path / "resnet34-b627a593.pth")
    with pytest.raises(WeightsError, match="does not fit resnet34-b627a593.pth"):
        resnet34_state(tmp_path)
