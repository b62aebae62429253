"""Ranger against its definition in float64, written from the papers, and its state through a file."""

import copy
import io

import numpy as np
import pytest
import torch
from models import inputs

from psp_train.training.ranger import Ranger

LR, BETA1, BETA2, EPS, ALPHA, K = 0.01, 0.95, 0.999, 1e-5, 0.5, 6
SHAPES = {"conv": (4, 3, 3, 3), "linear": (5, 7), "bias": (5,), "gate": (6, 1, 1, 1)}


def gradient(name, step):
    """A seeded gradient whose mean is not 0, float32."""
    return inputs(f"{name} {step}", SHAPES[name]) + 0.3


def formula(name, start, steps):
    """RAdam (Liu et al., algorithm 2) of centralised gradients, and Lookahead (Zhang et al., algorithm 1)."""
    fast, slow = start.astype(np.float64), start.astype(np.float64)
    m, v = np.zeros_like(fast), np.zeros_like(fast)
    longest = 2 / (1 - BETA2) - 1
    for t in range(1, steps + 1):
        g = gradient(name, t).numpy().astype(np.float64)
        if name in ("conv", "linear"):
            g = g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True)
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g**2
        length = longest - 2 * t * BETA2**t / (1 - BETA2**t)
        direction = m / (1 - BETA1**t)
        if length > 5:
            up, down = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
            direction *= np.sqrt(up / down) * np.sqrt(1 - BETA2**t) / (np.sqrt(v) + EPS)
        fast = fast - LR * direction
        if t % K == 0:
            slow = slow + ALPHA * (fast - slow)
            fast = slow.copy()
    return fast


def parameters():
    return {name: torch.nn.Parameter(inputs(name, shape)) for name, shape in SHAPES.items()}


def advance(optimizer, weights, steps):
    for step in steps:
        for name, weight in weights.items():
            weight.grad = gradient(name, step)
        optimizer.step()


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 20])
def test_the_definition(steps):
    weights = parameters()
    start = {name: weight.detach().numpy().copy() for name, weight in weights.items()}
    advance(Ranger(weights.values(), lr=LR), weights, range(1, steps + 1))
    for name, weight in weights.items():
        expected = formula(name, start[name], steps)
        moved = np.abs(expected - start[name]).max()
        assert moved > LR / 10, name
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=1e-4 * moved, err_msg=name)


def test_the_constants_are_the_defaults():
    optimizer = Ranger(parameters().values())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.95, 0.999), 1e-5)
    assert (group["weight_decay"], optimizer.alpha, optimizer.k) == (0, 0.5, 6)


@pytest.mark.parametrize("stop", [4, 6])
def test_state_through_a_file_continues_bit_for_bit(stop):
    weights = parameters()
    optimizer = Ranger(weights.values(), lr=LR)
    advance(optimizer, weights, range(1, stop + 1))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copied = copy.deepcopy(weights)
    resumed = Ranger(copied.values(), lr=LR)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for which, parameters_ in ((optimizer, weights), (resumed, copied)):
        advance(which, parameters_, range(stop + 1, 15))
    assert all(torch.equal(weights[name], copied[name]) for name in weights)


def test_weights_without_gradient_stay():
    weights = parameters()
    optimizer = Ranger(weights.values(), lr=LR)
    before = weights["bias"].detach().clone()
    for step in range(1, 8):
        for name in ("conv", "linear"):
            weights[name].grad = gradient(name, step)
        optimizer.step()
    assert torch.equal(weights["bias"], before)


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="no closure"):
        Ranger(parameters().values()).step(lambda: 0.0)
