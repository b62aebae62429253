"""pixel2style2pixel: pSp(x) = G(E(x) + w_avg) (paper, section 3)."""

import torch
import torch.nn.functional as F
from torch import nn

from psp_runtime.tasks import InputKind
from psp_train.networks.config import EncoderConfig
from psp_train.networks.encoders import build_encoder
from psp_train.networks.stylegan2 import Generator, GeneratorConfig


class PSP(nn.Module):
    """Encoder and frozen generator; `encoder.*` and `decoder.*` are the keys of published checkpoints.

    `latent_avg` [L,S] is the average w of the generator, from which the encoder predicts offsets (zeros when the
    checkpoint was trained without it).
    """

    latent_avg: torch.Tensor

    def __init__(
        self, encoder: EncoderConfig = EncoderConfig(), generator: GeneratorConfig = GeneratorConfig()
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder)
        self.decoder = Generator(generator)
        average = torch.zeros(generator.styles, generator.style_dim)
        self.register_buffer("latent_avg", average, persistent=False)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [B,C,256,256], as `to_input` makes it, to W+ latents [B,L,S]."""
        return self.encoder(x) + self.latent_avg

    def forward(
        self, x: torch.Tensor, style: torch.Tensor | None = None, alpha: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x [B,C,256,256] to a picture [B,3,H,W] in about [-1,1] and latents [B,L,S] before mixing.

        `style` [B,L,S] and `alpha` [B,L] in [0,1] mix other latents in, layer by layer: 0 keeps, 1 replaces.
        """
        latents = self.encode(x)
        mixed = latents if style is None or alpha is None else mix(latents, style, alpha)
        return self.decoder(mixed), latents


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
