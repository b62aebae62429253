"""The scripts in tools/demo_training: what a longer training relies on."""

import copy
from pathlib import Path

import drawings
import generator as stages
import loop
import model
import muon
import numpy as np
import pictures
import pytest
import torch
from style_distance import StyleDistance

from psp_train.drawn import faces


def test_the_steps_of_muon_are_nearly_orthogonal():
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    for weight in (matrix, matrix.T):
        values = torch.linalg.svdvals(muon.orthogonal(weight))
        assert values.min() > 0.5 and values.max() < 1.3


def test_muon_fits_a_linear_map_and_leaves_what_has_no_gradient():
    torch.manual_seed(0)
    layer, other, target = torch.nn.Linear(8, 8, bias=False), torch.nn.Parameter(torch.ones(2, 2)), torch.randn(8, 8)
    optimizer = muon.Muon([layer.weight, other])
    for _ in range(200):
        optimizer.zero_grad()
        (layer.weight - target).square().mean().backward()
        optimizer.step()
    assert (layer.weight - target).abs().mean() < 0.05
    assert torch.equal(other, torch.ones(2, 2))


class Killed(Exception):
    pass


def fit(file: Path, kill_at: int | None = None) -> dict[str, torch.Tensor]:
    """Eight steps of a small network towards seeded targets; returns the average's weights."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    average = copy.deepcopy(network)
    optimizers = [
        muon.Muon([p for p in network.parameters() if p.ndim > 1]),
        torch.optim.Adam([p for p in network.parameters() if p.ndim == 1], 0.01),
    ]

    def loss_of(step: int) -> torch.Tensor:
        if step == kill_at:
            raise Killed
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        return (network(x) - x.roll(1, 1)).square().mean()

    loop.run(loop.Training(network, average, optimizers, 8, loss_of, str), file)
    return torch.load(file, weights_only=True)


def test_a_killed_training_goes_on_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", -1)
    whole = fit(tmp_path / "whole.pt")
    with pytest.raises(Killed):
        fit(tmp_path / "killed.pt", kill_at=5)
    assert (tmp_path / "killed.state").exists()
    resumed = fit(tmp_path / "killed.pt")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not (tmp_path / "killed.state").exists()


def test_a_finished_stage_is_read_and_not_trained_again(tmp_path):
    first = fit(tmp_path / "done.pt")
    assert all(torch.equal(value, first[key]) for key, value in fit(tmp_path / "done.pt", kill_at=0).items())


def test_a_larger_generator_goes_on_from_a_smaller_one():
    torch.manual_seed(0)
    small = model.generator_at(16)
    large = model.generator_at(32, small)
    assert torch.equal(small.convs[0].conv.weight, large.convs[0].conv.weight)
    unused = large.style[1].weight[:, len(faces.PARAMETERS) :]
    assert not unused.any()


def test_coordinates_without_a_drawing_stay_out_of_the_mapping_network():
    torch.manual_seed(0)
    generator = model.generator_at(16)
    optimizer = stages.optimizers(generator, 0.02)[0]
    model.render(generator, torch.randn(2, 64)).square().mean().backward()
    optimizer.step()
    assert not generator.style[1].weight[:, len(faces.PARAMETERS) :].any()


def test_mixed_codes_are_those_of_the_faces_where_nothing_is_mixed():
    torch.manual_seed(0)
    generator, z = model.generator_at(64), torch.randn(4, 64)
    codes, plain = model.mixed_codes(generator, z), model.everywhere(generator, generator.map(z))
    torch.testing.assert_close(codes[2:], plain[2:])
    assert not torch.allclose(codes[:2], plain[:2])
    first = model.fine_from(generator.config.styles)
    assert all(torch.equal(codes[0, 0], codes[0, layer]) for layer in range(first))
    assert not torch.equal(codes[0, 0], codes[0, first])


def test_every_weight_of_a_generator_has_one_optimizer():
    generator = model.generator_at(16)
    held = [p for optimizer in stages.optimizers(generator, 0.02) for g in optimizer.param_groups for p in g["params"]]
    named = dict(generator.named_parameters())
    assert sorted(map(id, held)) == sorted(id(p) for name, p in named.items() if "noise" not in name)


def test_style_distance_is_nothing_for_equal_codes_and_one_for_the_average():
    torch.manual_seed(0)
    generator = model.generator_at(16).requires_grad_(False)
    average = model.average_w(generator)
    distance = StyleDistance(generator, average)
    codes = model.everywhere(generator, generator.map(torch.randn(500, 64)))
    assert distance(codes, codes) == 0
    assert distance(codes, average.expand_as(codes)) == pytest.approx(1, abs=0.1)


def test_drawings_agree_at_all_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(drawings, "CHUNK", 2)
    drawn = drawings.Drawings(tmp_path, 3)
    face, rows = faces.draw(faces.sample(3, drawings.TRAIN_SEED)[2]), np.array([2, 0])
    everything = drawn.everything(rows)[0]
    assert np.array_equal(everything, np.dstack([face.image, face.labels, face.sketch]))
    means = face.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(drawn.pictures(rows, 128)[0] - means).max() <= 0.5


def test_edges_of_a_blurred_picture_are_less_sharp():
    face = pictures.to_tensor(faces.draw(faces.sample(1, 2)[0]).image[None].copy())
    blurred = torch.nn.functional.avg_pool2d(face, 5, 1, 2)
    assert pictures.edge_measures(face + 0.001, face)["sharpness"] == pytest.approx(1, abs=0.01)
    assert pictures.edge_measures(blurred, face)["sharpness"] < 0.8


def test_colours_of_regions():
    image = torch.zeros(1, 3, 4, 4)
    image[:, :, :2] = 0.5
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, :2] = 3
    found = pictures.region_colours(image, labels, (0, 3, 5))
    assert found[0, 0].tolist() == [0, 0, 0] and found[0, 1].tolist() == [0.5, 0.5, 0.5]
    assert found[0, 2].isnan().all()
