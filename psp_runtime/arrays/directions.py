"""Directions of others: InterfaceGAN's and SeFa's arrays, files of several, GANSpace's components."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.arrays.files import Arrays, read_arrays
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.latents import Coordinate, Direction, as_direction

#: What a file of GANSpace holds: the mean [1,S], K components [K,1,S] of length 1, the deviation along each [K].
GANSPACE = {"mean", "comp", "std"}


def read_direction(path: Path, info: EngineInfo, component: str | None = None) -> Direction:
    """Read a direction, a step [L,S] or one of the components of GANSpace, for an engine.

    `component` chooses one of a file of several, by its number or its name. Axes of length 1 do not count. Raises
    `PspError` for a file that is none, of another size, or of several of which none is chosen.
    """
    found, name = read_arrays(path), f"--direction {path}"
    if isinstance(found, dict) and set(found) >= GANSPACE:
        return _coordinate(found, info, component, name)
    several = _several(found, info, component is not None)
    if several:
        return as_direction(several[_chosen(several, component, name)], info, name)
    if component is not None:
        raise PspError(f"--component {component}: {path} holds one direction, leave it out")
    return as_direction(np.asarray(found), info, name)


def _several(found: Arrays, info: EngineInfo, chosen: bool) -> dict[str, NDArray[Any]]:
    """List the directions of a file by what they are called; none where it holds but one.

    As many rows as an engine has styles are one direction, unless one of them is to be `chosen`.
    """
    if isinstance(found, dict):
        return found
    array = found.squeeze()
    rows = array.ndim == 2 and array.shape[1] == info.style_dim and (chosen or len(array) != info.styles)
    stacks = array.ndim == 3 and array.shape[1:] == (info.styles, info.style_dim)
    return {str(number): one for number, one in enumerate(array)} if rows or stacks else {}


def _chosen(several: dict[str, Any], component: str | None, name: str) -> str:
    if component in several:
        return component
    names = list(several)
    known = f"0 to {len(names) - 1}" if names[-1] == str(len(names) - 1) else ", ".join(names[:10])
    given = "" if component is None else f"--component {component}: "
    raise PspError(f"{given}{name} holds several directions: choose one with --component ({known})")


def _coordinate(found: dict[str, NDArray[Any]], info: EngineInfo, component: str | None, name: str) -> Coordinate:
    mean, ways, deviations = (found[part].astype(np.float32).squeeze() for part in ("mean", "comp", "std"))
    count = ways.shape[0] if ways.ndim == 2 else -1
    if mean.shape != (info.style_dim,) or ways.shape != (count, info.style_dim) or deviations.shape != (count,):
        shapes = ", ".join(f"{part} {list(found[part].shape)}" for part in ("mean", "comp", "std"))
        raise PspError(f"{name}: expected components of GANSpace for {info.style_dim} numbers, given {shapes}")
    number = int(_chosen({str(one): one for one in range(count)}, component, name))
    deviation = float(deviations[number])
    if not (np.isfinite(mean).all() and np.isfinite(ways[number]).all() and 0 < deviation < np.inf):
        raise PspError(f"{name}: its component {number} is not finite, or has the deviation {deviation}")
    return Coordinate(mean, ways[number], deviation)
