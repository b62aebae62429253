"""The engine contract: which tensors each part of an engine takes and gives (docs/design.md), and arrays held to it.

Export writes files by this table, the runtime fills them by it, and servers announce it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines.fields import WHOLE
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import EngineError, PspError
from psp_runtime.tasks import MOST_ITERATIONS, InputKind

Arrays = dict[str, NDArray[Any]]

#: The task whose pictures fit no photo: the head is turned.
_TURNED = "frontalization"
_CHANNELS: dict[InputKind, tuple[int, ...]] = {"rgb": (3,), "sketch": (1,), "labels": ()}


class Tensor(NamedTuple):
    """One input or output: its NumPy type, and its shape without the batch, which is always the first axis."""

    dtype: type[np.generic]
    shape: tuple[int, ...]

    def zeros(self, batch: int) -> NDArray[Any]:
        """Make an array of zeros for a batch."""
        return np.zeros((batch, *self.shape), self.dtype)

    def __str__(self) -> str:
        """For people, such as "uint8 [B,256,256,3]"."""
        return f"{self.dtype.__name__} [{','.join(map(str, ('B', *self.shape)))}]"


def image(info: EngineInfo) -> Tensor:
    """Describe a prepared picture: uint8 [H,W,3] RGB, [H,W,1] sketch or [H,W] class ids, H and W 256 for faces."""
    return Tensor(np.uint8, (*info.input_shape, *_CHANNELS[info.input]))


def latents(info: EngineInfo) -> Tensor:
    """Describe the W+ latents of one picture, float32 [L,S]."""
    return Tensor(np.float32, (info.styles, info.style_dim))


def state(info: EngineInfo) -> dict[str, Tensor]:
    """Describe what a step of ReStyle goes on from: a picture in about [-1,1], its latents, and 1 where none count yet.

    Empty for an engine that does all at once.
    """
    if not info.iterations:
        return {}
    return {"previous": _fed_back(info), "codes": latents(info), "start": Tensor(np.float32, (1,))}


def _counts(info: EngineInfo) -> dict[str, Tensor]:
    """Describe the number of steps, of a whole engine that runs them all: 0 is as many as it says."""
    return {"iterations": Tensor(np.int32, (1,))} if info.iterations else {}


def _fed_back(info: EngineInfo) -> Tensor:
    return Tensor(np.float32, (3, *info.input_shape))


def inputs(info: EngineInfo) -> dict[str, Tensor]:
    """List what the part `info.part` takes, by name and in the order of the file."""
    if info.part in WHOLE:
        whole = {"image": image(info), "style": latents(info), "alpha": Tensor(np.float32, (info.styles,))}
        return whole | (state(info) if info.part == "step" else _counts(info))
    if info.part == "mapping":
        return {"z": Tensor(np.float32, (info.style_dim,))}
    return {"image": image(info)} | state(info) if info.part == "encoder" else {"latents": latents(info)}


def outputs(info: EngineInfo) -> dict[str, Tensor]:
    """List what the part `info.part` gives, by name and in the order of the file; `output` is a picture, uint8 RGB."""
    picture = {"output": Tensor(np.uint8, (*info.output_shape, 3))}
    fed_back = {"picture": _fed_back(info)} if info.iterations else {}
    if info.part == "full":
        return picture | {"latents": latents(info)}
    if info.part == "step":
        return picture | {"latents": latents(info)} | fed_back
    if info.part == "mapping":
        return {"w": Tensor(np.float32, (info.style_dim,))}
    return {"latents": latents(info)} if info.part == "encoder" else picture | fed_back


def require_full(info: EngineInfo, engine: str | Path) -> None:
    """Raise `EngineError` for a part of an engine where pictures go in and pictures come out."""
    if info.part not in WHOLE:
        raise EngineError(f"{engine} is only the {info.part}, expected the full engine: picture to picture")


def require_faces(info: EngineInfo, engine: str | Path, what: str, back: str = "") -> None:
    """Raise `PspError` where `what` cuts faces out of photos and this engine's pictures are no such faces.

    `back` is what puts its pictures into a photo, empty where nothing does.
    """
    if info.input == "labels":
        raise PspError(f"{what} is for photos, {engine} is an engine of {info.task}")
    if info.input_height != info.input_size:
        raise PspError(f"{what} finds faces, {engine} is an engine of {info.task}: leave it out")
    if back and info.task == _TURNED:
        raise PspError(f"{back}: {engine} turns heads to the camera, which fits no photo: leave it out")


def check(name: str, array: Any, tensor: Tensor, batch: int | None = None) -> None:
    """Raise `PspError` unless `array` is this tensor for `batch` pictures, any number of them with None."""
    given: tuple[int, ...] = getattr(array, "shape", ())
    fits = given[1:] == tensor.shape and len(given) > 0 and batch in (None, given[0])
    if not fits or array.dtype != tensor.dtype:
        expected = str(tensor) if batch is None else str(tensor).replace("[B", f"[{batch}", 1)
        raise PspError(
            f"{name}: expected {expected}, given {getattr(array, 'dtype', type(array).__name__)} "
            f"[{','.join(map(str, given))}]"
        )


class Stored(NamedTuple):
    """An input or output as a file has it: the shape with the batch; a size the file leaves open is no int."""

    name: str
    dtype: str
    shape: tuple[Any, ...]

    def fits(self, tensor: Tensor) -> bool:
        """Tell whether it is this tensor, as far as the file says."""
        sizes = [(found, size) for found, size in zip(self.shape[1:], tensor.shape) if isinstance(found, int)]
        ranks = len(self.shape) == 1 + len(tensor.shape)
        return ranks and self.dtype == tensor.dtype.__name__ and all(found == size for found, size in sizes)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{','.join(map(str, self.shape))}]"


def check_graph(engine: str | Path, info: EngineInfo, taken: Iterable[Stored], given: Iterable[Stored]) -> None:
    """Raise `EngineError` where the tensors of an open engine, `taken` and `given`, are not those its metadata say."""
    for kind, found, wanted in (("input", list(taken), inputs(info)), ("output", list(given), outputs(info))):
        by_name = {one.name: one for one in found}
        for name, tensor in wanted.items():
            if name not in by_name or not by_name[name].fits(tensor):
                raise EngineError(
                    f"{engine} contradicts its metadata: {kind} {name} {tensor} expected, "
                    f"found {by_name.get(name, 'none')}: export it again"
                )
        if kind == "input" and len(found) > len(wanted):
            raise EngineError(f"{engine} contradicts its metadata: it takes more than {', '.join(wanted)}")


def full_inputs(
    info: EngineInfo,
    pixels: NDArray[Any],
    style: NDArray[np.float32] | None = None,
    alpha: NDArray[np.float32] | None = None,
    iterations: NDArray[np.int32] | None = None,
) -> Arrays:
    """Make the inputs of a full engine for prepared pictures [B,...], as `Pipeline.translate` takes them.

    `iterations` [B,1] are those of ReStyle, by default as many as the engine says. Raises `PspError` for other types
    and shapes, for class ids the engine does not know, and for steps out of range.
    """
    tensors = inputs(info)
    check("image", pixels, tensors["image"])
    if info.input == "labels" and pixels.size and pixels.max() >= info.classes:
        raise PspError(f"image: class id {pixels.max()}, this engine knows 0..{info.classes - 1}")
    count = len(pixels)
    if alpha is None:
        alpha = tensors["alpha"].zeros(count)
        if style is not None:
            alpha[:, list(info.mix_layers)] = info.mix_alpha
    elif style is None:
        raise PspError("alpha without style: give the W+ latents to mix in as style")
    if style is None:
        style = tensors["style"].zeros(count)
    check("style", style, tensors["style"], count)
    check("alpha", alpha, tensors["alpha"], count)
    given = {"image": pixels, "style": style, "alpha": alpha}
    return given | {"iterations": _checked(iterations, count, info)} if "iterations" in tensors else given


def _checked(iterations: NDArray[np.int32] | None, count: int, info: EngineInfo) -> NDArray[np.int32]:
    if iterations is None:
        return np.full((count, 1), info.iterations, np.int32)
    check("iterations", iterations, _counts(info)["iterations"], count)
    for steps in iterations.ravel():
        if steps:  # 0 is as many as the engine says
            check_iterations(int(steps))
    return iterations


def check_iterations(iterations: int) -> None:
    """Raise `PspError` for a number of steps that is none, or too large."""
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise PspError(f"iterations {iterations}: expected 1 to {MOST_ITERATIONS} steps")


def empty_outputs(info: EngineInfo) -> Arrays:
    """Make what a part gives for no picture at all."""
    return {name: tensor.zeros(0) for name, tensor in outputs(info).items()}


def paired(array: NDArray[Any], count: int, name: str) -> NDArray[Any]:
    """`array` [count,...] as it is, or one [1,...] for all. Raises `PspError` for another number."""
    if len(array) not in (1, count):
        raise PspError(f"{name}: {len(array)} pictures for {count}, expected {count} or one for all")
    return np.broadcast_to(array, (count, *array.shape[1:]))
