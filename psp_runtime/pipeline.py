"""Pictures -> session -> pictures.

Shapes: B batch, L styles, S style dim, H W size of the output.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from types import TracebackType
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime import images
from psp_runtime.errors import EngineError, PictureError, PspError
from psp_runtime.images import Picture
from psp_runtime.metadata import EngineInfo
from psp_runtime.sessions import Session
from psp_runtime.tasks import InputKind

#: Threads that decode and encode pictures while the engine runs.
THREADS = min(4, os.cpu_count() or 1)

_CHANNELS: dict[InputKind, tuple[int, ...]] = {"rgb": (3,), "sketch": (1,), "labels": ()}

Item = TypeVar("Item")
Result = TypeVar("Result")


class Translation(NamedTuple):
    """What an engine makes of pictures; without the B axis where it is about one picture.

    `output` is uint8 [B,H,W,3] RGB; `latents` is float32 [B,L,S], the W+ codes of the input before mixing.
    """

    output: NDArray[np.uint8]
    latents: NDArray[np.float32]


class Pipeline:
    """An open engine that takes and gives pictures. Use it as a context manager, or `close` it.

    Raises `EngineError` for an engine that is only a part (encoder, generator, mapping).
    """

    def __init__(self, session: Session) -> None:
        if session.info.part != "full":
            session.close()
            raise EngineError(f"this engine is only the {session.info.part}, expected the full one: picture to picture")
        self.session = session

    @property
    def info(self) -> EngineInfo:
        """What the engine says about itself."""
        return self.session.info

    @property
    def device(self) -> str:
        """What the engine really runs on: "cuda" or "cpu"."""
        return self.session.device

    @property
    def batch(self) -> int:
        """Pictures per inference by default. A CPU is busy with one: more would only take more memory."""
        return self.session.max_batch if self.device == "cuda" else 1

    def prepare(self, pictures: Iterable[Picture]) -> NDArray[np.uint8]:
        """Load pictures as one input of `translate`. Raises `PictureError` for the first that cannot be used."""
        loaded = [self._load(picture) for picture in pictures]
        return np.stack(loaded) if loaded else np.empty((0, *self._input_shape), np.uint8)

    def translate(
        self,
        pixels: NDArray[np.uint8],
        style: NDArray[np.float32] | None = None,
        alpha: NDArray[np.float32] | None = None,
    ) -> Translation:
        """Translate any number of prepared pictures: w = (1 - alpha) * latents + alpha * style, per layer.

        `pixels`: uint8 [B,256,256,3] RGB, [B,256,256,1] sketch or [B,256,256] class ids, as `info.input` says.
        `style`: float32 [B,L,S], W+ codes to mix in. `alpha`: float32 [B,L], 0 keeps a layer, 1 replaces it; without
        it, the layers the task mixes (`info.mix_layers`) by `info.mix_alpha`. Without both, nothing is mixed.
        Raises `PspError` for other types and shapes, and for class ids the engine does not know.
        """
        inputs = self._inputs(pixels, style, alpha)
        step = self.session.max_batch
        parts = [
            self.session.run({name: array[start : start + step] for name, array in inputs.items()})
            for start in range(0, len(pixels), step)
        ]
        if not parts:
            size, info = self.info.output_size, self.info
            return Translation(
                np.empty((0, size, size, 3), np.uint8), np.empty((0, info.styles, info.style_dim), np.float32)
            )
        return Translation(*(np.concatenate([part[name] for part in parts]) for name in ("output", "latents")))

    @overload
    def __call__(self, pictures: Picture) -> Image.Image: ...
    @overload
    def __call__(self, pictures: list[Picture] | tuple[Picture, ...]) -> list[Image.Image]: ...
    def __call__(self, pictures: Picture | list[Picture] | tuple[Picture, ...]) -> Image.Image | list[Image.Image]:
        """Translate one picture, or several in their order. Raises `PictureError` for one that cannot be used."""
        if isinstance(pictures, list | tuple):
            with closing(self.stream(pictures)) as results:
                return [Image.fromarray(_or_raise(result).output) for result in results]
        return Image.fromarray(self.translate(self.prepare([pictures])).output[0])

    def stream(
        self, pictures: Iterable[Picture], batch: int | None = None, threads: int = THREADS
    ) -> Generator[Translation | PictureError, None, None]:
        """Translate any number of pictures in their order, decoding in threads while the engine runs.

        Yields for each picture its `Translation` (output [H,W,3], latents [L,S]) or the `PictureError` that keeps it
        from being used. Takes only a few batches of `pictures` in advance, so a folder of any size fits in memory.
        """
        batch = batch or self.batch
        with closing(map_ahead(self._try_load, pictures, threads, ahead=2 * batch + threads)) as loaded:
            while chunk := list(islice(loaded, batch)):
                yield from self._translate_good(chunk)

    def close(self) -> None:
        """Free the engine."""
        self.session.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _input_shape(self) -> tuple[int, ...]:
        return (self.info.input_size, self.info.input_size, *_CHANNELS[self.info.input])

    def _load(self, picture: Picture) -> NDArray[np.uint8]:
        return images.load(picture, self.info.input, self.info.input_size, self.info.classes)

    def _try_load(self, picture: Picture) -> NDArray[np.uint8] | PictureError:
        try:
            return self._load(picture)
        except PictureError as error:
            return error

    def _translate_good(self, chunk: list[NDArray[np.uint8] | PictureError]) -> Iterator[Translation | PictureError]:
        good = [item for item in chunk if not isinstance(item, PictureError)]
        translated = iter(zip(*self.translate(np.stack(good)), strict=True)) if good else iter(())
        for item in chunk:
            yield item if isinstance(item, PictureError) else Translation(*next(translated))

    def _inputs(
        self, pixels: NDArray[np.uint8], style: NDArray[np.float32] | None, alpha: NDArray[np.float32] | None
    ) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
        _check("image", pixels, np.uint8, (None, *self._input_shape))
        if self.info.input == "labels" and pixels.size and pixels.max() >= self.info.classes:
            raise PspError(f"image: class id {pixels.max()}, this engine knows 0..{self.info.classes - 1}")
        count, styles = len(pixels), self.info.styles
        if alpha is None:
            alpha = np.zeros((count, styles), np.float32)
            if style is not None:
                alpha[:, list(self.info.mix_layers)] = self.info.mix_alpha
        elif style is None:
            raise PspError("alpha without style: give the W+ codes to mix in as style")
        if style is None:
            style = np.zeros((count, styles, self.info.style_dim), np.float32)
        _check("style", style, np.float32, (count, styles, self.info.style_dim))
        _check("alpha", alpha, np.float32, (count, styles))
        return {"image": pixels, "style": style, "alpha": alpha}


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """`map` in threads, in order, taking at most `ahead` items before their results are asked for."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _check(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    given = getattr(array, "shape", ())
    fits = len(given) == len(shape) and all(want in (None, size) for want, size in zip(shape, given, strict=True))
    if not fits or array.dtype != dtype:
        wanted = ",".join("B" if size is None else str(size) for size in shape)
        raise PspError(
            f"{name}: expected {dtype.__name__} [{wanted}], given {getattr(array, 'dtype', type(array).__name__)} "
            f"[{','.join(map(str, given))}]"
        )


def _or_raise(result: Translation | PictureError) -> Translation:
    if isinstance(result, PictureError):
        raise result
    return result
