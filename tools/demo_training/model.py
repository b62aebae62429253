"""The generator of the demo models: its shape, its layers of shapes and of colours, and how it is read from a file."""

from pathlib import Path

import torch
from torch import Tensor, nn

from psp_train.drawn import faces
from psp_train.networks import Generator, GeneratorConfig

CHANNELS = (160, 160, 128, 96, 64, 32, 16)
MAPPING_LAYERS = 4
AVERAGED = 20_000
#: What the fine layers decide, and the first of these: multi-modal synthesis replaces the layers from there, too.
COLOURS = (
    "skin_tone", "skin_warmth", "hair_colour", "eye_colour", "lip_colour", "background_hue", "background_lightness",
    "clothes_hue",
)  # fmt: skip
FINE = 8
IS_COLOUR = torch.zeros(faces.FACE_DIM, dtype=torch.bool)
IS_COLOUR[[index for index, parameter in enumerate(faces.PARAMETERS) if parameter.name in COLOURS]] = True


def generator_at(size: int, smaller: Generator | None = None) -> Generator:
    """A generator of that size that goes on from the layers of a smaller one."""
    generator = Generator(GeneratorConfig(size, faces.FACE_DIM, MAPPING_LAYERS, CHANNELS))
    for noise in generator.noises.tensors():  # drawn faces have nothing for noise to explain
        noise.zero_()
    if smaller is not None:
        generator.load_state_dict(smaller.state_dict(), strict=False)
    ignore_unused_coordinates(generator.style[1].weight)
    generator.input.input.data = generator.input.input.data.to(memory_format=torch.channels_last)
    return generator


def ignore_unused_coordinates(weight: nn.Parameter) -> None:
    """Keep the mapping network's inputs at zero that no drawing depends on: the last ones of a face vector."""
    used = (torch.arange(faces.FACE_DIM) < len(faces.PARAMETERS)).float()
    weight.data *= used
    weight.register_hook(lambda gradient: gradient * used.to(gradient.device))


def load(path: Path) -> Generator:
    """The generator of a stage's file, or the moving average of a `.state`; frozen, of whatever size it is."""
    stored = torch.load(path, "cpu", weights_only=True)
    state = stored.get("average", stored)
    doublings = len({key.split(".")[1] for key in state if key.startswith("to_rgbs.")})
    generator = generator_at(4 * 2**doublings)
    generator.load_state_dict(state)
    return generator.eval().requires_grad_(False)


@torch.no_grad()
def average_w(generator: Generator) -> Tensor:
    """The mean w of many seeded face vectors, as it is packed, in half precision: [S]."""
    z = torch.randn(AVERAGED, faces.FACE_DIM, generator=torch.Generator().manual_seed(0))
    return generator.map(z).mean(0).half().float()


def render(generator: Generator, z: Tensor) -> Tensor:
    """Face vectors [B,64] -> pictures [B,3,size,size], roughly in [-1,1]."""
    return generator(everywhere(generator, generator.map(z)))


def everywhere(generator: Generator, w: Tensor) -> Tensor:
    """w [B,S] for all layers: [B,L,S]."""
    return w[:, None].expand(-1, generator.config.styles, -1)


def mixed_codes(generator: Generator, z: Tensor) -> Tensor:
    """Face vectors [B,64] -> codes [B,L,S] of the same faces, the first half of them mixed from two others.

    The coarse layers then know another face's colours and the fine ones another's shapes, which they have to ignore.
    """
    z, half, colour = generator.style[0](z), len(z) // 2, IS_COLOUR.to(z.device)
    other = torch.cat([z.roll(1, 0)[:half], z[half:]])
    coarse = generator.style[1:](torch.where(colour, other, z))
    fine = generator.style[1:](torch.where(colour, z, other))
    return join(everywhere(generator, coarse), everywhere(generator, fine))


def join(coarse: Tensor, fine: Tensor) -> Tensor:
    """The coarse layers of codes [B,L,S] and the fine layers of others."""
    first = fine_from(coarse.shape[1])
    return torch.cat([coarse[:, :first], fine[:, first:]], dim=1)


def fine_from(styles: int) -> int:
    """The first fine layer; a generator too small to have one takes those of its last resolution."""
    return min(FINE, styles - 3)
