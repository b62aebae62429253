"""The forward pass of a training: pictures -> encoder -> frozen generator -> pictures of the size that is compared."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from psp_runtime.tasks import INPUT_SIZE
from psp_train.data.samples import Batch
from psp_train.networks.psp import PSP, fed_back, mix, to_input
from psp_train.networks.stylegan2 import first_layers
from psp_train.training.build import Setup
from psp_train.training.objective import Rendering, inner_face_mask


class Renderer(nn.Module):
    """One forward pass, from a batch to what the loss compares; of ReStyle several, one after the other."""

    def __init__(self, setup: Setup, encoder: nn.Module) -> None:
        super().__init__()
        recipe, decoder = setup.recipe, setup.model.decoder
        self.recipe, self.task = recipe, recipe.task
        self.channels = setup.model.encoder.config.input_channels
        self.encoder = encoder
        self.decoder = first_layers(decoder, recipe.render_size) if recipe.render_size else decoder
        # Losses compare pictures of at most the input's size: larger outputs are averaged down (released code).
        self.styles, size = self.decoder.config.styles, min(self.decoder.config.size, INPUT_SIZE)
        self.shape = (size * self.task.input_height // INPUT_SIZE, size)
        self.rows = slice(*(self.task.rows(self.decoder.config.size) or (None,)))
        self.register_buffer("latent_avg", setup.model.latent_avg.clone(), persistent=False)
        self.whole = (setup.model,)  # in a tuple: its parts are here already
        if setup.model.encoder.config.refines:
            self.register_buffer("average", average_picture(setup.model), persistent=False)

    def forward(self, batch: Batch, alpha: torch.Tensor | None = None) -> Rendering:
        """Encode, synthesize, and bring the target to the output's size: the last of the `renderings`."""
        *_, last = self.renderings(batch, alpha)
        return last

    def renderings(self, batch: Batch, alpha: torch.Tensor | None = None) -> Iterator[Rendering]:
        """Give what the loss compares: once, or after every step of ReStyle, whose gradients end where it began.

        `alpha` [B,L]: also render with each style replaced, as far, by that of the sample before.
        """
        x = to_input(batch.source, self.task.input, self.channels).contiguous(memory_format=torch.channels_last)
        target = self.pooled(to_input(batch.target, "rgb", 3))
        mask, (model,) = self.mask(batch, target), self.whole
        latents, picture = self.latent_avg.expand(len(x), *self.latent_avg.shape), None
        for _ in range(self.recipe.iterations):
            if model.encoder.config.refines:
                picture = self.average.expand_as(x) if picture is None else self.fed_back(picture, latents, x)
            seen = x if picture is None else torch.cat([x, picture], dim=1)
            latents = latents + self.encoder(seen).float()
            mixed = None if alpha is None else self.synthesize(mix(latents, latents.roll(1, dims=0), alpha))
            picture = self.synthesize(latents)
            yield Rendering(picture, target, latents, mask, mixed, model.encoder.deltas)
            latents = latents.detach()

    @torch.no_grad()
    def fed_back(self, picture: torch.Tensor, latents: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Bring the picture of the step before to the size of x: anew, where losses look at a smaller one."""
        (model,) = self.whole
        return fed_back(model.synthesize(latents).float() if self.recipe.render_size else picture.detach(), x)

    def synthesize(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents [B,L,S] to pictures [B,3,H,W] at the size that losses compare."""
        return self.pooled(self.decoder(latents[:, : self.styles]).float()[:, :, self.rows])

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Average pictures [B,C,H,W] over areas, to the size that losses compare."""
        return x if x.shape[2:] == self.shape else F.adaptive_avg_pool2d(x, self.shape)

    def mask(self, batch: Batch, target: torch.Tensor) -> torch.Tensor | None:
        """Return where the losses look, [B,1,H,W] with 1 on the face; None: everywhere."""
        if self.recipe.mask == "labels":
            return self.pooled(batch.mask[:, None].float())
        return inner_face_mask(target) if self.recipe.mask == "crop" else None


@torch.no_grad()
def average_picture(model: PSP) -> torch.Tensor:
    """Make the picture of the average w [1,3,h,256], at the size of the encoder's pictures."""
    x = model.latent_avg.new_zeros(1, 3, model.input_height, INPUT_SIZE)
    return fed_back(model.average(x).picture.float(), x)
