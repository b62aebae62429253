"""Pictures as people have them -> the uint8 arrays an engine takes.

Resizing follows the reference: bilinear to the engine's shape, whatever the shape of the picture; label maps with
nearest, because bilinear invents classes.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PictureError
from psp_runtime.pictures import decoding
from psp_runtime.pictures.decoding import Picture
from psp_runtime.pictures.strips import Upright
from psp_runtime.pictures.values import class_ids, eight_bit, grey_top, on_white
from psp_runtime.tasks import CHANNELS, INPUT_SIZE, InputKind

SQUEEZED = (
    "a picture is far from square and is squeezed into one, as the reference does: "
    "published face weights expect aligned face crops"
)
#: The same for engines whose pictures are no squares, with their width and height.
STRETCHED = (
    "a picture is far from the shape {}x{} of this engine's and is squeezed or stretched into it, as the reference "
    "does: crop it first"
)
_SQUEEZED_FROM = 1.5
#: Formats that keep a label map only if asked to, if at all.
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
LOSSY_LABELS = (
    "a label map is a JPEG, WebP, AVIF or JPEG 2000 file, which changes ids along edges unless it was saved without "
    "loss: save label maps as PNG"
)

#: What is wrong where a label map is given instead of a picture.
LABELLED = (
    "a picture is grey with few, dark shades, as label maps are: this engine reads it as a picture; "
    "an engine of the segmentation task reads class ids"
)
#: The label map of a face has as many classes or more; pictures of fewer colours are drawings.
FEW_CLASSES = 5
#: What is wrong where a photo is given instead of its sketch.
COLOURED = (
    "a picture in colours is read as a pencil sketch: "
    "psp run --sketch-from-photo and psp train sketches draw sketches of photos"
)
_SIDE = 64  # pixels of a picture that is looked at for colours
_PLAIN = 8  # standard deviation of colour differences, in levels; drawn faces have 10 and more


def load(
    picture: Picture,
    kind: InputKind,
    size: int = INPUT_SIZE,
    classes: int = CHANNELS["labels"],
    formats: Sequence[str] | None = None,
    height: int | None = None,
) -> NDArray[np.uint8]:
    """Load one picture as an engine eats it, W = `size` and H = `height`, by default a square.

    "rgb": [H,W,3]; "sketch": [H,W,1], grey; both in [0, 255], turned as EXIF says, transparency on white, grey of more
    than 8 bits scaled to 8. "labels": [H,W] class ids in [0, classes): palette indices or grey values, as stored.
    `formats` are Pillow's names of the formats taken from files (`decoding.UPLOADS` for a server), all by default.
    Raises `PictureError` for a file that cannot be read or takes too much memory, and for ids out of range. Warns about
    pictures more than 1.5 times too long or too wide (`SQUEEZED`, `STRETCHED`), photos as sketches (`COLOURED`), label
    maps as pictures (`LABELLED`), `LOSSY_LABELS`, and grey whose bits are guessed (`values.NARROW`).
    """
    name, shape = picture_name(picture), (size, height or size)
    try:
        upright = decoding.open_upright(picture, name, exact=kind == "labels", formats=formats)
        if _is_squeezed(upright.size, shape):
            warnings.warn(SQUEEZED if shape[0] == shape[1] else STRETCHED.format(*shape), stacklevel=1)
        return _labels(upright, name, shape, classes) if kind == "labels" else _picture(upright, kind, name, shape)
    except PictureError:
        raise
    except Exception as error:  # on damaged bytes, decoders raise whatever they stumble over
        raise unreadable(name, error) from error


def load_input(picture: Picture, info: EngineInfo) -> NDArray[np.uint8]:
    """Load one picture as the engine that `info` describes eats it; as `load`."""
    return load(picture, info.input, info.input_size, info.classes, height=info.input_height)


def _is_squeezed(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Tell whether a picture's width over height is far from the wanted one."""
    ratio = size[0] * wanted[1] / (size[1] * wanted[0])
    return max(ratio, 1 / ratio) > _SQUEEZED_FROM


def resize(pixels: NDArray[np.uint8], size: int, height: int | None = None) -> NDArray[np.uint8]:
    """Resize uint8 [H,W,3] with Lanczos to a width of `size` and `height`, by default as high as wide."""
    return np.array(Image.fromarray(pixels).resize((size, height or size), Image.Resampling.LANCZOS))


def scaled(shape: tuple[int, ...], width: int) -> int:
    """Compute the height of a picture of this shape (height, width, ...) once it has another width."""
    return max(1, round(width * shape[0] / shape[1]))


def downsample(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrink uint8 [H,W,3] by an integer factor as the reference does for super-resolution.

    Separable bicubic (a = -0.5) over 4 x factor taps with reflected borders, clipped, truncated to uint8.
    """
    if factor == 1:
        return pixels
    x = np.abs((np.arange(4 * factor) - 2 * factor + 0.5) / factor)
    taps = np.where(x <= 1, (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)
    taps = (taps / taps.sum()).astype(np.float32)
    half = _shrink_rows(np.divide(pixels, 255, dtype=np.float32), taps, factor)
    small = _shrink_rows(half.swapaxes(0, 1), taps, factor).swapaxes(0, 1)
    return np.asarray(small.clip(0, 1) * 255).astype(np.uint8)


def _shrink_rows(x: NDArray[np.float32], taps: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """FIR and decimation of the rows, tap by tap with one rounding each, as a fused multiply-add does.

    In FP32 that is what the reference computes. A product of matrices rounds differently on every kind of CPU, and
    truncation turns the last bit into a level: flat areas would come out darker.
    """
    before = (len(taps) - factor) // 2
    padded = np.pad(x, ((before, len(taps) - factor - before), (0, 0), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=0)[::factor]
    total = np.zeros(windows.shape[:-1], np.float32)
    for index, tap in enumerate(taps.astype(np.float64)):
        # Exact in float64, then rounded. NumPy 1 would multiply in FP32.
        total = (np.multiply(windows[..., index], tap, dtype=np.float64) + total).astype(np.float32)
    return total


def unreadable(name: str, error: Exception) -> PictureError:
    """Say what to tell of a picture whose decoder stumbled."""
    return PictureError(f"cannot read {name}: {_reason(error)}")


def picture_name(picture: Picture) -> str:
    """Say what a picture is called in messages."""
    if isinstance(picture, str | Path):
        return str(picture)
    return str(getattr(picture, "filename", "")) or "the picture"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format, or damaged from its first bytes"
    if isinstance(error, Image.DecompressionBombError):
        return f"it is too large, scale it down ({error})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _picture(upright: Upright, kind: InputKind, name: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    if kind == "rgb" and _is_labelled(upright.image):
        warnings.warn(LABELLED, stacklevel=2)
    top = grey_top(upright.image, upright.white, name)

    def converted(mode: str) -> Callable[[Image.Image], Image.Image]:
        return lambda strip: on_white(eight_bit(strip, top)).convert(mode)

    if kind == "sketch" and in_colours(upright.resized((_SIDE, _SIDE), converted("RGB"), Image.Resampling.BICUBIC)):
        warnings.warn(COLOURED, stacklevel=2)
    pixels = upright.resized(shape, converted("RGB" if kind == "rgb" else "L"), Image.Resampling.BILINEAR)
    return np.array(pixels).reshape(shape[1], shape[0], -1)


def _labels(upright: Upright, name: str, shape: tuple[int, int], classes: int) -> NDArray[np.uint8]:
    if upright.image.format in LOSSY:
        warnings.warn(LOSSY_LABELS, stacklevel=2)
    above = 0

    def checked(strip: Image.Image) -> Image.Image:
        nonlocal above
        ids = class_ids(strip, upright.top, name)
        bad = (ids < 0) | (ids >= classes)
        if bad.any():
            y, x = divmod(int(np.argmax(bad)), ids.shape[1])
            raise PictureError(
                f"{name} has class id {ids[y, x]} at (x={x}, y={above + y}), this engine knows 0..{classes - 1}: "
                "expected a label map of class ids, not of colours"
            )
        above += len(ids)
        return Image.fromarray(ids.astype(np.uint8))

    return np.array(upright.resized(shape, checked, Image.Resampling.NEAREST))


def _is_labelled(image: Image.Image) -> bool:
    """Tell whether a picture seems to hold class ids: several palette indices or shades of grey, all of them small."""
    if image.mode not in ("L", "P") or (image.mode == "P" and "transparency" in image.info):
        return False
    ids = np.flatnonzero(image.histogram())
    return len(ids) >= FEW_CLASSES and int(ids[-1]) < CHANNELS["labels"]


def in_colours(picture: Image.Image) -> bool:
    """Tell whether colours vary over a picture, both against green: paper and pencil of any one colour do not."""
    x = np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE)), np.float32)
    return bool(min((x[..., channel] - x[..., 1]).std() for channel in (0, 2)) > _PLAIN)
