"""Make the deployable step of ReStyle: a picture and the state of the refinement in, picture and new state out.

The loop around it is the runtime's: the number of steps is a choice of the run, and an engine holds its weights once.

    y = start avg_picture + (1 - start) previous        w = start latent_avg + (1 - start) codes
    w = w + E(image, y),    output = G(mix(w, style, alpha)),    picture = pool(output before clipping)

`start` is 1 in the first step, whose state is the average's, constants of the engine, and 0 after it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.encoder import DeployedEncoder
from psp_export.deploy.generator import DeployedGenerator
from psp_export.deploy.layers import frozen
from psp_runtime.tasks import INPUT_SIZE, InputKind
from psp_train.networks import PSP
from psp_train.networks.psp import fed_back, mix


class Feedback(nn.Module):
    """Bring a picture [B,3,H,W] to the encoder's size [B,3,h,w], in FP32: means of pixels, or each pixel repeated.

    Repeating is a product with constant matrices from both sides, which is exact.
    """

    def __init__(self, size: int, height: int) -> None:
        super().__init__()
        self.shrinks = size > INPUT_SIZE
        self.factor = max(size, INPUT_SIZE) // min(size, INPUT_SIZE)
        if not self.shrinks:
            self.rows = frozen(torch.eye(height // self.factor).repeat_interleave(self.factor, dim=0))
            self.columns = frozen(torch.eye(size).repeat_interleave(self.factor, dim=1))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        if self.factor == 1:
            return picture
        if self.shrinks:
            return F.avg_pool2d(picture, self.factor)
        return self.rows @ (picture @ self.columns)


class RefiningEncoder(DeployedEncoder):
    """The encoder of a step: picture and state -> corrected W+ latents [B,L,S] FP32."""

    def __init__(self, psp: PSP, kind: InputKind) -> None:
        super().__init__(psp.encoder, psp.latent_avg, kind, psp.input_height)
        x = torch.zeros(1, 3, psp.input_height, INPUT_SIZE)
        with torch.no_grad():
            self.average = frozen(fed_back(psp.average(x).picture, x)[0])

    def forward(
        self, image: torch.Tensor, previous: torch.Tensor, codes: torch.Tensor, start: torch.Tensor
    ) -> torch.Tensor:
        first, later = start[:, :, None], 1 - start[:, :, None]
        picture = first[..., None] * self.average + later[..., None] * previous
        before = first * self.latent_avg + later * codes
        return before + self.offsets(torch.cat([self.prepare(image), picture], dim=1))

    def calibration_inputs(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give inputs [2B,...] for pictures uint8 [B,...]: first steps, and later ones that have come near them."""
        found, count = self.prepare(image), len(image)
        codes = self.latent_avg.expand(2 * count, *self.latent_avg.shape)
        start = torch.ones(2 * count, 1)
        start[count:] = 0
        return torch.cat([image, image]), torch.cat([found, found]), codes, start


class DeployedStep(nn.Module):
    """A whole step: uint8 picture and state in, uint8 picture and state out (docs/design.md, "Steps")."""

    def __init__(self, psp: PSP, kind: InputKind) -> None:
        super().__init__()
        self.encoder = RefiningEncoder(psp, kind)
        feedback = Feedback(psp.decoder.config.size, psp.input_height)
        self.generator = DeployedGenerator(psp.decoder, psp.rows, feedback)

    def forward(
        self,
        image: torch.Tensor,
        style: torch.Tensor,
        alpha: torch.Tensor,
        previous: torch.Tensor,
        codes: torch.Tensor,
        start: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give output uint8 [B,H,W,3], latents [B,L,S] before mixing, and the picture [B,3,h,w] for the next step."""
        latents = self.encoder(image, previous, codes, start)
        output, picture = self.generator(mix(latents, style, alpha))
        return output, latents, picture
