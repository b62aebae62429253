"""The latent discriminator of e4e: it tells codes of the mapping network from those of an encoder.

"Designing an Encoder for StyleGAN Image Manipulation" (Tov et al. 2021), section 4.2, equations 3 and 4; widths and
slope as in the released code (encoder4editing, models/discriminator.py). Every loss is in float32, under autocast too.
"""

import torch
import torch.nn.functional as F
from torch import nn

#: Linear layers.
DEPTH = 4
SLOPE = 0.2


class LatentDiscriminator(nn.Module):
    """Scores codes: above 0 those that the mapping network seems to have made. `mlp.*` are the released keys."""

    def __init__(self, style_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential()
        for _ in range(DEPTH - 1):
            self.mlp += nn.Sequential(nn.Linear(style_dim, style_dim), nn.LeakyReLU(SLOPE))
        self.mlp.append(nn.Linear(style_dim, 1))
        self.requires_grad_(False)  # but while it learns itself

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Map codes w [...,S] to scores [...,1]."""
        with torch.autocast(w.device.type, enabled=False):
            return self.mlp(w.float())

    def loss(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Compute what it minimises itself, of codes [B,S] each: a scalar."""
        return F.softplus(-self(real)).mean() + F.softplus(self(fake)).mean()

    def penalty(self, real: torch.Tensor) -> torch.Tensor:
        """Average the squared lengths of its gradients at real codes [B,S] (R1, Mescheder et al. 2018): a scalar."""
        real = real.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self(real).sum(), real, create_graph=True)
        return gradient.square().sum(1).mean()

    def adversarial(self, latents: torch.Tensor, deltas: int | None) -> torch.Tensor:
        """Compute what the encoder minimises: that its codes [B,L,S] are taken for the mapping network's, a scalar.

        Of e4e's offsets, only the first `deltas` make codes of their own yet; None is all of them.
        """
        return F.softplus(-self(own_codes(latents, deltas))).mean()


def own_codes(latents: torch.Tensor, deltas: int | None) -> torch.Tensor:
    """Take the codes [B,1+deltas,S] that are no copies of the first out of latents [B,L,S]; None is all of them."""
    return latents if deltas is None else latents[:, : 1 + deltas]
