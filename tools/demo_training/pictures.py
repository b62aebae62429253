"""Losses and measures of pictures [B,3,H,W] in [-1,1]: squared errors, edges, colours."""

import torch
from torch import Tensor

#: An edge is where the drawing's brightness changes by this much from pixel to pixel, of 2 in all.
EDGE = 0.08


def to_tensor(pixels) -> Tensor:
    """uint8 [B,H,W,3] -> [B,3,H,W] in [-1,1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def picture_loss(image: Tensor, target: Tensor, edges: float) -> Tensor:
    """Mean logarithm of each picture's squared error, so that easy and hard faces count alike; also of gradients."""
    difference = image - target
    loss = squared(difference).log().mean()
    if edges:
        steps = squared(difference.diff(dim=2)) + squared(difference.diff(dim=3))
        loss = loss + edges * steps.log().mean()
    return loss


def squared(x: Tensor) -> Tensor:
    """Mean square of every picture: [B], kept from zero."""
    return x.square().mean((1, 2, 3)) + 1e-5


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """PSNR of every picture, dB: [B]."""
    return 10 * torch.log10(4 / (image.clamp(-1, 1) - target).square().mean((1, 2, 3)))


def edge_measures(image: Tensor, target: Tensor) -> dict[str, float]:
    """How sharp edges are, as the share of the drawing's contrast (1 is crisp), and the PSNR of their pixels."""
    slope, found, edge = slopes(target), slopes(image), slopes(target) > EDGE
    error = (image.clamp(-1, 1) - target).square().mean(1, keepdim=True)[edge].mean()
    return {
        "sharpness": float(found[edge].mean() / slope[edge].mean()),
        "edge_psnr": float(10 * torch.log10(4 / error)),
    }


def slopes(x: Tensor) -> Tensor:
    """Length of the gradient of the brightness, by central differences: [B,1,H,W], zero at the rim."""
    grey = x.clamp(-1, 1).mean(1, keepdim=True)
    result = torch.zeros_like(grey)
    across = (grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]) / 2
    down = (grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]) / 2
    result[:, :, 1:-1, 1:-1] = (across.square() + down.square()).sqrt()
    return result


def region_colours(image: Tensor, labels: Tensor, regions: tuple[int, ...]) -> Tensor:
    """Mean colours [B,R,3] of the pixels of each region's label; NaN where a picture has none. Labels [B,H,W]."""
    masks = torch.stack([labels == region for region in regions], dim=1).float()
    return torch.einsum("bchw,brhw->brc", image, masks) / masks.sum((2, 3))[..., None]
