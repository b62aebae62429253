"""Ranger: RAdam, gradient centralisation and Lookahead, the optimizer pSp was trained with.

RAdam (Liu et al. 2020) is torch's. Gradient centralisation (Yong et al. 2020) subtracts from every weight gradient its
mean over all but the output dimension; not over one number, which would leave nothing of it (the narrow demo encoder
has such gates). Lookahead (Zhang et al. 2019) keeps slow weights that move a share `alpha` towards the fast ones every
`k` steps, from where those then go on.
"""

from collections.abc import Callable, Iterable

import torch


class Ranger(torch.optim.RAdam):
    """RAdam + gradient centralisation + Lookahead; slow weights and step counts are part of `state_dict()`."""

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        alpha: float = 0.5,
        k: int = 6,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps)
        self.alpha, self.k = alpha, k

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step by the gradients now stored. `closure` is not supported: it would undo the centralisation."""
        if closure is not None:
            raise ValueError("Ranger takes no closure: call backward() before step()")
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        first = {p: p.clone() for p in trained if "slow" not in self.state[p]}
        for p in trained:
            if p.grad.ndim > 1 and p.grad[0].numel() > 1:
                p.grad.sub_(p.grad.mean(dim=tuple(range(1, p.grad.ndim)), keepdim=True))
        super().step()
        for p in trained:
            state = self.state[p]
            if p in first:  # only now: RAdam sets up its own state where there is none
                state["slow"] = first[p]
            if int(state["step"]) % self.k == 0:
                state["slow"].lerp_(p, self.alpha)
                p.copy_(state["slow"])
        return None
