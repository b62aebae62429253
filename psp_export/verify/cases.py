"""Make the inputs of a verification, with what the reference, the trained model in PyTorch FP32, gives for them."""

from dataclasses import dataclass

import numpy as np
import torch

from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.tasks import INPUT_SIZE, InputKind
from psp_train.drawn.faces import draw, sample
from psp_train.networks import PSP
from psp_train.networks.psp import Step, mix, to_input, to_picture

#: Batch sizes tried; the second one also mixes styles.
BATCHES = (1, 3)
VERIFY_SEED, CALIBRATION_SEED = 11, 12


@dataclass(frozen=True)
class Case:
    """One batch of inputs by name with the reference's uint8 output [B,H,W,3] and its W+ latents [B,L,S].

    Of ReStyle they are those of every step, one step after the other: [N·B,...].
    """

    inputs: dict[str, np.ndarray]
    expected: np.ndarray
    latents: np.ndarray


def pictures(kind: InputKind, classes: int, count: int, seed: int, height: int = INPUT_SIZE) -> np.ndarray:
    """Draw inputs of a kind, uint8 [count,height,256,...]: faces, and one picture of noise as the hard case, the last.

    `classes` is the number of classes in label maps; other kinds ignore it. Of a smaller height it is the middle rows.
    """
    margin = (INPUT_SIZE - height) // 2
    return _squares(kind, classes, count, seed)[:, margin : INPUT_SIZE - margin]


def _squares(kind: InputKind, classes: int, count: int, seed: int) -> np.ndarray:
    drawn = faces(kind, classes, max(count - 1, 1), seed)[: count - 1]  # none where there is the noise alone
    rng = np.random.default_rng(seed)
    if kind == "labels":
        noise = np.kron(rng.integers(0, classes, (32, 32), dtype=np.uint8), np.ones((8, 8), np.uint8))
    else:
        noise = rng.integers(0, 256, (256, 256, 1 if kind == "sketch" else 3), dtype=np.uint8)
    return np.concatenate([drawn, noise[None]])


def faces(kind: InputKind, classes: int, count: int, seed: int) -> np.ndarray:
    """Draw inputs of a kind, uint8 [count,256,256,...]: faces alone; `classes` is as for `pictures`."""
    drawn = [draw(z) for z in sample(count, seed)]
    if kind == "labels":
        return np.stack([face.labels % classes for face in drawn])
    return np.stack([face.sketch[..., None] if kind == "sketch" else face.image for face in drawn])


def reference_cases(psp: PSP, info: EngineInfo, seed: int = VERIFY_SEED) -> list[Case]:
    """Make inputs for each of `BATCHES`, and run the trained model on them in PyTorch FP32.

    Raises `PspError` for a model whose pictures are not finite: as uint8 they would be black, as would the engine's.
    """
    batches = [min(batch, info.max_batch) for batch in BATCHES]
    inputs = [_inputs(psp, info, batch, seed + number, mixed=number > 0) for number, batch in enumerate(batches)]
    return [case(psp, info, one) for one in inputs]


def _inputs(psp: PSP, info: EngineInfo, batch: int, seed: int, mixed: bool) -> dict[str, np.ndarray]:
    """Make one batch: faces with nothing mixed in, or faces and noise, half mixed with random styles."""
    drawn = pictures(info.input, info.classes, batch + 1, seed, info.input_height)
    return with_styles(psp, info, drawn[-batch:] if mixed else drawn[:batch], seed, 0.5 if mixed else 0)


@torch.no_grad()
def with_styles(psp: PSP, info: EngineInfo, images: np.ndarray, seed: int, amount: float) -> dict[str, np.ndarray]:
    """Complete images [B,...] to the inputs of an engine: random styles of a seed, `amount` of them in mixed layers."""
    batch = len(images)
    z = np.random.default_rng(seed).standard_normal((batch * info.styles, info.style_dim))
    style = psp.decoder.map(torch.from_numpy(z).float()).view(batch, info.styles, info.style_dim)
    alpha = np.zeros((batch, info.styles), np.float32)
    alpha[:, list(info.mix_layers)] = amount
    return {"image": images, "style": style.numpy(), "alpha": alpha}


@torch.no_grad()
def case(psp: PSP, info: EngineInfo, inputs: dict[str, np.ndarray]) -> Case:
    """Run the trained model on one batch; a ReStyle one mixes in the last step alone."""
    image, style, alpha = (torch.from_numpy(inputs[name]) for name in ("image", "style", "alpha"))
    x = to_input(image, info.input, psp.encoder.config.input_channels)
    steps = list(psp.refine(x, info.iterations)) if info.iterations else [Step(psp.encode(x), None)]
    latents = torch.cat([step.latents for step in steps])
    mixed = psp.synthesize(mix(steps[-1].latents, style, alpha))
    picture = torch.cat([*(step.picture for step in steps[:-1]), mixed])
    if not picture.isfinite().all():
        raise PspError("the checkpoint's pictures hold NaN or infinity in PyTorch FP32: export an earlier checkpoint")
    return Case(inputs, to_picture(picture).numpy(), latents.numpy())
