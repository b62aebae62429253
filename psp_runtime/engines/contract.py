"""The arrays engines take: are they of the right type and shape, and how many go into one run?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.session import Arrays, Session
from psp_runtime.errors import PspError
from psp_runtime.tasks import InputKind

_CHANNELS: dict[InputKind, tuple[int, ...]] = {"rgb": (3,), "sketch": (1,), "labels": ()}


def image_shape(info: EngineInfo) -> tuple[int, ...]:
    """The shape of one prepared picture: [256,256,3] RGB, [256,256,1] sketch or [256,256] class ids."""
    return (info.input_size, info.input_size, *_CHANNELS[info.input])


def code_shape(info: EngineInfo) -> tuple[int, int]:
    """The shape of the W+ codes of one picture, [L,S]."""
    return (info.styles, info.style_dim)


def check(name: str, array: Any, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    """Raise `PspError` unless `array` has this type and shape; None in it is any number of pictures, B."""
    given = getattr(array, "shape", ())
    fits = len(given) == len(shape) and all(want in (None, size) for want, size in zip(shape, given, strict=True))
    if not fits or array.dtype != dtype:
        wanted = ",".join("B" if size is None else str(size) for size in shape)
        raise PspError(
            f"{name}: expected {dtype.__name__} [{wanted}], given {getattr(array, 'dtype', type(array).__name__)} "
            f"[{','.join(map(str, given))}]"
        )


def engine_inputs(
    info: EngineInfo,
    pixels: NDArray[Any],
    style: NDArray[np.float32] | None = None,
    alpha: NDArray[np.float32] | None = None,
) -> Arrays:
    """The three inputs of a full engine for prepared pictures [B,...], as `Pipeline.translate` takes them.

    Raises `PspError` for other types and shapes, and for class ids the engine does not know.
    """
    check("image", pixels, np.uint8, (None, *image_shape(info)))
    if info.input == "labels" and pixels.size and pixels.max() >= info.classes:
        raise PspError(f"image: class id {pixels.max()}, this engine knows 0..{info.classes - 1}")
    count = len(pixels)
    if alpha is None:
        alpha = np.zeros((count, info.styles), np.float32)
        if style is not None:
            alpha[:, list(info.mix_layers)] = info.mix_alpha
    elif style is None:
        raise PspError("alpha without style: give the W+ codes to mix in as style")
    if style is None:
        style = np.zeros((count, *code_shape(info)), np.float32)
    check("style", style, np.float32, (count, *code_shape(info)))
    check("alpha", alpha, np.float32, (count, info.styles))
    return {"image": pixels, "style": style, "alpha": alpha}


def paired(array: NDArray[Any], count: int, name: str) -> NDArray[Any]:
    """`array` [count,...] as it is, or one [1,...] for all. Raises `PspError` for another number."""
    if len(array) not in (1, count):
        raise PspError(f"{name}: {len(array)} pictures for {count}, expected {count} or one for all")
    return np.broadcast_to(array, (count, *array.shape[1:]))


def run_batches(session: Session, inputs: Mapping[str, NDArray[Any]], batch: int) -> Arrays:
    """All outputs of an engine for any number of pictures, at most `batch` in one run."""
    count, step = len(next(iter(inputs.values()))), min(batch, session.max_batch)
    batches = ({name: array[i : i + step] for name, array in inputs.items()} for i in range(0, count, step))
    parts = list(session.run_many(batches))
    if not parts:
        info = session.info
        output = np.empty((0, info.output_size, info.output_size, 3), np.uint8)
        return {"output": output, "latents": np.empty((0, *code_shape(info)), np.float32)}
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
