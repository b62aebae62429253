"""Picture files, PIL pictures and arrays -> decoded, upright PIL pictures, and the values in them."""

import functools
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from psp_runtime.errors import PictureError

#: What a picture may be given as: a file's path, a PIL picture, or uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4] (RGBA).
Picture = str | Path | Image.Image | NDArray[np.uint8]

#: 178 megapixels, where Pillow too assumes a decompression bomb: such a picture takes half a gigabyte decoded.
MAX_PIXELS = 178_956_970

#: Formats that are programs: Pillow would have them run.
_PROGRAMS = ("EPS", "WMF")
#: The key of a picture's `info` for the largest value of its file, where that is not of 8 or 16 bits.
_TOP = "psp_top"
#: Pillow's names of grey with 2 or 4 bits.
_LOW_DEPTH = re.compile("L;([24])[A-Z]*")

# Pillow warns from half of MAX_PIXELS on; ours is the one limit. Appended: a filter of the caller's own goes first. Not
# around each open: that is not thread-safe, and makes Python forget which warnings it has shown.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def open_upright(picture: Picture, name: str) -> Image.Image:
    """A decoded picture, turned upright; never the caller's own object."""
    if isinstance(picture, str | Path):
        return _read(Path(picture), name)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    top = _stored_top(picture)
    upright = ImageOps.exif_transpose(picture)
    upright.format, upright.info[_TOP] = picture.format, top
    return upright


@functools.cache
def _readable() -> list[str]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return [name for name in Image.OPEN if name not in _PROGRAMS]


def _read(path: Path, name: str) -> Image.Image:
    with path.open("rb") as file:
        image = _identified(file)
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(
                f"cannot read {name}: {image.width}x{image.height} is too large, scale it down "
                f"below {MAX_PIXELS // 1_000_000} megapixels"
            )
        top = _stored_top(image)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image.info[_TOP] = top
        return image


def _identified(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=("PNG", "JPEG"))
    except UnidentifiedImageError:  # the others take a moment to import
        return Image.open(file, formats=_readable())


def _stored_top(image: Image.Image) -> int | None:
    """The largest grey value a file can hold, where Pillow stretches that to 8 or 16 bits; None elsewhere."""
    tiles = getattr(image, "tile", None)  # of files only: how Pillow decodes them
    decoder, _, _, arguments = tiles[0][:4] if tiles else ("", None, 0, None)
    if decoder in ("ppm", "ppm_plain") and isinstance(arguments, tuple):
        return int(arguments[1])
    bits = _LOW_DEPTH.fullmatch(str(arguments[0] if isinstance(arguments, tuple) else arguments))
    return 2 ** int(bits[1]) - 1 if bits else None


def _from_array(pixels: NDArray[Any]) -> Image.Image:
    channels = pixels.shape[2:] or (1,)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels[0] not in (1, 3, 4) or not pixels.size:
        raise PictureError(
            f"a picture as an array must be uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4], not {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def eight_bit(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey scaled to 8 bits (Pillow's own conversion clips it); other modes as they are."""
    if image.mode == "F":
        raise PictureError(f"cannot read {name}: its values are floating point, save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise PictureError(f"cannot read {name}: grey values {values.min()}..{values.max()}, expected 16 bits at most")
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def on_white(image: Image.Image) -> Image.Image:
    """Transparency laid on white; pictures without any as they are."""
    if not {"A", "a"} & set(image.getbands()) and "transparency" not in image.info:
        return image
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def class_ids(image: Image.Image, name: str) -> NDArray[Any]:
    """Palette indices or grey values [H,W], as stored; an alpha channel says nothing about classes."""
    values = np.asarray(image)
    if image.mode == "F" or image.mode not in ("RGB", "RGBA", "LA", "PA") and values.ndim == 3:
        raise PictureError(f"{name} is a {image.mode} picture, expected a label map: a palette or grey picture of ids")
    top = image.info.get(_TOP)
    if top:
        full = 65535 if image.mode.startswith("I") else 255
        values = (values.astype(np.int64) * top + full // 2) // full
    if values.ndim == 2:
        return values.astype(np.uint8) if image.mode == "1" else values
    colours = values[..., :3] if image.mode.startswith("RGB") else values[..., :1]
    if (colours != colours[..., :1]).any():
        raise PictureError(f"{name} is a colour picture, expected a label map: a palette or grey picture of class ids")
    return colours[..., 0]
