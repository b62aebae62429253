"""Pictures -> session -> pictures, and every application of the paper.

Shapes: B pictures, N styles or steps, L styles of the engine, S style dim, H W size of the output, h w that of the
input: 256x256, of cars 192x256.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.alignment.cropping import Crop
from psp_runtime.alignment.pasting import Mask, lay
from psp_runtime.alignment.photos import Choice, Framing, align
from psp_runtime.engines import contract
from psp_runtime.engines.contract import check, full_inputs, paired, require_faces
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.parts import Parts
from psp_runtime.engines.refinement import RefiningSession, as_whole, run_steps
from psp_runtime.engines.session import Session, run_batches
from psp_runtime.errors import PictureError, PspError
from psp_runtime.latents import (
    AVERAGE_SEED,
    AVERAGED,
    Coordinate,
    as_direction,
    as_strengths,
    blend,
    check_psi,
    edit_alpha,
    layer_alpha,
    moved,
    random_z,
)
from psp_runtime.pictures.decoding import Picture
from psp_runtime.pictures.loading import load_input, picture_name
from psp_runtime.pictures.photos import open_photo
from psp_runtime.prefetch import THREADS, map_batches, parallel_map

#: Prepared pictures, uint8 [B,h,w,3], [B,h,w,1] or [B,h,w], or W+ latents, float32 [B,L,S].
Source = NDArray[np.uint8] | NDArray[np.float32]


class Translation(NamedTuple):
    """What an engine makes of pictures; without the B axis where it is about one picture.

    `output` is uint8 [B,H,W,3] RGB; `latents` is float32 [B,L,S], the W+ latents of the input before mixing.
    """

    output: NDArray[np.uint8]
    latents: NDArray[np.float32]


class Pipeline:
    """An open engine that takes and gives pictures. Use it as a context manager, or `close` it.

    `batch` is how many pictures it runs at once, None for what suits the device. Where encoder and generator alone lie
    beside the engine (`psp-export --parts`), a picture is encoded once and decoded many times: the same, but sooner.
    `runs` says how often they will run, where that is known (see `open_session`).
    A ReStyle engine makes its pictures in `iterations` steps, or as many as it says; with `first`, another one, they go
    on from where that one's first step has come.
    Raises `EngineError` for an engine that is only a part (encoder, generator, mapping), and `PspError` for steps of an
    engine that has none.
    """

    def __init__(
        self,
        session: Session,
        batch: int | None = None,
        runs: int | None = None,
        iterations: int | None = None,
        first: Session | None = None,
    ) -> None:
        try:
            self.session = as_whole(session, iterations, first)
        except PspError:
            for one in filter(None, (session, first)):
                one.close()
            raise
        self.parts = Parts(session, runs)
        #: Called with the number of pictures after every run of the engine; what it raises ends the work.
        self.told: Callable[[int], object] = lambda pictures: None
        self._batch = batch
        self._average: NDArray[np.float32] | None = None

    @property
    def info(self) -> EngineInfo:
        """What the engine says about itself."""
        return self.session.info

    @property
    def device(self) -> str:
        """What the engine really runs on: "cuda" or "cpu"."""
        return self.session.device

    @property
    def precision(self) -> str:
        """What the engine really multiplies in: "fp32", "fp16", "bf16" or "int8"."""
        return self.session.precision

    @property
    def refines(self) -> bool:
        """Tell whether it makes its pictures in several steps."""
        return isinstance(self.session, RefiningSession)

    def repeat(self, iterations: int | None) -> None:
        """Let a ReStyle engine make its pictures in so many steps from now on; None is as many as it says.

        Raises `PspError` for none or too many, and for an engine without steps unless it is None.
        """
        if isinstance(self.session, RefiningSession):
            self.session.repeat(iterations)
        elif iterations is not None:
            as_whole(self.session, iterations)

    @property
    def batch(self) -> int:
        """Pictures per inference by default. A CPU is busy with one: more would only take more memory."""
        return self._batch or (self.session.max_batch if self.device == "cuda" else 1)

    @property
    def at_once(self) -> int:
        """Batches worth running at the same time: a GPU computes one while another is copied."""
        return 2 if self.device == "cuda" else 1

    def prepare(self, pictures: Iterable[Picture]) -> NDArray[np.uint8]:
        """Load pictures as one input of `translate`. Raises `PictureError` for the first that cannot be used."""
        loaded = [self._load(picture) for picture in pictures]
        return np.stack(loaded) if loaded else contract.image(self.info).zeros(0)

    def translate(
        self,
        pixels: NDArray[np.uint8],
        style: NDArray[np.float32] | None = None,
        alpha: NDArray[np.float32] | None = None,
    ) -> Translation:
        """Translate any number of prepared pictures: w = (1 - alpha) * latents + alpha * style, per layer.

        `pixels`: uint8 [B,h,w,3] RGB, [B,h,w,1] sketch or [B,h,w] class ids, as `info.input` says.
        `style`: float32 [B,L,S], W+ latents to mix in. `alpha`: float32 [B,L], 0 keeps a layer, 1 replaces it; without
        it, the layers the task mixes (`info.mix_layers`) by `info.mix_alpha`. Without both, nothing is mixed.
        Raises `PspError` for other types and shapes, and for class ids the engine does not know.
        """
        done = self._run(self.session, full_inputs(self.info, pixels, style, alpha))
        return Translation(done["output"], done["latents"])

    def encode(self, source: Source) -> NDArray[np.float32]:
        """Return the W+ latents float32 [B,L,S] of prepared pictures; latents come back as they are."""
        if _are_latents(source):
            check("latents", source, contract.latents(self.info))
            return np.asarray(source, np.float32)
        inputs = full_inputs(self.info, source)
        if self.parts.usable and not self.refines:
            return self._run(self.parts.encoder, {"image": inputs["image"]})["latents"]
        return self._run(self.session, inputs)["latents"]

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the pictures uint8 [B,H,W,3] of W+ latents float32 [B,L,S]."""
        check("latents", latents, contract.latents(self.info))
        if self.parts.usable:
            return self._run(self.parts.generator, {"latents": latents})["output"]
        # The whole engine does it too: what it makes of an empty picture is replaced in every layer.
        empty = contract.image(self.info).zeros(len(latents))
        alpha = np.ones(latents.shape[:2], np.float32)
        once = self.session.once if isinstance(self.session, RefiningSession) else self.session
        steps = np.ones((len(latents), 1), np.int32)  # for a server, which runs the steps itself
        return self._run(once, full_inputs(self.info, empty, latents, alpha, steps))["output"]

    def styles(self, count: int, seed: int = 0, psi: float = 1.0) -> NDArray[np.float32]:
        """Random styles float32 [count,L,S], one w for all layers: a seed gives the same ones on every device.

        `psi` truncates: 1 is what the generator was trained on, 0 the average face for all, between them the styles are
        less varied and safer. Raises `EngineError` without the mapping network beside the engine.
        """
        check_psi(psi)
        w = self.parts.map(random_z(count, self.info.style_dim, seed))
        if psi != 1:
            w = blend(self.average_style(), w, np.float32(psi))
        return np.repeat(w[:, None], self.info.styles, axis=1)

    def average_style(self) -> NDArray[np.float32]:
        """Return the average w [S] that truncation pulls towards: the mean of AVERAGED random ones, always the same."""
        if self._average is None:
            z = random_z(AVERAGED, self.info.style_dim, AVERAGE_SEED)
            self._average = self.parts.map(z).mean(0, dtype=np.float64).astype(np.float32)
        return self._average

    def mix(
        self,
        source: Source,
        styles: NDArray[np.float32],
        layers: Sequence[int] | None = None,
        alpha: float | None = None,
    ) -> NDArray[np.uint8]:
        """Return each picture with each of the `styles` [N,L,S] mixed in: uint8 [B,N,H,W,3], many faces of one input.

        `layers` (zero-based) and `alpha` (0..1) say where and how much; by default as the task of the engine does.
        """
        check("styles", styles, contract.latents(self.info))
        every = np.broadcast_to(styles, (len(source), *styles.shape))
        return self._mixed(source, every, layer_alpha(self.info, layers, alpha))

    def transfer(
        self, source: Source, style_of: Source, layers: Sequence[int] | None = None, alpha: float | None = None
    ) -> NDArray[np.uint8]:
        """Give each picture its shape with the colours of another one: uint8 [B,H,W,3].

        `style_of` has as many pictures, or one for all; `layers` and `alpha` as in `mix`.
        """
        style = paired(self.encode(style_of), len(source), "style_of")
        return self._mixed(source, style[:, None], layer_alpha(self.info, layers, alpha))[:, 0]

    def interpolate(self, first: Source, second: Source, steps: int) -> NDArray[np.uint8]:
        """From each picture to another one in `steps` equal steps in W+: uint8 [B,steps,H,W,3].

        The ends are the translations of the two. `second` has as many pictures, or one for all.
        """
        if steps < 2:
            raise PspError(f"steps {steps}: expected at least 2, the two ends")
        start, end = self._translation(first), self._translation(second)
        latents, output = (paired(array, len(first), "second") for array in (end.latents, end.output))
        share = np.linspace(0, 1, steps, dtype=np.float32)[1:-1, None, None]
        between = self._decode_all(blend(start.latents[:, None], latents[:, None], share))
        return np.concatenate([start.output[:, None], between, output[:, None]], axis=1)

    def edit(
        self,
        source: Source,
        direction: NDArray[Any] | Coordinate,
        strengths: Sequence[float] = (1.0,),
        layers: Sequence[int] | None = None,
        alpha: float | None = None,
    ) -> NDArray[np.uint8]:
        """Move each picture along a direction [S] or [L,S] by each of the N strengths: uint8 [B,N,H,W,3].

        To a `Coordinate` it is moved until it is there: then strengths are where, in standard deviations. `layers`
        limits it to some layers (default: all); `alpha` scales it there.
        """
        along = direction if isinstance(direction, Coordinate) else as_direction(direction, self.info)
        amount = edit_alpha(self.info, layers, alpha)
        return self._decode_all(moved(self.encode(source), along, as_strengths(strengths), amount))

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
        with closing(parallel_map(self._try_load, pictures, threads, prefetch=2 * batch + threads)) as loaded:
            yield from map_batches(self._translate_each, loaded, batch, self.at_once)

    def align(self, photo: Picture, most: int | None = 1) -> list[Crop]:
        """Return the faces of a whole photo as crops this engine was trained on, the largest first; None: all of them.

        Their `picture` is what `prepare` and a call take, and `psp_runtime.alignment.paste` puts what is made of it
        back. Raises `PictureError` for a photo that cannot be read, or shows no face, and `PspError` for an engine of
        something else than faces.
        """
        require_faces(self.info, self.session.path, "align")
        return self._crops(open_photo(photo).picture, picture_name(photo), most)

    def translate_photo(self, photo: Picture, most: int | None = 1, mask: Mask = "face") -> Image.Image:
        """Translate the faces of a whole photo: RGB, upright, of its size; the largest face, or `most`, or all.

        `mask` is what is taken of each, as in `psp_runtime.alignment.paste`. Raises as `align` does, and `PspError` for
        an engine that takes no photos (its input is a sketch or a label map), or whose pictures fit none (cars, heads
        that are turned).
        """
        if self.info.input != "rgb":
            raise PspError(f"translate_photo is for photos, this engine takes {self.info.input} pictures")
        require_faces(self.info, self.session.path, "translate_photo", "translate_photo")
        result = open_photo(photo).picture
        crops = self._crops(result, picture_name(photo), most)
        made = self([crop.picture for crop in crops])
        for crop, face in zip(reversed(crops), reversed(made)):  # the largest last, on top
            lay(result, crop, face, mask)
        return result

    def close(self) -> None:
        """Free the engine and what was opened beside it."""
        self.parts.close()
        self.session.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def refine(self, pixels: NDArray[np.uint8]) -> Translation:
        """Return what every step makes of prepared pictures, output uint8 [B,N,H,W,3] and latents float32 [B,N,L,S].

        Raises `PspError` for an engine that makes its pictures in one step.
        """
        if not isinstance(self.session, RefiningSession):
            raise PspError(f"{self.session.path} makes its pictures in one step: it has no others to show")
        done = run_steps(self.session, full_inputs(self.info, pixels), self.batch)
        return Translation(done["output"], done["latents"])

    def _crops(self, photo: Image.Image, name: str, most: int | None) -> list[Crop]:
        return align(photo, name, Framing(self.info.input_size, self.info.crop_scale, least=0), Choice(0, most))

    def _load(self, picture: Picture) -> NDArray[np.uint8]:
        return load_input(picture, self.info)

    def _try_load(self, picture: Picture) -> NDArray[np.uint8] | PictureError:
        try:
            return self._load(picture)
        except PictureError as error:
            return error

    def _translate_each(self, loaded: list[NDArray[np.uint8]]) -> Iterable[Translation]:
        return (Translation(*one) for one in zip(*self.translate(np.stack(loaded)), strict=True))

    def _translation(self, source: Source) -> Translation:
        """Output and latents of pictures or latents, `batch` at a time."""
        if _are_latents(source):
            latents = self.encode(source)
            return Translation(self.decode(latents), latents)
        done = self._run(self.session, full_inputs(self.info, source))
        return Translation(done["output"], done["latents"])

    def _mixed(self, source: Source, styles: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Mix each picture with its own `styles` [B,N,L,S], `alpha` [L] of them: uint8 [B,N,H,W,3]."""
        count = styles.shape[1]
        if _are_latents(source) or ((self.parts.usable or self.info.iterations) and count > 1):
            latents = self.encode(source)
            return self._decode_all(blend(latents[:, None], styles, alpha[:, None]))
        pixels = np.repeat(source, count, axis=0)
        every = styles.reshape(-1, *contract.latents(self.info).shape)
        inputs = full_inputs(self.info, pixels, every, np.tile(alpha, (len(pixels), 1)))
        output = self._run(self.session, inputs)["output"]
        return output.reshape(len(source), count, *output.shape[1:])

    def _decode_all(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Decode latents [B,N,L,S] -> uint8 [B,N,H,W,3]."""
        output = self.decode(latents.reshape(-1, *contract.latents(self.info).shape))
        return output.reshape(*latents.shape[:2], *output.shape[1:])

    def _run(self, session: Session, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return run_batches(session, inputs, self.batch, self.told)


def _are_latents(source: Source) -> bool:
    return isinstance(source, np.ndarray) and source.dtype.kind == "f"


def _or_raise(result: Translation | PictureError) -> Translation:
    if isinstance(result, PictureError):
        raise result
    return result
