"""The loop: it learns, in half precision too, and stops at bad numbers before they reach the weights."""

import json

import numpy as np
import pytest
import torch
from models import tiny_model
from torch import nn
from training import losses, make_settings, make_trainer, train

from psp_runtime.errors import PspError
from psp_train.recipes import Recipe, make_recipe
from psp_train.training.ranger import Ranger
from psp_train.training.run_folder import RunFolder
from psp_train.training.trainer import learning_rate, make_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_training_learns(drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", steps=10, batch_size=4, optimizer="adam", validate_every=99)
    values = losses(train(settings).settings.out)
    assert min(values[-2:]) < 0.9 * values[0]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_step_in_half_precision(amp, drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", "frontalization", steps=2, amp=amp)
    half, full = make_trainer(settings), make_trainer(make_settings(drawn, tmp_path / "full", "frontalization"))
    before = [p.detach().clone() for p in half.model.encoder.parameters()]
    batches = half.batches(0)
    loss, terms = half.step(1, batches)
    expected, expected_terms = full.step(1, full.batches(0))
    assert abs(loss / expected - 1) < 0.03
    assert all(abs(terms[name] / expected_terms[name] - 1) < 0.03 for name in terms)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, half.model.encoder.parameters()))
    if amp == "fp16":
        state = half.state(1)["scaler"]
        assert state["scale"] > 1


@pytest.mark.parametrize(("demodulate", "factor"), [(True, 3000), (False, 30000)])
def test_styles_too_large_for_half_precision(demodulate, factor, drawn, tmp_path):
    """Published styles overflow float16 when squared: demodulation has to happen in float32, on scaled styles.

    Where nothing demodulates, before RGB, large styles stand before small weights: their product with the features must
    not overflow either.
    """
    trainer = make_trainer(make_settings(drawn, tmp_path / "run", amp="fp16"))
    with torch.no_grad():
        for module in trainer.model.decoder.modules():
            if getattr(module, "demodulate", None) is demodulate:
                for parameter in module.modulation.parameters():
                    parameter *= factor
                module.weight /= 1 if demodulate else factor
    batch = next(trainer.batches(0))
    with torch.no_grad():
        expected = trainer.renderer(batch).output
        with torch.autocast("cpu", torch.float16):
            found = trainer.renderer(batch).output
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(value, drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", steps=4, save_every=1)
    trainer = make_trainer(settings)
    step = trainer.step

    def poisoned(number, batches):
        if number == 3:
            trainer.objective.networks["identity"].network.weight[0, 0, 0, 0] = value
        return step(number, batches)

    trainer.step = poisoned
    with pytest.raises(PspError) as error:
        trainer.run()
    assert "not finite at step 3" in str(error.value) and "\n" not in str(error.value)
    saved = json.loads((settings.out / "not_finite_00000003.json").read_text())
    order = [batch.names for batch, _ in zip(make_trainer(settings).batches(0), range(3))]
    assert saved["step"] == 3 and saved["files"] == order[2] and str(settings.data) in saved["files"][0]
    assert not np.isfinite(float(saved["terms"]["identity"])) and np.isfinite(float(saved["terms"]["l2"]))
    assert RunFolder(settings.out).steps() == [1, 2]  # from before
    assert str(settings.out / "not_finite_00000003.json") in str(error.value)


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(drawn, tmp_path):
    """The loss is a number, its derivative is not: a step more and the weights, and their checkpoint, would be none."""
    settings = make_settings(drawn, tmp_path / "run", save_every=1, accumulate=2)
    trainer = make_trainer(settings)
    forward, calls = trainer.objective.forward, []

    def edge(rendering):
        calls.append(1)
        loss, terms = forward(rendering)
        return (loss + (loss - loss.detach()).sqrt() if len(calls) == 5 else loss), terms

    trainer.objective.forward = edge
    with pytest.raises(PspError, match="the gradient is not finite at step 3: {'loss': '0"):
        trainer.run()
    assert RunFolder(settings.out).steps() == [1, 2]
    assert all(torch.isfinite(p).all() for p in trainer.model.encoder.parameters())
    saved = json.loads((settings.out / "not_finite_00000003.json").read_text())
    assert len(saved["files"]) == 4 and np.isfinite(float(saved["terms"]["loss"]))


def test_the_learning_rate_falls_at_the_end():
    recipe = Recipe(learning_rate=1.0, decay=0.5, steps=10)
    rates = [learning_rate(recipe, step) for step in range(1, 11)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert {learning_rate(Recipe(steps=10), step) for step in range(1, 11)} == {1e-4}


def test_optimizers():
    layer = nn.Linear(2, 2)
    ranger = make_optimizer(make_recipe("inversion"), layer)
    assert isinstance(ranger, Ranger) and ranger.param_groups[0]["lr"] == 1e-4
    adam = make_optimizer(make_recipe("inversion", "local"), layer)
    assert type(adam) is torch.optim.Adam and adam.param_groups[0]["lr"] == 1e-4


def test_the_generator_stays_as_it_is(finished):
    _, trainer = finished
    before = tiny_model().decoder.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.decoder.state_dict().items())
    frozen = [*trainer.model.decoder.parameters(), *trainer.objective.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in frozen)
