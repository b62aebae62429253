"""The forward pass of a training: pictures -> encoder -> frozen generator -> pictures of the size that is compared."""

import torch
from torch import nn

from psp_runtime.tasks import INPUT_SIZE
from psp_train.data.samples import Batch
from psp_train.losses.distances import pool
from psp_train.networks.psp import mix, to_input
from psp_train.networks.stylegan2 import first_layers
from psp_train.training.build import Setup
from psp_train.training.objective import Rendering, inner_face_mask


class Renderer(nn.Module):
    """One forward pass, from a batch to what the loss compares."""

    def __init__(self, setup: Setup, encoder: nn.Module) -> None:
        super().__init__()
        recipe, decoder = setup.recipe, setup.model.decoder
        self.recipe, self.task = recipe, recipe.task
        self.channels = setup.model.encoder.config.input_channels
        self.encoder = encoder
        self.decoder = first_layers(decoder, recipe.render_size) if recipe.render_size else decoder
        # Losses compare pictures of at most the input's size: larger outputs are averaged down (released code).
        self.styles, self.size = self.decoder.config.styles, min(self.decoder.config.size, INPUT_SIZE)
        self.register_buffer("latent_avg", setup.model.latent_avg.clone(), persistent=False)

    def forward(self, batch: Batch, alpha: torch.Tensor | None = None) -> Rendering:
        """Encode, synthesize, and bring the target to the output's size.

        `alpha` [B,L]: also render with each style replaced, as far, by that of the sample before.
        """
        x = to_input(batch.source, self.task.input, self.channels).contiguous(memory_format=torch.channels_last)
        latents = self.encoder(x).float() + self.latent_avg
        target = pool(to_input(batch.target, "rgb", 3), self.size)
        mixed = None if alpha is None else self.synthesize(mix(latents, latents.roll(1, dims=0), alpha))
        return Rendering(self.synthesize(latents), target, latents, self.mask(batch, target), mixed)

    def synthesize(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents [B,L,S] to pictures [B,3,H,W] at the size that losses compare."""
        return pool(self.decoder(latents[:, : self.styles]).float(), self.size)

    def mask(self, batch: Batch, target: torch.Tensor) -> torch.Tensor | None:
        """Return where the losses look, [B,1,H,W] with 1 on the face; None: everywhere."""
        if self.recipe.mask == "labels":
            return pool(batch.mask[:, None].float(), self.size)
        return inner_face_mask(target) if self.recipe.mask == "crop" else None
