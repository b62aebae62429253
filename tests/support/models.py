"""Networks for tests: pSp of published sizes on golden weights, tiny ones of its architecture, loss networks."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from psp_runtime.tasks import TASKS
from psp_train.checkpoints.psp import Checkpoint
from psp_train.losses.published import FILES
from psp_train.networks import PSP, EncoderConfig, GeneratorConfig
from psp_train.seeded import seeded_state_dict, unit_uniform

GOLDEN = Path(__file__).parents[1] / "golden"
KEY_TABLES = json.loads((GOLDEN / "key_tables.json").read_text())
TINY_GENERATOR = GeneratorConfig(size=64, style_dim=32, mapping_layers=2, channels=(16, 24, 16, 12, 8))


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def inputs(name: str, shape: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """A seeded input, as tests/golden/README.md names them."""
    return torch.from_numpy(unit_uniform(name, shape, seed) * np.float32(scale))


def golden_model(table: str, size: int, kind: str = "psp", channels: int = 3, seed: int = 0) -> PSP:
    """A model of published widths on the seeded weights of a key table, strictly loaded."""
    generator = GeneratorConfig(size=size)
    with torch.device("meta"):
        model = PSP(EncoderConfig(kind=kind, input_channels=channels, styles=generator.styles), generator)
    state = {key: torch.from_numpy(value) for key, value in seeded_state_dict(KEY_TABLES[table], seed).items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.latent_avg = torch.zeros(generator.styles, generator.style_dim)
    return model.eval().requires_grad_(False)


def tiny_model(kind: str = "psp", channels: int = 3, seed: int = 0, body: str = "irse", task: str = "inversion") -> PSP:
    """A model of the same architecture that exports in seconds; a ReStyle encoder sees three channels more."""
    channels += 3 if kind.startswith("restyle") else 0
    encoder = EncoderConfig(
        kind, channels, TINY_GENERATOR.styles, TINY_GENERATOR.style_dim, (2, 1, 2, 1), (8, 12, 16, 24), body
    )
    model = PSP(encoder, TINY_GENERATOR, TASKS[task].rows(TINY_GENERATOR.size))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in seeded_state_dict(shapes, seed).items()})
    model.latent_avg.copy_(inputs("average", tuple(model.latent_avg.shape), seed, 0.3))
    return model.eval().requires_grad_(False)


def tiny_checkpoint(task: str = "inversion", kind: str = "psp", body: str = "irse") -> Checkpoint:
    """The tiny model as if it had been loaded from a file."""
    model = tiny_model(kind, TASKS[task].channels, body=body, task=task)
    return Checkpoint(model, TASKS[task], model.encoder.config, TINY_GENERATOR, "ab" * 32, "test weights", "tiny")


def relative_error(actual: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


class WideConvolutions(TorchDispatchMode):
    """Half-precision convolutions of any module computed in FP32 and rounded: most CPUs have none of their own."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        half = args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float16
        if not half or func is not torch.ops.aten.convolution.default:
            return func(*args, **(kwargs or {}))
        return func(*(a.float() if isinstance(a, torch.Tensor) else a for a in args), **(kwargs or {})).half()


# ---- The loss networks -----------------------------------------------------------------------------------------

GOLDEN_LOSSES = golden("losses")
LOSSES_SEED = int(GOLDEN_LOSSES["seed"])

#: Purpose of a published file -> its name.
FILE_NAMES = {purpose: file.names[0] for purpose, file in FILES.items()}


def seeded_network(kind, seed=LOSSES_SEED):
    """A network on seeded weights, in evaluation mode."""
    with torch.device("meta"):
        network = kind()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in seeded_state_dict(shapes, seed).items()}
    network.load_state_dict(state, assign=True)
    return network.eval()


def seeded_heads(lpips):
    """The heads' state on seeded weights, positive as the published ones."""
    shapes = {key: tuple(value.shape) for key, value in lpips.heads.state_dict().items()}
    return {key: torch.from_numpy(np.abs(value)) for key, value in seeded_state_dict(shapes, LOSSES_SEED).items()}


def resnet50_table():
    """torchvision's ResNet-50 by its definition, without `fc`."""

    def conv(name, norm, inputs, outputs, size):
        table[f"{name}.weight"] = [outputs, inputs, size, size]
        table.update({f"{norm}.{part}": [outputs] for part in ("weight", "bias", "running_mean", "running_var")})
        table[f"{norm}.num_batches_tracked"] = []

    table = {}
    conv("conv1", "bn1", 3, 64, 7)
    channels = 64
    for layer, (units, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 1):
        for unit in range(units):
            name = f"layer{layer}.{unit}"
            conv(f"{name}.conv1", f"{name}.bn1", channels, width, 1)
            conv(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            conv(f"{name}.conv3", f"{name}.bn3", width, 4 * width, 1)
            if unit == 0:
                conv(f"{name}.downsample.0", f"{name}.downsample.1", channels, 4 * width, 1)
            channels = 4 * width
    return table


def thin_state(kind):
    """A state of published shapes that takes no space: each tensor is one number, another one for each key."""
    with torch.device("meta"):
        shapes = {key: (value.shape, value.dtype) for key, value in kind().state_dict().items()}
    return {key: thin(shape, number, dtype) for number, (key, (shape, dtype)) in enumerate(shapes.items())}


def thin(shape, number=0, dtype=torch.float32):
    return torch.tensor(number + 0.5).to(dtype).expand(shape)


def same(state, expected):
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
