"""What pSp is trained on (paper, section 3.2): distances of pictures (LPIPS, identity, MoCo) and the w-norm of latents.

Pictures are [B,3,H,W] in [-1,1]. Every distance is one float32 number per sample, under autocast too: the networks
may run in half precision, lengths and differences do not. `psp_train.losses.published` reads the published weights.
"""

import torch
import torch.nn.functional as F
from torch import nn

from psp_runtime.tasks import INPUT_SIZE
from psp_train.networks.arcface import IR101, IRSE50, unit_length
from psp_train.networks.features import VGG16, AlexNet, ResNet50

#: Mean and standard deviation of ImageNet, for pictures in [-1,1], as rounded by LPIPS.
LPIPS_MEAN, LPIPS_STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LPIPS_EPS = 1e-10

#: Rows and columns of the face in an aligned 256x256 picture.
INNER_FACE = slice(35, 223), slice(32, 220)


class Frozen(nn.Module):
    """A network that measures and is never trained: always in evaluation mode, weights without gradient.

    Gradients reach the pictures. As no weight asks for one, pictures that ask for none (targets) build no graph.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode: a trainer's `.train()` must not let BatchNorm follow the batches."""
        return super().train(False)


class LPIPS(Frozen):
    """Learned perceptual distance, version 0.1 (Zhang et al. 2018, equation 1), on AlexNet or VGG16.

    `heads` has the keys of the published weights, one 1x1 convolution for each feature map.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: AlexNet | VGG16) -> None:
        super().__init__(network)
        heads = {f"lin{i}": lpips_head(channels) for i, channels in enumerate(network.channels)}
        self.heads = nn.ModuleDict(heads).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(LPIPS_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LPIPS_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compare x, y [B,3,H,W] in [-1,1]: distances [B]."""
        maps = zip(self.network(self.standardise(x)), self.network(self.standardise(y)), strict=True)
        pairs = zip(maps, self.heads.parameters(), strict=True)
        return torch.stack([layer_distance(a, b, weight) for (a, b), weight in pairs]).sum(0)

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        """Shift and scale colours x [B,3,H,W] in [-1,1] to mean 0 and variance 1 over ImageNet."""
        return (x - self.mean) / self.std


class CosineDistance(Frozen):
    """1 - cosine of two pictures' features, [B]: from 0 (same) to 2."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,3,H,W] in [-1,1] to features [B,N] of length 1."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compare x, y [B,3,H,W] in [-1,1]: distances [B]."""
        return 1 - (self.features(x) * self.features(y)).sum(1)


class IdentityDistance(CosineDistance):
    """How far two faces are from being the same person, by a face network's features.

    `network` is IR-SE50 for the loss; IR-101 for the similarity (the cosine) in the tables.
    """

    def __init__(self, network: IRSE50 | IR101) -> None:
        super().__init__(network)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Map aligned faces x [B,3,H,W] in [-1,1] to features [B,512] of length 1."""
        face = pool(x)[:, :, INNER_FACE[0], INNER_FACE[1]]
        return self.network(F.adaptive_avg_pool2d(face, 112))


class MoCoDistance(CosineDistance):
    """By MoCo v2 features (Chen et al. 2020): the identity loss of what is not a face (Tov et al. 2021)."""

    def __init__(self, network: ResNet50) -> None:
        super().__init__(network)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,3,H,W] in [-1,1] to features [B,2048] of length 1.

        As in the released code, 256 becomes 224 by nearest neighbour and colours are not standardised: the published
        loss weight belongs to these features.
        """
        return unit_length(self.network(F.interpolate(pool(x), size=224, mode="nearest")))


def w_norm(latents: torch.Tensor, latent_avg: torch.Tensor | None) -> torch.Tensor:
    """Average the lengths of latents [B,L,S] over (L,S), measured from `latent_avg` [L,S] if given: a scalar."""
    latents = latents.float()
    offsets = latents if latent_avg is None else latents - latent_avg.float()
    return torch.linalg.vector_norm(offsets, dim=(1, 2)).mean()


def delta_norm(latents: torch.Tensor, deltas: int | None) -> torch.Tensor:
    """Sum the lengths of e4e's offsets from the first of the latents [B,L,S], averaged over the samples: a scalar.

    Of `deltas` offsets in training the last is left out, as in the released code (encoder4editing, training/coach.py).
    """
    count = latents.shape[1] - 1 if deltas is None else min(deltas, latents.shape[1] - 1)
    offsets = latents[:, 1 : max(count, 1)].float() - latents[:, :1].float()
    return torch.linalg.vector_norm(offsets, dim=2).mean(0).sum()


def lpips_head(channels: int) -> nn.ModuleDict:
    """Build one head of LPIPS. The published ones have a dropout first, which only training them needed."""
    return nn.ModuleDict({"model": nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))})


def layer_distance(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Average the weighted squared differences of unit vectors over places: a, b [B,C,H,W], weight [1,C,1,1] -> [B]."""
    return ((unit_channels(a) - unit_channels(b)).square() * weight).sum(1).mean((1, 2))


def unit_channels(x: torch.Tensor) -> torch.Tensor:
    """Scale [B,C,H,W] to length 1 over C, in float32.

    `vector_norm`, as it has a gradient (0) where all features are 0; the square root of a sum of squares has none.
    """
    x = x.float()
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + LPIPS_EPS)


def pool(x: torch.Tensor, size: int = INPUT_SIZE) -> torch.Tensor:
    """Average pictures [B,C,H,W] over areas, to [B,C,size,size]; by default the size that face crops are made for."""
    return x if x.shape[2:] == (size, size) else F.adaptive_avg_pool2d(x, size)
