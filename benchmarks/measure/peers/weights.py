"""Seeded tensors of the networks, and the networks on them. See `psp_train/seeded.py`.

The time does not depend on the values, but scales are chosen so that activations stay O(1) through every layer. The
outputs in tests/golden/peers were computed by the published code on exactly these tensors.
"""

import math

import numpy as np
import torch
from torch import nn

from measure.peers.inversion import FUSED_FROM, alae, idinvert
from measure.peers.layers import State
from measure.peers.rotate_and_render import RotateSPADE
from measure.peers.shapes import PeerKind, PeerSize, Shape, shapes
from psp_train.seeded import unit_uniform

#: Keeps the variance through a convolution and a leaky ReLU.
HE = math.sqrt(2)


def seeded_peer(kind: PeerKind, size: PeerSize) -> nn.Module:
    """A network on seeded tensors, ready to run."""
    return build(kind, seeded_state(kind, shapes(kind, size)))


def build(kind: PeerKind, state: State) -> nn.Module:
    """A network of given tensors, ready to run."""
    module = RotateSPADE(state) if kind == "rotatespade" else {"alae": alae, "idinvert": idinvert}[kind](state)
    return module.eval().requires_grad_(False)


def seeded_state(kind: PeerKind, table: dict[str, Shape], seed: int = 0) -> State:
    """Tensors for keys and shapes, a function of them and the seed alone."""
    return {key: torch.from_numpy(seeded_tensor(kind, key, shape, seed)) for key, shape in table.items()}


def seeded_tensor(kind: PeerKind, key: str, shape: Shape, seed: int = 0) -> np.ndarray:
    """One tensor, float32."""
    if key.startswith("noise."):
        return unit_uniform(key, shape, seed)
    x = unit_uniform(f"{kind}.{key}", shape, seed)
    if key.endswith("running_mean"):
        return 0.1 * x
    return np.exp(0.2 * x) if key.endswith("running_var") else _SCALES[kind](key, x)


def _alae(key: str, x: np.ndarray) -> np.ndarray:
    """Scale a tensor of ALAE."""
    if key == "decoder.const":
        return x
    if "noise_weight" in key or ".bias" in key:
        return 0.1 * x
    fan_in = math.prod(x.shape[1:])
    if ".style_" in key:
        return x * np.float32((0.3 if key.startswith("decoder.") else 0.1) / math.sqrt(fan_in))
    if ".to_rgb." in key:
        return x * np.float32(0.5 / math.sqrt(fan_in))
    return x * np.float32(HE / math.sqrt(9 * x.shape[0] if _is_transposed(key) else fan_in))


def _is_transposed(key: str) -> bool:
    """Whether a weight of ALAE is stored [I,O,3,3]."""
    part, _, block, layer, *_ = key.split(".") if "_block." in key else (key, "", 0, "")
    return part == "decoder" and layer == "conv_1" and 4 << int(block) >= FUSED_FROM


def _idinvert(key: str, x: np.ndarray) -> np.ndarray:
    """Scale a tensor of IDInvert; what the network scales itself at run time is left to it."""
    if key.endswith(("bias", "apply_noise.weight")):
        return 0.1 * x
    if key.startswith("generator."):
        return x * np.float32(0.3 if "style_mod" in key else 0.5 if ".output" in key else 1)
    if ".bn" in key:
        return (1 if ".bn.bn." in key else 0.7) + 0.1 * x
    return x * np.float32(0.5 if key.endswith("fc.weight") else HE / math.sqrt(math.prod(x.shape[1:])))


def _rotatespade(key: str, x: np.ndarray) -> np.ndarray:
    """Scale a tensor of Rotate-and-Render's generator."""
    if x.ndim == 1:
        return 1 + 0.1 * x if key.endswith("weight") else 0.1 * x
    fan_in = math.prod(x.shape[1:])
    if ".mlp_gamma." in key or ".mlp_beta." in key:
        return x * np.float32(0.3 / math.sqrt(fan_in))
    if ".upsample_layers." in key:  # stored [I,O,3,3]; a quarter of the taps meets a value
        return x * np.float32(2 * HE / math.sqrt(9 * x.shape[0]))
    gain = 0.4 if ".conv_1." in key else 0.1 if ".final_layer." in key else 1  # the sums and the tanh stay in range
    return x * np.float32(gain * HE / math.sqrt(fan_in))


_SCALES = {"alae": _alae, "idinvert": _idinvert, "rotatespade": _rotatespade}
