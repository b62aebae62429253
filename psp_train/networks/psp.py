"""pixel2style2pixel: pSp(x) = G(E(x) + w_avg) (paper, section 3), and ReStyle, which does it step by step.

w = w_avg, y = G(w_avg)
repeat:  w = w + E(x, y),  y = G(w)         (ReStyle, Alaluf et al. 2021, section 3.1)
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from psp_runtime.tasks import INPUT_SIZE, ITERATIONS, InputKind
from psp_train.networks.config import EncoderConfig
from psp_train.networks.encoders import build_encoder
from psp_train.networks.stylegan2 import Generator, GeneratorConfig


class Step(NamedTuple):
    """Where a refinement stands: W+ latents [B,L,S], and the picture [B,3,H,W] of them, in about [-1,1]."""

    latents: torch.Tensor
    picture: torch.Tensor


class PSP(nn.Module):
    """Encoder and frozen generator; `encoder.*` and `decoder.*` are the keys of published checkpoints.

    `latent_avg` [L,S] is the average w of the generator, from which the encoder predicts offsets (zeros when the
    checkpoint was trained without it). `rows` are those kept of the generator's pictures, None is all. A ReStyle
    encoder takes `iterations` steps unless told otherwise.
    """

    latent_avg: torch.Tensor

    def __init__(
        self,
        encoder: EncoderConfig = EncoderConfig(),
        generator: GeneratorConfig = GeneratorConfig(),
        rows: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder)
        self.decoder = Generator(generator)
        self.rows = rows
        self.iterations = ITERATIONS
        average = torch.zeros(generator.styles, generator.style_dim)
        self.register_buffer("latent_avg", average, persistent=False)

    @property
    def input_height(self) -> int:
        """The height of the pictures it takes, INPUT_SIZE wide: the shape of what is kept of the generator's."""
        size = self.decoder.config.size
        first, last = self.rows or (0, size)
        return INPUT_SIZE * (last - first) // size

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,H,W], as `to_input` makes it, to W+ latents [B,L,S]; of a ReStyle encoder the last ones."""
        if not self.encoder.config.refines:
            return self.encoder(x) + self.latent_avg
        *_, last = self.refine(x)
        return last.latents

    def refine(self, x: torch.Tensor, iterations: int | None = None, first: Step | None = None) -> Iterator[Step]:
        """Encode x [B,3,H,W] step by step with a ReStyle encoder; `first` is where it starts, by default the average.

        Published code: restyle-encoder, utils/inference_utils.py.
        """
        step = self.average(x) if first is None else first
        for _ in range(iterations or self.iterations):
            latents = step.latents + self.encoder(torch.cat([x, fed_back(step.picture, x)], dim=1))
            step = Step(latents, self.synthesize(latents))
            yield step

    def average(self, x: torch.Tensor) -> Step:
        """Return the average w and its picture, as often as there are pictures x."""
        average = self.latent_avg[None]
        return Step(*(one.expand(len(x), *one.shape[1:]) for one in (average, self.synthesize(average))))

    def synthesize(self, latents: torch.Tensor) -> torch.Tensor:
        """Map W+ latents [B,L,S] to the picture [B,3,H,W] that is kept, in about [-1,1]."""
        return self.decoder(latents)[:, :, slice(*(self.rows or (None,)))]

    def forward(
        self, x: torch.Tensor, style: torch.Tensor | None = None, alpha: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x [B,C,H,W] to a picture [B,3,H,W] in about [-1,1] and latents [B,L,S] before mixing.

        `style` [B,L,S] and `alpha` [B,L] in [0,1] mix other latents in, layer by layer: 0 keeps, 1 replaces.
        """
        latents = self.encode(x)
        mixed = latents if style is None or alpha is None else mix(latents, style, alpha)
        return self.synthesize(mixed), latents


def fed_back(picture: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Bring a picture [B,3,H,W] to the size of x, neither clipped nor quantised: averaged, or each pixel repeated."""
    return F.adaptive_avg_pool2d(picture, x.shape[2:])


def mix(latents: torch.Tensor, style: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Mix latents and style, [B,L,S] each, by alpha [B,L]: (1 - alpha) latents + alpha style is exact at 0 and 1."""
    alpha = alpha[:, :, None]
    return (1 - alpha) * latents + alpha * style


def to_input(image: torch.Tensor, kind: InputKind, channels: int) -> torch.Tensor:
    """Turn uint8 pictures, as `psp_runtime.pictures.loading` loads them, into the encoder's input, float32 [B,C,H,W].

    RGB [B,H,W,3] to [-1,1]; sketches [B,H,W,1] to [0,1]; class ids [B,H,W] to one-hot.
    """
    if kind == "labels":
        return F.one_hot(image.long(), channels).permute(0, 3, 1, 2).float()
    x = image.permute(0, 3, 1, 2).float() / 255
    return x if kind == "sketch" else (x - 0.5) / 0.5


def to_picture(x: torch.Tensor) -> torch.Tensor:
    """Turn the generator's output [B,3,H,W] in [-1,1] into uint8 [B,H,W,3]: clipped, scaled, truncated as released."""
    return (((x + 1) / 2).clamp(0, 1) * 255).permute(0, 2, 3, 1).to(torch.uint8)
