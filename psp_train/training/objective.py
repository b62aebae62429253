"""The training loss of a recipe: which terms, on which pictures, weighted how (paper, section 3.2).

Shapes: B batch, L styles, S style dim; pictures [B,3,H,W] in [-1,1] with H = W = 256, or the recipe's render size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from psp_runtime.errors import PspError
from psp_train.drawn import judges
from psp_train.losses.distances import INNER_FACE, delta_norm, w_norm
from psp_train.losses.latent_discriminator import LatentDiscriminator
from psp_train.losses.published import LPIPS_FILES, find, load_identity, load_lpips, load_moco
from psp_train.recipes import Recipe

#: Two pictures [B,3,H,W] -> one distance each [B].
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Rendering:
    """What one forward pass made: `output` and `target` pictures, `latents` [B,L,S] that the encoder found.

    `mask` [B,1,H,W] is 1 on the face; `mixed` is the output with some styles of another sample, where asked for;
    `deltas` is how many of e4e's offsets are trained yet, None is all.
    """

    output: torch.Tensor
    target: torch.Tensor
    latents: torch.Tensor
    mask: torch.Tensor | None = None
    mixed: torch.Tensor | None = None
    deltas: int | None = None


class Objective(nn.Module):
    """The weighted sum of a recipe's terms. `networks`: frozen distances named "lpips", "identity", "moco".

    `discriminator` is there where a term needs it; it learns elsewhere (`Adversary`).
    """

    def __init__(self, recipe: Recipe, networks: Mapping[str, nn.Module], latent_avg: torch.Tensor) -> None:
        super().__init__()
        self.recipe = recipe
        self.networks = nn.ModuleDict({name: networks[name] for name in recipe.networks})
        self.register_buffer("latent_avg", latent_avg.clone(), persistent=False)
        self.discriminator = LatentDiscriminator(latent_avg.shape[-1]) if recipe.adversarial else None

    def forward(self, rendering: Rendering) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss, a scalar, and its terms, unweighted and detached, by the names of the recipe's fields."""
        weights = self.recipe.weights
        terms = {name: TERM_FUNCTIONS[name](self, rendering).float() for name in self.wanted(rendering)}
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    def wanted(self, rendering: Rendering) -> list[str]:
        """Name the terms to compute: not those of weight 0; the mixing regulariser is a term of training only."""
        left_out = set() if rendering.mixed is not None else {"mixing"}
        return [name for name, weight in self.recipe.weights.items() if weight and name not in left_out]

    def compare(self, network: str, rendering: Rendering) -> torch.Tensor:
        """Average the distances of outputs and targets by one of the networks: a scalar."""
        return self.networks[network](*masked(rendering)).mean()

    def compare_crops(self, network: str, rendering: Rendering) -> torch.Tensor:
        """Do the same on the inner face, which is not masked."""
        return self.networks[network](inner_face(rendering.output), inner_face(rendering.target)).mean()

    def adversarial(self, rendering: Rendering) -> torch.Tensor:
        """Compute how well the discriminator tells the latents from the mapping network's."""
        assert self.discriminator is not None
        return self.discriminator.adversarial(rendering.latents, rendering.deltas)

    def latents_norm(self, rendering: Rendering) -> torch.Tensor:
        """Compute the w-norm, around the average w if that is where latents start."""
        return w_norm(rendering.latents, self.latent_avg if self.recipe.start_from_average else None)


def masked(rendering: Rendering) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs and targets, grey outside the mask."""
    mask = rendering.mask
    if mask is None:
        return rendering.output, rendering.target
    return rendering.output * mask, rendering.target * mask


def inner_face(x: torch.Tensor) -> torch.Tensor:
    """Cut the inner face, rows 35..223 and columns 32..220 of 256, out of aligned pictures [B,C,H,W] of any size."""
    rows, columns = (slice(_scale(s.start, x), _scale(s.stop, x)) for s in INNER_FACE)
    return x[:, :, rows, columns]


def _scale(position: int, x: torch.Tensor) -> int:
    return round(position * x.shape[-1] / 256)


def inner_face_mask(x: torch.Tensor) -> torch.Tensor:
    """Make a mask [B,1,H,W] for pictures like x: 1 on the inner face, 0 elsewhere."""
    mask = torch.zeros_like(x[:, :1])
    inner_face(mask).fill_(1)
    return mask


#: The terms of the loss, by the names of the recipe's fields.
TERM_FUNCTIONS: dict[str, Callable[[Objective, Rendering], torch.Tensor]] = {
    "l2": lambda objective, r: F.mse_loss(*masked(r)),
    "l1": lambda objective, r: F.l1_loss(*masked(r)),
    "lpips": lambda objective, r: objective.compare("lpips", r),
    "identity": lambda objective, r: objective.compare("identity", r),
    "moco": lambda objective, r: objective.compare("moco", r),
    "l2_crop": lambda objective, r: F.mse_loss(inner_face(r.output), inner_face(r.target)),
    "lpips_crop": lambda objective, r: objective.compare_crops("lpips", r),
    "mixing": lambda objective, r: F.l1_loss(r.mixed, r.output),
    "w_norm": lambda objective, r: objective.latents_norm(r),
    "delta_norm": lambda objective, r: delta_norm(r.latents, r.deltas),
    "adversarial": lambda objective, r: objective.adversarial(r),
}


def load_networks(recipe: Recipe, weights: Path | None) -> dict[str, nn.Module]:
    """Load the published networks of a recipe from a folder; one `PspError` lists all files that are missing."""
    files = {"lpips": LPIPS_FILES[recipe.lpips_network], "identity": ("ir_se50",), "moco": ("moco",)}
    find(weights, [file for name in recipe.networks for file in files[name]])
    load = {
        "lpips": lambda: load_lpips(weights, recipe.lpips_network),
        "identity": lambda: load_identity(weights),
        "moco": lambda: load_moco(weights),
    }
    return {name: load[name]() for name in recipe.networks}


def demo_networks(recipe: Recipe) -> dict[str, nn.Module]:
    """Load networks for drawn faces in place of the published ones: feature distance and identity distance.

    Raises `PspError` for a recipe that compares something else than faces.
    """
    if recipe.moco:
        raise PspError("moco is for domains other than faces, and --demo draws faces: set it to 0")
    ours = judges.load_judges()
    return {name: {"lpips": ours.perceptual, "identity": ours.identity}[name] for name in recipe.networks}
