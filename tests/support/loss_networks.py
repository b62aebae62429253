"""The loss networks on seeded weights."""

import numpy as np
import torch
from models import golden

from psp_train.losses.published import FILES
from psp_train.seeded import seeded_state_dict

GOLDEN = golden("losses")
SEED = int(GOLDEN["seed"])

NAMES = {purpose: file.names[0] for purpose, file in FILES.items()}


def seeded_network(kind, seed=SEED):
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
    return {key: torch.from_numpy(np.abs(value)) for key, value in seeded_state_dict(shapes, SEED).items()}


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
