"""How the latent discriminator of e4e learns, beside the encoder: a step on every batch, before the encoder's own.

The constants are those of the released code (encoder4editing, options/train_options.py and training/coach.py).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from psp_train.losses.latent_discriminator import LatentDiscriminator, own_codes
from psp_train.recipes import Recipe
from psp_train.training.distributed import Process, gathered

LEARNING_RATE = 2e-5
#: Weight of the gradient penalty, which is added in one of so many steps, times as many.
R1, R1_EVERY = 10.0, 16
#: Codes of earlier batches, in each of two pools.
POOL = 50


class Adversary:
    """The discriminator in training. `mapping` makes w [B,S] of z [B,S].

    Everything random is a function of (seed, step, part). All processes take the same step, on the codes of all.
    """

    def __init__(
        self,
        discriminator: LatentDiscriminator,
        mapping: Callable[[torch.Tensor], torch.Tensor],
        recipe: Recipe,
        process: Process,
    ) -> None:
        self.discriminator, self.mapping, self.seed, self.process = discriminator, mapping, recipe.seed, process
        self.optimizer = torch.optim.Adam(discriminator.parameters(), lr=LEARNING_RATE)
        self.pools: dict[str, list[torch.Tensor]] = {"real": [], "fake": []}

    def learn(self, step: int, part: int, latents: torch.Tensor, deltas: int | None) -> torch.Tensor:
        """Take a step on a batch: its latents [B,L,S], and as many w of the mapping network. Return the loss."""
        rng = np.random.default_rng([self.seed, step, part, 19])
        real, fake = self.samples(rng, own_codes(gathered(latents.detach().float(), self.process), deltas))
        self.discriminator.requires_grad_(True)
        loss = self.discriminator.loss(real, fake)
        self._descend(loss)
        if (step - 1) % R1_EVERY == 0:
            self._descend(R1 / 2 * R1_EVERY * self.discriminator.penalty(real))
        self.discriminator.requires_grad_(False)
        return loss.detach()

    def samples(self, rng: np.random.Generator, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw real and fake codes [B,S], new ones and earlier ones: of each of `codes` [B,N,S] one of its rows."""
        z = torch.from_numpy(rng.standard_normal((len(codes), codes.shape[-1]), np.float32)).to(codes)
        rows = torch.from_numpy(rng.integers(codes.shape[1], size=len(codes))).to(codes.device)
        with torch.no_grad(), torch.autocast(codes.device.type, enabled=False):
            real = self.mapping(z)
        fake = codes[torch.arange(len(codes), device=codes.device), rows]
        return exchanged(self.pools["real"], real, rng), exchanged(self.pools["fake"], fake, rng)

    def _descend(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Collect what a resume needs: weights, optimizer, pools."""
        pools = {name: [code.cpu() for code in pool] for name, pool in self.pools.items()}
        weights = self.discriminator.state_dict()
        return {"weights": weights, "optimizer": self.optimizer.state_dict(), "pools": pools}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.discriminator.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.process.device
        self.pools = {name: [code.to(device) for code in pool] for name, pool in state["pools"].items()}


def exchanged(pool: list[torch.Tensor], codes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Put codes [B,S] into a pool of earlier ones; half of those that find it full get an earlier one in return."""
    found = []
    for code in codes:
        if len(pool) < POOL:
            pool.append(code)
        elif rng.random() > 0.5:
            place = int(rng.integers(POOL))
            code, pool[place] = pool[place], code
        found.append(code)
    return torch.stack(found)
