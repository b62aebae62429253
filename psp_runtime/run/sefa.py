"""`psp direction --sefa`: directions computed from the weights of an engine's generator, without examples."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psp_runtime.directions import semantics
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.weights import style_weights
from psp_runtime.errors import PspError
from psp_runtime.run.values import parse_layers


def sefa_directions(
    engine: Path, info: EngineInfo, layers: str | None, count: int, shifted: bool
) -> NDArray[np.float32]:
    """Compute the strongest directions of some layers (default: all), float32 [count,L,S]: 0 in the other rows.

    The weights of a layer and the row of W+ that it reads have one number. The published code moves the row before each
    layer: `shifted` does so too. Raises `PspError` for layers that no convolution reads, and for too large a count.
    """
    if not 1 <= count <= info.style_dim:
        raise PspError(f"--count {count}: expected 1 to {info.style_dim}, the directions there are")
    weights = style_weights(engine, info)
    chosen = sorted(weights) if layers is None else parse_layers(layers, info.styles)
    for layer in chosen:
        if layer not in weights:
            raise PspError(f"--layers {layers}: no convolution reads row {layer}, expected 0 to {max(weights)}")
    if shifted and 0 in chosen:
        raise PspError("--rows-before: there is no row before layer 0, give --layers such as 1-")
    rows = [layer - shifted for layer in chosen]
    directions = np.zeros((count, info.styles, info.style_dim), np.float32)
    directions[:, rows] = semantics([weights[layer] for layer in chosen], count)[:, None]
    return directions
