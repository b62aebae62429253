"""Muon: momentum whose step, for every weight matrix, is the nearest orthogonal matrix (Jordan et al. 2024).

All directions of a matrix are learned at one speed, not the strongest first. Newton-Schulz iterations find the
orthogonal factor; they run on the Gram matrix, so that the long side of a matrix is touched only twice.
"""

import torch
from torch import Tensor

#: Coefficients of the quintic iteration, chosen by its authors to bring singular values near 1 in few rounds.
COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions and for convolutions, seen as [outputs, rest]. A step's entries have RMS `lr`."""

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    direction = self.follow(parameter, group["momentum"])
                    parameter.add_(direction, alpha=-group["lr"])

    def follow(self, parameter: Tensor, momentum: float) -> Tensor:
        """Update the momentum; return the step before its rate, in the shape of the parameter."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        mean = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        matrix = as_matrix(parameter.grad.lerp(mean, momentum))
        return (orthogonal(matrix) * max(matrix.shape) ** 0.5).view_as(parameter)


def as_matrix(weight: Tensor) -> Tensor:
    """[O,I], [O,I,k,k] or [1,O,I,k,k] -> [O,rest]."""
    return weight.reshape(weight.shape[1] if weight.ndim == 5 else weight.shape[0], -1)


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of the matrix U S V^T: singular values from 0.7 to 1.2, whatever they were."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    gram, identity = x @ x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
    factor = identity
    for _ in range(ROUNDS):
        polynomial = a * identity + b * gram + c * gram @ gram
        factor, gram = polynomial @ factor, polynomial @ gram @ polynomial
    return factor @ x
