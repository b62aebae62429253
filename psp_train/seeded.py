"""Weights and inputs that anyone can rebuild bit for bit, for tests and benchmarks.

A published-size checkpoint is over a gigabyte and cannot be shipped, but its keys and shapes can. Every tensor is
drawn from PCG64 seeded by its own key; only the raw 64-bit stream is used, which NumPy guarantees across versions.
The golden outputs in tests/golden were computed by the reference implementation on exactly these weights.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray
#: Numbers drawn at a time: they stay in a core's cache.
BLOCK = 1 << 15


def unit_uniform(name: str, shape: Sequence[int], seed: int = 0) -> Array:
    """Draw float32 of `shape`, uniform with mean 0 and variance 1, a function of (name, seed) alone."""
    source = np.random.PCG64([seed, zlib.crc32(name.encode())])
    x = np.empty(math.prod(shape), np.float32)
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        block[:] = source.random_raw(block.size) >> np.uint64(40)
        block *= np.float32(2.0**-24)
        block -= np.float32(0.5)
        block *= np.float32(math.sqrt(12.0))
    return x.reshape(shape)


def seeded_state_dict(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, Array]:
    """Make all tensors of a pSp state dict (`encoder.*`, `decoder.*`), scaled so that activations stay O(1)."""
    return {key: seeded_tensor(key, tuple(shape), seed) for key, shape in shapes.items()}


def seeded_tensor(key: str, shape: Sequence[int], seed: int = 0) -> Array:
    """Make one tensor of a pSp state dict."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith(".kernel"):  # a constant of the architecture: [1,3,3,1] with the gain of upsampling by 2
        taps = np.array([1, 3, 3, 1], np.float32)
        return np.outer(taps, taps) / np.float32(16)
    x = unit_uniform(key, shape, seed)
    return _decoder_tensor(key, x) if key.startswith("decoder.") else _encoder_tensor(key, x)


def _decoder_tensor(key: str, x: Array) -> Array:
    if key.endswith("modulation.bias"):
        return 1 + 0.1 * x
    if ".noises." in key or key.endswith("input.input"):
        return x
    if key.startswith("decoder.style."):  # undoes the mapping network's learning rate multiplier of 0.01
        return (100 if key.endswith("weight") else 10) * x
    if "to_rgb" in key and key.endswith("conv.weight"):
        return 0.3 * x
    return 0.1 * x if key.endswith(("bias", "noise.weight")) else x


def _encoder_tensor(key: str, x: Array) -> Array:
    if key.endswith("running_mean"):
        return 0.1 * x
    if key.endswith("running_var"):
        return np.exp(0.2 * x)
    if x.ndim == 4:  # most of a network: in place
        x *= np.float32(math.sqrt(2.0 / math.prod(x.shape[1:])))
        return x
    if x.ndim == 2 and x.shape[1] == 25088:  # the plain linear layer of the naive W+ encoder
        return x * np.float32(1 / math.sqrt(x.shape[1]))
    if x.ndim == 2:  # equalized linear layers scale at run time
        return 0.2 * x
    if re.search(r"body\.\d+\.(res_layer\.4|bn2)\.weight$", key):  # small gains keep the residual stream O(1)
        return 0.3 + 0.03 * x
    if key.endswith("bias"):
        return 0.1 * x
    prelu = key.endswith(("input_layer.2.weight", "res_layer.2.weight", "encoder.relu.weight"))
    return 0.25 + 0.05 * x if prelu else 1 + 0.1 * x
