"""Inputs of a verification, with what PyTorch in FP32 makes of them."""

from dataclasses import dataclass

import numpy as np
import torch

from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.tasks import InputKind
from psp_train.drawn.faces import draw, sample
from psp_train.networks import PSP
from psp_train.networks.psp import to_input, to_picture

#: Batch sizes tried; the second one also mixes styles.
BATCHES = (1, 3)
VERIFY_SEED, CALIBRATION_SEED = 11, 12


@dataclass(frozen=True)
class Case:
    """One batch of inputs with the reference's uint8 output [B,H,W,3] and its codes [B,L,S]."""

    inputs: dict[str, np.ndarray]
    expected: np.ndarray
    latents: np.ndarray


def pictures(kind: InputKind, classes: int, count: int, seed: int) -> np.ndarray:
    """Inputs of a kind, uint8 [count,256,256,...]: drawn faces, and one picture of noise as the hard case."""
    drawn = [draw(z) for z in sample(count - 1, seed)]
    rng = np.random.default_rng(seed)
    if kind == "labels":
        noise = np.kron(rng.integers(0, classes, (32, 32), dtype=np.uint8), np.ones((8, 8), np.uint8))
        return np.stack([face.labels % classes for face in drawn] + [noise])
    if kind == "sketch":
        return np.stack([f.sketch for f in drawn] + [rng.integers(0, 256, (256, 256), dtype=np.uint8)])[..., None]
    return np.stack([f.image for f in drawn] + [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)])


@torch.no_grad()
def reference_cases(psp: PSP, info: EngineInfo, seed: int = VERIFY_SEED) -> list[Case]:
    """Inputs, and what the trained model makes of them in PyTorch FP32.

    Raises `PspError` for a model whose pictures are not finite: as uint8 they would be black, as would the engine's.
    """
    cases = []
    for number, batch in enumerate(min(b, info.max_batch) for b in BATCHES):
        drawn_and_noise = pictures(info.input, info.classes, batch + 1, seed + number)
        image = drawn_and_noise[:batch] if number == 0 else drawn_and_noise[-batch:]
        z = np.random.default_rng(seed + number).standard_normal((batch * info.styles, info.style_dim))
        style = psp.decoder.map(torch.from_numpy(z).float()).view(batch, info.styles, info.style_dim)
        alpha = torch.zeros(batch, info.styles)
        if number > 0:
            alpha[:, list(info.mix_layers)] = 0.5
        x = to_input(torch.from_numpy(image), info.input, psp.encoder.config.input_channels)
        picture, latents = psp(x, style, alpha)
        if not picture.isfinite().all():
            raise PspError("the checkpoint gives pictures of NaN or infinity in PyTorch FP32: export an earlier one")
        inputs = {"image": image, "style": style.numpy(), "alpha": alpha.numpy()}
        cases.append(Case(inputs, to_picture(picture).numpy(), latents.numpy()))
    return cases
