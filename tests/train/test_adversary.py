"""The latent discriminator of e4e: its losses by their formulas, how it learns, and that a resume is exact."""

import numpy as np
import pytest
import torch
from training import ALONE, assert_same_run, make_settings, make_trainer, metrics, train

from psp_runtime.errors import PspError
from psp_train.losses.latent_discriminator import LatentDiscriminator, own_codes
from psp_train.recipes import make_recipe
from psp_train.training import adversary
from psp_train.training.adversary import Adversary, exchanged

pytestmark = pytest.mark.usefixtures("one_thread")


def in_float64(discriminator, w):
    """Scores [...,1] of codes [...,S], and their gradients by w, from the weights alone."""
    layers = [(one.weight.double().numpy(), one.bias.double().numpy()) for one in discriminator.mlp[::2]]
    slopes = []
    for weight, bias in layers[:-1]:
        w = w @ weight.T + bias
        slopes.append(np.where(w > 0, 1, 0.2))
        w = w * slopes[-1]
    gradient = np.broadcast_to(layers[-1][0][0], w.shape)
    for (weight, _), slope in zip(layers[-2::-1], slopes[::-1], strict=True):
        gradient = (gradient * slope) @ weight
    return w @ layers[-1][0].T + layers[-1][1], gradient


def softplus(x):
    return np.logaddexp(0, x)


@pytest.fixture
def discriminator():
    torch.manual_seed(3)
    return LatentDiscriminator(16)


def test_losses_are_their_formulas(discriminator):
    rng = np.random.default_rng(1)
    real, fake, latents = rng.normal(size=(5, 16)), rng.normal(size=(5, 16)), rng.normal(size=(5, 6, 16))
    a, b, c = (torch.from_numpy(x).float() for x in (real, fake, latents))
    (scores, gradient), (fooled, _) = in_float64(discriminator, real), in_float64(discriminator, fake)
    wanted = softplus(-scores).mean() + softplus(fooled).mean()
    assert float(discriminator.loss(a, b)) == pytest.approx(wanted, rel=1e-5)
    assert float(discriminator.penalty(a).detach()) == pytest.approx((gradient**2).sum(1).mean(), rel=1e-5)
    for deltas, rows in ((None, 6), (0, 1), (3, 4), (9, 6)):
        wanted = softplus(-in_float64(discriminator, latents[:, :rows])[0]).mean()
        assert float(discriminator.adversarial(c, deltas)) == pytest.approx(wanted, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator.loss(a, b) == discriminator.loss(a.double(), b)


def test_published_constants():
    keys = {name: tuple(value.shape) for name, value in LatentDiscriminator(512).state_dict().items()}
    wide = {f"mlp.{n}.{part}": (512, 512)[: 2 - (part == "bias")] for n in (0, 2, 4) for part in ("weight", "bias")}
    assert keys == wide | {"mlp.6.weight": (1, 512), "mlp.6.bias": (1,)}
    assert (adversary.LEARNING_RATE, adversary.R1, adversary.R1_EVERY, adversary.POOL) == (2e-5, 10, 16, 50)
    assert make_recipe("inversion", "e4e").adversarial == 0  # --set adversarial=0.1 as their README has it
    with pytest.raises(PspError, match="adversarial: for e4e's encoders, not for psp"):
        make_recipe("inversion", None, {"adversarial": 0.1})


@pytest.mark.parametrize("step", [1, 2])
def test_a_step_descends_the_losses(discriminator, step):
    """Of the first step, and then of every 16th, a second one goes down the gradient penalty."""
    mapping = torch.nn.Linear(16, 16).requires_grad_(False)
    one = Adversary(discriminator, mapping, make_recipe("inversion", "e4e", {"adversarial": 0.1}), ALONE)
    other = LatentDiscriminator(16).requires_grad_(True)
    other.load_state_dict(discriminator.state_dict())
    latents = torch.randn(4, 6, 16)
    found = one.learn(step, 0, latents, 2)
    z = torch.from_numpy(np.random.default_rng([0, step, 0, 19]).standard_normal((4, 16), np.float32))
    real, fake = mapping(z), torch.stack(one.pools["fake"])
    assert all((own_codes(latents, 2)[i] == code).all(1).any() for i, code in enumerate(fake))
    optimizer = torch.optim.Adam(other.parameters(), lr=2e-5)
    (loss := other.loss(real, fake)).backward()
    assert torch.equal(found, loss.detach())
    optimizer.step(), optimizer.zero_grad()
    if step == 1:
        (80 * other.penalty(real)).backward()
        optimizer.step()
    for ours, theirs in zip(discriminator.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
        assert not ours.requires_grad


def test_it_learns_to_tell_codes_apart(discriminator, monkeypatch):
    monkeypatch.setattr(adversary, "LEARNING_RATE", 1e-3)
    recipe = make_recipe("inversion", "e4e", {"adversarial": 0.1})
    one = Adversary(discriminator, lambda z: z + 1, recipe, ALONE)
    generator = torch.Generator().manual_seed(0)
    losses = [float(one.learn(n, 0, torch.randn(4, 6, 16, generator=generator) - 1, 5)) for n in range(2, 120)]
    assert losses[0] > 1.2 and np.mean(losses[-10:]) < 0.7


def test_half_of_the_codes_are_earlier_ones():
    pool, rng = [], np.random.default_rng(0)
    first = torch.arange(50.0)[:, None]
    assert torch.equal(exchanged(pool, first, rng), first)
    later = 50 + torch.arange(1000.0)[:, None]
    found = exchanged(pool, later, rng)
    earlier = int((found != later).sum())
    assert 450 < earlier < 550 and len(pool) == 50
    values = torch.cat([found, *(code[None] for code in pool)]).ravel()
    assert torch.equal(values.sort()[0], torch.arange(1050.0)), "no code is lost, and none is doubled"


@pytest.mark.parametrize("variant", ["e4e", "restyle_e4e"])
def test_a_resumed_run_is_the_run_without_a_stop(drawn, tmp_path, variant):
    values = dict(steps=4, adversarial=0.1, deltas_from=1, deltas_every=1) | (
        dict(iterations=2) if "re" in variant else {}
    )
    whole = make_settings(drawn, tmp_path / "whole", "inversion", variant, **values)
    train(whole)
    stopped = make_settings(drawn, tmp_path / "run", "inversion", variant, **values)
    first = make_trainer(stopped)
    after = first.after_step

    def until(step, line, board):
        after(step, line, board)
        if step == 2:
            raise KeyboardInterrupt

    first.after_step = until
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = train(stopped)
    assert_same_run(stopped.out, whole.out, 4)
    line = metrics(whole.out)[0]
    assert {"adversarial", "discriminator"} <= set(line) and np.isfinite(line["discriminator"])
    assert "discriminator" not in next(one for one in metrics(whole.out) if one["split"] == "validation")
    assert len(second.adversary.pools["fake"]) == 8


def test_the_encoder_is_drawn_to_the_mapping_networks_codes(drawn, tmp_path):
    """The term reaches the encoder, and leaves the discriminator as it is."""
    settings = make_settings(drawn, tmp_path / "run", "inversion", "e4e", adversarial=1.0, steps=1)
    gradients = []
    for weight in (1.0, 1e-9):
        values = dict(adversarial=weight, steps=1)
        settings = make_settings(drawn, tmp_path / f"run{weight}", "inversion", "e4e", **values)
        trainer = make_trainer(settings)
        trainer.model.encoder.train()
        trainer.backward(1, 0, next(trainer.batches(0)), last=True)
        gradients.append(trainer.model.encoder.styles[0].linear.weight.grad.clone())
        assert all(p.grad is None or not p.requires_grad for p in trainer.objective.discriminator.parameters())
    assert not torch.allclose(*gradients, rtol=1e-2)
