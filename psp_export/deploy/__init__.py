"""Turn the trained networks into a deployable form: same weights, same function, exportable and safe in FP16.

A module here is built from a trained one and replaces what cannot be traced, batched or computed in half precision:

* modulated convolution scales activations, so weights are constants and the batch is dynamic;
* weights and styles are normalised before the convolution, and demodulation, computed in FP32, takes it back;
* batch normalisation is folded into the convolution before it; where it comes first it stays a scale and shift,
  because the zero padding of the convolution behind it must not see the shift;
* heads of one pyramid level share their input: one wide convolution, then grouped ones;
* every operation exists in opset 17, so that one graph serves TensorRT 8.6 to 11 and ONNX Runtime.

Shapes: B batch, L styles, S style dim, I and O channels in and out, H W height and width.
"""

import torch
from torch import nn

from psp_export.deploy.encoder import DeployedEncoder
from psp_export.deploy.generator import DeployedGenerator, DeployedMapping
from psp_export.deploy.refinement import DeployedStep
from psp_runtime.tasks import InputKind
from psp_train.networks import PSP
from psp_train.networks.psp import mix

__all__ = ["DeployedEncoder", "DeployedGenerator", "DeployedMapping", "DeployedPSP", "DeployedStep", "deploy"]


class DeployedPSP(nn.Module):
    """The whole engine: uint8 picture in, uint8 picture out (docs/design.md, "Engine contract")."""

    def __init__(self, psp: PSP, kind: InputKind) -> None:
        super().__init__()
        self.encoder = DeployedEncoder(psp.encoder, psp.latent_avg, kind, psp.input_height)
        self.generator = DeployedGenerator(psp.decoder, psp.rows)

    def forward(
        self, image: torch.Tensor, style: torch.Tensor, alpha: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take image uint8, style [B,L,S], alpha [B,L] -> output uint8 [B,H,W,3], latents [B,L,S] before mixing."""
        latents = self.encoder(image)
        return self.generator(mix(latents, style, alpha)), latents


def deploy(psp: PSP, kind: InputKind) -> DeployedPSP | DeployedStep:
    """Make the deployable form of a model in evaluation mode: the whole of it, or a step of ReStyle."""
    module = DeployedStep(psp, kind) if psp.encoder.config.refines else DeployedPSP(psp, kind)
    return module.eval()
