"""Arithmetic of W+ latents: mixing, random styles, directions.

Shapes: B pictures, N styles or steps, L styles of an engine, S style dim. Latents are float32.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError

Latents = NDArray[np.float32]

#: Random styles whose mean is the average code that truncation pulls towards, as StyleGAN2's own `mean_latent` does.
AVERAGED, AVERAGE_SEED = 4096, 0


def blend(latents: Latents, style: Latents, alpha: Latents) -> Latents:
    """(1 - alpha) * latents + alpha * style, as engines mix: exact at 0 and 1. Shapes must broadcast."""
    return np.asarray((1 - alpha) * latents + alpha * style, np.float32)


def random_z(count: int, size: int, seed: int) -> Latents:
    """Inputs of the mapping network, standard normal [count,size]: a longer draw begins with the shorter one.

    NumPy promises the numbers of RandomState for ever, those of its newer generators only for one release.
    """
    check_seed(seed)
    return np.random.RandomState(seed).standard_normal((count, size)).astype(np.float32)


def check_seed(seed: int) -> None:
    """Raise `PspError` for a seed NumPy does not take."""
    if not 0 <= seed < 2**32:
        raise PspError(f"seed {seed}: expected 0 to {2**32 - 1}")


def check_psi(psi: float) -> None:
    """Raise `PspError` for a truncation that is no number."""
    if not np.isfinite(psi):
        raise PspError(f"psi {psi}: expected a number, 0 (the average face) to 1 (no truncation)")


def layer_alpha(info: EngineInfo, layers: Sequence[int] | None, alpha: float | None) -> Latents:
    """Say how much of a style goes into each layer, [L]; `None` is what the engine's task does.

    Raises `PspError` for layers the engine does not have, and for alpha outside 0..1.
    """
    amount = info.mix_alpha if alpha is None else alpha
    if not 0 <= amount <= 1:
        raise PspError(f"alpha {amount:g}: expected 0 (keep the input's layers) to 1 (replace them)")
    if layers is None and not info.mix_layers:
        raise PspError(f"this engine has {info.styles} layers, and none of those its task mixes: say which layers")
    return _on_layers(info, info.mix_layers if layers is None else layers, amount)


def edit_alpha(info: EngineInfo, layers: Sequence[int] | None, alpha: float | None) -> Latents:
    """Say how much of a direction goes into each layer, [L]: all of it into all layers unless told otherwise.

    Outside 0..1 is allowed for a direction, which is scaled anyway; a warning says so.
    """
    amount = 1.0 if alpha is None else alpha
    if not np.isfinite(amount):
        raise PspError(f"alpha {amount}: expected a number")
    if not 0 <= amount <= 1:
        warnings.warn(f"alpha {amount:g} is outside 0..1: the edit goes beyond its strength", stacklevel=3)
    return _on_layers(info, range(info.styles) if layers is None else layers, amount)


def _on_layers(info: EngineInfo, layers: Sequence[int], amount: float) -> Latents:
    wrong = [layer for layer in layers if not 0 <= layer < info.styles]
    if wrong:
        raise PspError(f"layer {wrong[0]}: this engine has layers 0..{info.styles - 1}")
    alpha = np.zeros(info.styles, np.float32)
    alpha[list(layers)] = amount
    return alpha


def as_strengths(strengths: Sequence[float], name: str = "strengths") -> Latents:
    """Read how far to go along a direction, float32 [N]. Raises `PspError` for what FP32 does not hold."""
    with np.errstate(over="ignore"):
        amounts = np.asarray(strengths, np.float32)
    if not np.isfinite(amounts).all():
        raise PspError(f"{name} {','.join(f'{one:g}' for one in strengths)}: expected numbers")
    return amounts


class Coordinate(NamedTuple):
    """A principal component of W, along which a code is brought to a coordinate: an edit of GANSpace (section 3.2).

    `way` [S] of length 1, through the `mean` [S]; `deviation` is the standard deviation along it, the unit of the
    coordinate. Where a code is, is measured on its row 0 alone, whichever rows are moved, as e4e does.
    """

    mean: Latents
    way: Latents
    deviation: float

    def distances(self, latents: Latents, amounts: Latents) -> Latents:
        """Measure how far along `way` each of latents [B,L,S] is from each of N coordinates: [B,N]."""
        now = (latents[:, 0] - self.mean) @ self.way / self.deviation
        return np.asarray((amounts - now[:, None]) * self.deviation, np.float32)


#: What a code is moved along: the same step [L,S] for all, or to a coordinate.
Direction = Latents | Coordinate


def moved(latents: Latents, direction: Direction, amounts: Latents, alpha: Latents) -> Latents:
    """Move latents [B,L,S] along a direction by each of N amounts, with `alpha` [L] of it in each layer: [B,N,L,S]."""
    if isinstance(direction, Coordinate):
        distances = direction.distances(latents, amounts)[..., None, None]
        return np.asarray(latents[:, None] + distances * (alpha[:, None] * direction.way), np.float32)
    return np.asarray(latents[:, None] + amounts[:, None, None] * (alpha[:, None] * direction), np.float32)


def as_direction(direction: NDArray[Any], info: EngineInfo, name: str = "direction") -> Latents:
    """Read a direction [S] (the same in all layers) or [L,S] as float32 [L,S]; other axes may have the length 1.

    Raises `PspError` for another size.
    """
    wanted = ((info.style_dim,), (info.styles, info.style_dim))
    squeezed = direction.squeeze()
    if squeezed.shape not in wanted or not _is_real(direction):
        raise PspError(
            f"{name}: expected numbers [{info.style_dim}] or [{info.styles},{info.style_dim}], "
            f"given {direction.dtype} {_shape(direction)}"
        )
    return np.broadcast_to(_finite(squeezed, name), wanted[1])


def as_latents(latents: NDArray[Any], info: EngineInfo, name: str = "latents") -> Latents:
    """Read W+ latents [B,L,S], or [L,S] of one picture, as float32 [B,L,S]; other axes may have the length 1.

    Raises `PspError` for another shape.
    """
    *sides, size = latents.shape or (0,)
    squeezed = latents.reshape(*(side for side in sides if side != 1), size)
    one = squeezed[None] if squeezed.ndim == 2 else squeezed
    if one.shape[1:] != (info.styles, info.style_dim) or one.ndim != 3 or not _is_real(latents):
        raise PspError(
            f"{name}: expected latents [B,{info.styles},{info.style_dim}] or [{info.styles},{info.style_dim}] "
            f"of this engine, given {latents.dtype} {_shape(latents)}"
        )
    return _finite(one, name)


def _is_real(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "fiu"


def _finite(array: NDArray[Any], name: str) -> Latents:
    with np.errstate(over="ignore"):  # what FP32 cannot hold is not finite, and said so
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise PspError(f"{name}: {int((~np.isfinite(values)).sum())} of its {values.size} values are not finite")
    return values


def _shape(array: NDArray[Any]) -> str:
    return f"[{','.join(map(str, array.shape))}]"
