"""The loss of every recipe: one gradient step against a sum of terms written out here, and its single parts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import inputs, seeded_network
from torch import nn
from training import draw_faces, make_settings, make_trainer

from psp_runtime.errors import PspError
from psp_train.losses.distances import LPIPS, IdentityDistance, MoCoDistance
from psp_train.networks import EncoderConfig
from psp_train.networks.encoder import Backbone
from psp_train.networks.features import VGG16, AlexNet, ResNet50
from psp_train.recipes import RECIPES, Recipe, make_recipe
from psp_train.training import objective
from psp_train.training.objective import Objective, Rendering


class Face(Backbone):
    """A face network of the real one's kind: any picture -> features of length 1."""

    def forward(self, x):
        return F.normalize(self.stages(x)[3].mean((2, 3)), dim=1)


@pytest.fixture(scope="module")
def networks():
    """The published losses, on seeded networks; those of identity and MoCo are tiny."""
    face = seeded_network(lambda: Face(EncoderConfig(units=(1, 1, 1, 1), widths=(4, 6, 8, 12))), seed=0)
    moco = seeded_network(lambda: ResNet50(3, (1, 1, 1, 1), (4, 6, 8, 10)), seed=0)
    alex, vgg = LPIPS(seeded_network(AlexNet, seed=0)), LPIPS(seeded_network(VGG16, seed=0))
    for lpips in (alex, vgg):
        for i, head in enumerate(lpips.heads.parameters()):
            head.copy_(inputs(f"head {i}", tuple(head.shape)).abs())
    return {"alex": alex, "vgg": vgg, "identity": IdentityDistance(face), "moco": MoCoDistance(moco)}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("objective") / "drawn", 4)


def encoder_input(batch, task):
    """uint8 pictures -> what the encoder sees, after the table of tasks."""
    if task == "segmentation":
        return torch.from_numpy(np.eye(19, dtype=np.float32)[batch.source.numpy()]).permute(0, 3, 1, 2)
    x = batch.source.permute(0, 3, 1, 2).float()
    return x / 255 if task == "sketch" else x / 127.5 - 1


def expected_terms(trainer, batch, networks):
    """The terms of the loss, written out: {name: scalar}."""
    recipe, model = trainer.recipe, trainer.model
    latents = model.encoder(encoder_input(batch, recipe.task.name)) + model.latent_avg
    y, target = model.decoder(latents), F.avg_pool2d(batch.target.permute(0, 3, 1, 2) / 127.5 - 1, 4)
    mask = face(batch, recipe.mask)
    if recipe.task.name == "cars":  # the middle 384 of 512 rows
        y, mask = y[:, :, 8:56], mask[:, :, 8:56]
    a, b = y * mask, target * mask
    inner = (slice(None), slice(None), slice(9, 56), slice(8, 55))  # of 64: 35:223 and 32:220 of 256
    lpips, other = networks[recipe.lpips_network], latents[[1, 0]]
    replaced = torch.where(trainer.coins(1, 0)[:, :, None] == 1, other, latents) if recipe.mixing else latents
    terms = {
        "l2": lambda: (a - b).square().mean(),
        "l1": lambda: (a - b).abs().mean(),
        "lpips": lambda: lpips(a, b).mean(),
        "identity": lambda: networks["identity"](a, b).mean(),
        "moco": lambda: networks["moco"](a, b).mean(),
        "w_norm": lambda: (latents - model.latent_avg).square().sum((1, 2)).sqrt().mean(),
        "l2_crop": lambda: (y - target)[inner].square().mean(),
        "lpips_crop": lambda: lpips(y[inner], target[inner]).mean(),
        "mixing": lambda: (model.decoder(replaced) - y).abs().mean(),
    }
    return {name: terms[name]() for name, weight in recipe.weights.items() if weight}


def face(batch, kind):
    """Where the losses look, of 64x64."""
    if kind == "labels":
        return F.avg_pool2d(batch.mask[:, None].float(), 4)
    mask = torch.full((1, 1, 64, 64), float(kind == "none"))
    mask[:, :, 9:56, 8:55] = 1
    return mask


CASES = [(task, None, {}) for task in RECIPES] + [
    ("inversion", "w", {}),
    ("inversion", "naive_wplus", {}),
    ("inversion", "global", {}),
    ("inversion", "local", {}),
    ("inversion", "global", {"mask": "labels"}),
    ("segmentation", "local", {}),
    ("inversion", None, {"identity": 0.0, "moco": 0.5}),
]


@pytest.mark.parametrize(("task", "variant", "values"), CASES)
def test_one_gradient_step(task, variant, values, drawn, networks, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", task, variant, **values)
    ours = {
        name: networks[settings.recipe.lpips_network if name == "lpips" else name]
        for name in ("lpips", "identity", "moco")
    }
    trainer = make_trainer(settings, networks=ours)
    encoder = trainer.model.encoder.train()
    batch = next(trainer.batches(0))
    terms = expected_terms(trainer, batch, networks)
    expected = sum(settings.recipe.weights[name] * value for name, value in terms.items())
    wanted = torch.autograd.grad(expected, list(encoder.parameters()))
    found = trainer.backward(1, 0, batch, last=True)
    assert set(found) == {"loss", *terms}
    for name, value in (terms | {"loss": expected}).items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-5, atol=1e-7, msg=name)
    for (name, p), gradient in zip(encoder.named_parameters(), wanted):
        assert (p.grad - gradient).abs().max() <= 1e-3 * gradient.abs().max() + 1e-7, name
    assert sum(float(gradient.abs().sum()) > 0 for gradient in wanted) > 0.9 * len(wanted)
    frozen = [*trainer.model.decoder.parameters(), *trainer.objective.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def rendering(**values):
    """A rendering of seeded pictures and latents."""
    pictures = dict(output=inputs("output", (2, 3, 64, 64)), target=inputs("target", (2, 3, 64, 64)))
    return Rendering(**(pictures | dict(latents=inputs("codes", (2, 10, 32))) | values))


def loss_of(recipe, r):
    average = inputs("average", (10, 32))
    return Objective(recipe, {}, average)(r)


#: A loss without networks.
PLAIN = dict(lpips=0.0, identity=0.0)


def test_the_loss_is_the_weighted_sum():
    recipe = make_recipe("inversion", overrides=PLAIN | dict(l1=3.0, w_norm=0.5))
    r = rendering()
    loss, terms = loss_of(recipe, r)
    assert list(terms) == ["l2", "l1", "w_norm"]
    torch.testing.assert_close(loss, terms["l2"] + 3 * terms["l1"] + 0.5 * terms["w_norm"])
    torch.testing.assert_close(terms["l2"], (r.output - r.target).square().mean())


@pytest.mark.parametrize("start", [True, False])
def test_w_norm_is_measured_from_where_latents_start(start):
    recipe = make_recipe("inversion", overrides=PLAIN | dict(w_norm=1.0, start_from_average=start))
    r = rendering()
    offsets = r.latents - inputs("average", (10, 32)) if start else r.latents
    torch.testing.assert_close(loss_of(recipe, r)[1]["w_norm"], offsets.flatten(1).norm(dim=1).mean())


def test_crops_of_256_are_the_references():
    x = inputs("x", (1, 3, 256, 256))
    assert torch.equal(objective.inner_face(x), x[:, :, 35:223, 32:220])
    mask = objective.inner_face_mask(x)
    assert mask.shape == (1, 1, 256, 256) and mask.sum() == 188 * 188 and mask[:, :, 35:223, 32:220].all()


@pytest.mark.parametrize("size", [64, 128, 512, 1024])
def test_crops_of_other_sizes_are_in_proportion(size):
    rows = torch.arange(size, dtype=torch.float32)[None, None, :, None].expand(1, 1, size, size)
    for x, (start, stop) in ((rows, (35, 223)), (rows.transpose(2, 3), (32, 220))):
        cropped = objective.inner_face(x)
        assert abs(cropped.min() - start * size / 256) <= 0.5 and abs(cropped.max() + 1 - stop * size / 256) <= 0.5


def test_outside_the_mask_nothing_counts():
    recipe = Recipe(**(PLAIN | dict(l1=1.0, l2=1.0)))
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 20:40] = 1
    r = rendering(mask=mask)
    changed = rendering(mask=mask, output=torch.where(mask == 1, r.output, 7.0))
    assert loss_of(recipe, r)[0] == loss_of(recipe, changed)[0] > 0


MIXING = Recipe(**(PLAIN | dict(l2=0.0, l1=1.0, mixing=1.0)))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_mixing_regulariser(alpha, drawn, tmp_path):
    """Nothing replaced: 0. Everything replaced: how much the output differs from that of the sample before."""
    trainer = make_trainer(make_settings(drawn, tmp_path / "run", "inversion", "local"))
    batch = next(trainer.batches(0))
    with torch.no_grad():
        made = trainer.renderer(batch, torch.full((2, 10), alpha))
    found = loss_of(MIXING, made)[1]["mixing"]
    if alpha == 0:
        assert found == 0
    else:
        torch.testing.assert_close(found, (made.output - made.output[[1, 0]]).abs().mean())


def test_the_mixing_regulariser_is_for_training_only():
    assert set(loss_of(MIXING, rendering())[1]) == {"l1"}
    assert set(loss_of(MIXING, rendering(mixed=inputs("mixed", (2, 3, 64, 64))))[1]) == {"l1", "mixing"}


def test_coins_follow_from_the_step(drawn, tmp_path):
    trainer = make_trainer(make_settings(drawn, tmp_path / "run", "inversion", "local"))
    coins = [trainer.coins(step, part) for step in range(20) for part in range(2)]
    assert all(c.shape == (2, 10) and set(c.unique().tolist()) <= {0, 1} for c in coins)
    assert 0.4 < torch.stack(coins).mean() < 0.6
    assert len({c.numpy().tobytes() for c in coins}) > 35
    assert torch.equal(coins[6], trainer.coins(3, 0))


def test_a_demo_knows_no_other_things_than_faces():
    with pytest.raises(PspError, match="set it to 0"):
        objective.demo_networks(make_recipe("inversion", overrides=dict(identity=0.0, moco=0.5)))
    ours = objective.demo_networks(make_recipe("frontalization"))
    assert set(ours) == {"lpips", "identity"} and all(isinstance(n, nn.Module) for n in ours.values())


def test_missing_weights_are_one_list(tmp_path):
    with pytest.raises(PspError) as error:
        objective.load_networks(make_recipe("inversion", "global"), tmp_path)
    text = str(error.value)
    assert "\n" not in text
    assert all(name in text for name in ("vgg16-397923af.pth", "vgg.pth", "model_ir_se50.pth", str(tmp_path)))
    assert "alexnet" not in text
