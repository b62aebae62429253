"""How much alike two pictures are, as `psp-eval` reports it.

Metrics take uint8 pictures [B,256,256,3], as in the released evaluation. torch is imported when it is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from psp_runtime.errors import DeviceError
from psp_runtime.tasks import INPUT_SIZE

if TYPE_CHECKING:
    import torch

Array = np.ndarray


@dataclass(frozen=True)
class Metric:
    """A number for each pair of pictures: `compare` takes outputs and targets, uint8 [B,256,256,3] each, and gives [B].

    `meaning` explains the number in one line of the report.
    """

    name: str
    meaning: str
    compare: Callable[[Array, Array], Array]


def mse(outputs: Array, targets: Array) -> Array:
    """Average the squared differences of pictures in [-1,1]: uint8 [B,...] each -> float64 [B]."""
    difference = (outputs.astype(np.float64) - targets) / 127.5
    return np.square(difference).mean(axis=tuple(range(1, difference.ndim)))


MSE = Metric("mse", "mean squared error of pictures in [-1,1]", mse)


def published_metrics(weights: Path | None, device: str) -> list[Metric]:
    """Load the paper's metrics; without the folder of their networks, MSE alone.

    Raises `WeightsError` for files missing or wrong.
    """
    if weights is None:
        return [MSE]
    from psp_train.losses.published import LPIPS_FILES, find, load_lpips, load_similarity

    find(weights, [*LPIPS_FILES["alex"], "ir_101"])  # one line names all that are missing
    identity = picture_distance(load_similarity(weights), device)
    similarity = "cosine of CurricularFace IR-101 features (1: the same person)"
    return [
        Metric("similarity", similarity, lambda outputs, targets: 1 - identity(outputs, targets)),
        Metric("lpips", "LPIPS v0.1, AlexNet", picture_distance(load_lpips(weights), device)),
        MSE,
    ]


def demo_metrics(device: str) -> list[Metric]:
    """Load the judges of drawn faces, networks of our own: their distances are on scales of their own."""
    from psp_train.drawn.judges import load_judges

    judges, meaning = load_judges(), "by our judge of drawn faces (0: the same)"
    return [
        Metric("identity_distance", meaning, picture_distance(judges.identity, device)),
        Metric("feature_distance", meaning, picture_distance(judges.perceptual, device)),
        MSE,
    ]


def picture_distance(network: "torch.nn.Module", device: str) -> Callable[[Array, Array], Array]:
    """Make a network that compares [B,3,H,W] in [-1,1] a function of uint8 pictures [B,H,W,3].

    It runs on a GPU where PyTorch has one, unless `device` is "cpu": an engine may use a GPU that PyTorch cannot.
    """
    import torch

    from psp_train.networks.psp import to_input

    place = torch_device("cpu" if device == "cpu" else "auto")
    network = network.to(place)

    @torch.inference_mode()
    def run(outputs: Array, targets: Array) -> Array:
        x, y = (to_input(torch.from_numpy(a).to(place), "rgb", 3) for a in (outputs, targets))
        return network(x, y).double().cpu().numpy()

    return run


def resize_to_256(pictures: Array) -> Array:
    """Resize pictures uint8 [B,H,W,3] to [B,256,256,3], bilinearly, as the released evaluation does."""
    if pictures.shape[1:3] == (INPUT_SIZE, INPUT_SIZE):
        return pictures
    size, how = (INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(picture).resize(size, how)) for picture in pictures])


def torch_device(name: str) -> "torch.device":
    """Choose the device for "auto", "cuda" or "cpu", with TF32 off. Raises `DeviceError` for "cuda" without a GPU."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: PyTorch finds no NVIDIA GPU it can use on this machine; give --device cpu")
    torch.backends.cudnn.allow_tf32 = False  # as the engines run: FP32 is FP32
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
