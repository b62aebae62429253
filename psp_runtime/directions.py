"""Directions in W+: from examples, W+ latents with 0/1 labels -> the way from 0 to 1; from a generator's weights.

Method of the first: logistic regression on the latents, flattened to [L*S], with an intercept and an L2 penalty.
Latents are centred and divided by their root mean square distance from the centre, so that the penalty means the same
for every model; both classes weigh the same however many examples each has. The objective (mean log loss + penalty / 2
* |weights|^2) is convex with a known largest curvature, and is minimised by Nesterov's method with the fixed step that
goes with it. Of PENALTIES, the one with the lowest loss on held-out examples is taken (FOLDS folds, dealt in order of
appearance within each class). Nothing is random: the same examples give the same direction.

The direction's length is one standard deviation of the given latents along it, so a strength of 3 is far out for every
model and every property.

Shapes: N examples, L styles, S style dim, D features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psp_runtime.errors import PspError

Floats = NDArray[np.float64]

PENALTIES = (0.001, 0.01, 0.1, 1.0)
FOLDS, ITERATIONS, TOLERANCE = 5, 1000, 1e-6


class Direction(NamedTuple):
    """`step` float32 [L,S]; `accuracy` on held-out examples (both classes weighed alike) and the `penalty` chosen."""

    step: NDArray[np.float32]
    accuracy: float
    penalty: float


def fit_direction(latents: NDArray[np.float32], labels: NDArray[np.int_]) -> Direction:
    """Fit the direction from examples of label 0 to those of label 1: latents [N,L,S] and N labels.

    Raises `PspError` with fewer than two examples of a label, and for latents that are all alike.
    """
    counts = [int((labels == value).sum()) for value in (0, 1)]
    if min(counts) < 2 or sum(counts) != len(labels):
        raise PspError(f"{counts[0]} examples of label 0 and {counts[1]} of label 1: expected at least 2 of each")
    flat = latents.reshape(len(latents), -1).astype(np.float64)
    centred = flat - flat.mean(0)
    scale = float(np.sqrt(np.square(centred).sum(1).mean()))
    if scale == 0:
        raise PspError("the latents of all examples are alike: there is no direction among them")
    features, basis = _rotated(centred / scale)
    losses, accuracies = zip(*(_held_out(features, labels, penalty) for penalty in PENALTIES), strict=True)
    best = int(np.argmin(losses))
    weights, _ = _fit(features, labels, PENALTIES[best])
    way = basis @ weights
    way /= np.linalg.norm(way)
    step = way * (centred @ way).std()
    return Direction(step.astype(np.float32).reshape(latents.shape[1:]), accuracies[best], PENALTIES[best])


def semantics(weights: Sequence[NDArray[np.float32]], count: int) -> NDArray[np.float32]:
    """Compute `count` directions [count,S] of w that change styles the most: SeFa (Shen and Zhou 2021, section 3.2).

    `weights` [I,S] make the styles of the layers to be changed. The directions are unit eigenvectors of A A^T, where
    the columns of A are all rows of the weights, brought to length 1 as the published code does; the largest eigenvalue
    comes first. Their sign means nothing: here the largest number of each is positive.
    """
    rows = np.concatenate(weights).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    found = vectors.T[::-1][:count]
    largest = np.take_along_axis(found, np.abs(found).argmax(1)[:, None], axis=1)
    return np.asarray(found * np.sign(largest), np.float32)


def _rotated(x: Floats) -> tuple[Floats, Floats]:
    """Features [N,min(N,D)] with the same distances, and the basis [D,min(N,D)] they stand for.

    An L2 penalty does not see a rotation, and 9216 features of a few hundred examples span only that many dimensions.
    """
    if len(x) >= x.shape[1]:
        return x, np.eye(x.shape[1])
    basis, upper = np.linalg.qr(x.T)
    return upper.T, basis


def _fit(x: Floats, labels: NDArray[np.int_], penalty: float) -> tuple[Floats, float]:
    """Weights [D] and intercept that minimise the mean log loss + penalty / 2 * |weights|^2."""
    wide = np.hstack([x, np.ones((len(x), 1))])
    share, decay = _balance(labels), np.append(np.full(x.shape[1], penalty), 0.0)
    # sigmoid' <= 1/4, and the weighted mean of |(x, 1)|^2 bounds the largest eigenvalue of its second moments.
    rate = 1 / (0.25 * float(share @ np.square(wide).sum(1)) + penalty)
    push = (1 - np.sqrt(rate * penalty)) / (1 + np.sqrt(rate * penalty))
    w = ahead = np.zeros(wide.shape[1])
    for _ in range(ITERATIONS):
        gradient = wide.T @ (share * (_sigmoid(wide @ ahead) - labels)) + decay * ahead
        if np.abs(gradient).max() < TOLERANCE:
            break
        following = ahead - rate * gradient
        ahead, w = following + push * (following - w), following
    return w[:-1], float(w[-1])


def _held_out(x: Floats, labels: NDArray[np.int_], penalty: float) -> tuple[float, float]:
    """Mean log loss and accuracy on examples that were left out of the fit, both classes weighed alike."""
    fold = np.empty(len(labels), int)
    folds = min(FOLDS, *np.bincount(labels, minlength=2))
    for value in (0, 1):
        fold[labels == value] = np.arange((labels == value).sum()) % folds
    margin = np.empty(len(labels))
    for index in range(folds):
        weights, intercept = _fit(x[fold != index], labels[fold != index], penalty)
        margin[fold == index] = x[fold == index] @ weights + intercept
    signed, share = np.where(labels == 1, margin, -margin), _balance(labels)
    return float(share @ np.logaddexp(0, -signed)), float(share @ (signed > 0))


def _balance(labels: NDArray[np.int_]) -> Floats:
    """Weigh each example: half of everything for each class."""
    return np.asarray(0.5 / np.bincount(labels, minlength=2)[labels])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
