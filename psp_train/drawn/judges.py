"""Judges of drawn faces: four small networks of our own, trained on the drawn faces by `tools/train_judges.py`.

The published loss and evaluation networks cannot be shipped. These measure, on drawn faces only, a feature distance,
an identity distance, the yaw and the label map. They share no weights, so that a training which optimises one of
them can be judged by the others.

Pictures are [B,3,H,W] in [-1,1], of any size; the judges average-pool them to SIZE themselves. The networks have no
normalisation layers and no dropout: training and evaluation mode are the same.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from psp_runtime.pictures.label_classes import NAMES

WEIGHTS_FILE = Path(__file__).parents[1] / "weights" / "judges.safetensors"
SIZE = 128
# What stays when a face turns, speaks or moves to another room, and can be seen in a drawing.
IDENTITY_PARAMETERS = (
    "skin_tone", "skin_warmth", "face_width", "jaw", "chin_length", "hair_colour", "hair_length", "hair_volume",
    "fringe", "parting", "eye_size", "eye_spacing", "eye_colour", "brow_thickness", "nose_length", "nose_width",
    "mouth_width", "lip_colour", "glasses",
)  # fmt: skip


class PerceptualJudge(nn.Module):
    """Feature distance of two pictures: how differently a network that reads faces sees them."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64, 96)):
        super().__init__()
        self.stages = nn.ModuleList(_stage(a, b) for a, b in zip((3, *widths), widths))

    def features(self, x: Tensor) -> list[Tensor]:
        """Map pictures [B,3,H,W], H and W multiples of 16, to features [B,C,H/2,W/2], .., [B,C,H/16,W/16].

        Larger pictures are pooled to SIZE; smaller ones are seen as they are.
        """
        x = _pool(x) if min(x.shape[-2:]) > SIZE else x
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Average the squared differences, 0 .. 4, of unit feature vectors over places and maps: [B]."""
        distances = [(_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in zip(*_both(self.features, x, y))]
        return torch.stack(distances).mean(0)


class IdentityJudge(nn.Module):
    """Identity distance of drawn faces: do two pictures show the same face, whatever its pose and expression?

    The network estimates the IDENTITY_PARAMETERS; these estimates, with mean 0 and variance 1 over all faces, are the
    features.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64, 96, 96), hidden: int = 96):
        super().__init__()
        self.estimate = _estimator(widths, hidden, len(IDENTITY_PARAMETERS))

    def features(self, x: Tensor) -> Tensor:
        """Map pictures [B,3,H,W] to unit vectors [B,19]."""
        return _unit(self.estimate(_pool(x)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute 1 - cosine of the features, [B]: about 0 for the same face, about 1 for another one."""
        a, b = _both(self.features, x, y)
        return (a - b).square().sum(1) / 2  # the same for unit vectors, and exactly 0 for equal ones


class YawJudge(nn.Module):
    """How far a face is turned."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 32, 48, 64), hidden: int = 64):
        super().__init__()
        self.estimate = _estimator(widths, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [B,3,H,W] to degrees [B], positive towards the right of the picture."""
        return self.estimate(_pool(x))[:, 0].float() * (35 / math.sqrt(3))


class Segmenter(nn.Module):
    """Label maps of pictures: a U-Net that sees and paints 2x2 pixels at once."""

    def __init__(self, widths: tuple[int, ...] = (24, 40, 64, 80)):
        super().__init__()
        self.down = nn.ModuleList([_block(12, widths[0])])
        self.down.extend(_block(a, b, stride=2) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in zip(widths, widths[1:]))
        self.paint = nn.Conv2d(widths[0], 4 * len(NAMES), 1)

    def logits(self, x: Tensor) -> Tensor:
        """Map pictures [B,3,H,W] to scores of the labels [B,19,SIZE,SIZE]."""
        x, skips = F.pixel_unshuffle(_pool(x), 2), []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for up, skip in zip(reversed(self.up), reversed(skips[:-1])):
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
        return F.pixel_shuffle(self.paint(x), 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [B,3,H,W] to label maps int64 [B,SIZE,SIZE] (see `label_classes`)."""
        return self.logits(x).argmax(1)


class Judges(NamedTuple):
    """One judge of each kind; the names are also the prefixes of their keys in the weight file."""

    perceptual: PerceptualJudge
    identity: IdentityJudge
    yaw: YawJudge
    segmenter: Segmenter


def load_judges() -> Judges:
    """Load the bundled judges in FP32 and in eval mode; gradients flow to the pictures, not to the weights."""
    with safe_open(WEIGHTS_FILE, "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    judges = Judges(PerceptualJudge(), IdentityJudge(), YawJudge(), Segmenter())
    for name, network in judges._asdict().items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        network.load_state_dict(own)
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return judges


def errors() -> dict[str, float]:
    """Return what the judges get wrong on held-out drawn faces, by name, as `tools/train_judges.py` measured it."""
    with safe_open(WEIGHTS_FILE, "pt") as file:
        return json.loads(file.metadata()["errors"])


def _block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(convolution.weight, 0.2)  # no normalisation layers: the scale has to start right
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.LeakyReLU(0.2))


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Halve the size, then look again."""
    return nn.Sequential(_block(inputs, outputs, 2, 5 if inputs == 3 else 3), _block(outputs, outputs))


def _estimator(widths: tuple[int, ...], hidden: int, outputs: int) -> nn.Sequential:
    """Build a network from pictures [B,3,SIZE,SIZE] to numbers [B,outputs]."""
    stages = [_stage(a, b) for a, b in zip((3, *widths), widths)]
    side = SIZE // 2 ** len(widths)  # places stay apart to the end: they tell shape and pose
    head = [nn.Flatten(), nn.Linear(widths[-1] * side**2, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs)]
    return nn.Sequential(*stages, *head)


def _pool(x: Tensor) -> Tensor:
    """Average pictures [B,3,H,W] down to [B,3,SIZE,SIZE]."""
    x = x if x.shape[-2:] == (SIZE, SIZE) else F.adaptive_avg_pool2d(x, SIZE)
    return x.contiguous(memory_format=torch.channels_last)


def _unit(x: Tensor) -> Tensor:
    """Scale vectors along dimension 1 to length 1, in FP32."""
    return F.normalize(x.float(), dim=1, eps=1e-6)


def _both(features, x: Tensor, y: Tensor):
    """Compute the features of both pictures; none of the second one's work is kept where no gradient is asked for."""
    a = features(x)
    with torch.set_grad_enabled(torch.is_grad_enabled() and y.requires_grad):
        return a, features(y)
