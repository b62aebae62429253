"""The values of pixels: 16 bits to 8, transparency on white, class ids as stored. Each takes a strip of a picture."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.errors import PictureError

#: White in a file of signed values with 16 bits.
SIGNED = 32767
#: Bits of cameras and scanners whose values are kept in 16.
_BITS = (8, 10, 12, 14)
NARROW = (
    "a 16-bit grey picture holds no value above {top}: it is read as one of {bits} bits; "
    "scale its values up to 65535 if it is that dark"
)


def grey_top(image: Image.Image, stated: int, name: str) -> int:
    """Find the value that is white in a grey picture of more than 8 bits: what its file states, or its values suggest.

    `stated` is `Upright.white`. Raises `PictureError` for values that are no grey of 16 bits. Warns where it guesses.
    """
    if image.mode == "F":
        raise PictureError(f"cannot read {name}: its values are floating point, save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return 255
    low, high = (int(value) for value in image.getextrema())  # type: ignore[arg-type]
    if low < 0 or high > 65535:
        raise PictureError(f"cannot read {name}: grey values {low}..{high}, expected 16 bits at most")
    bits = next((bits for bits in _BITS if 0 < high < 2**bits), 16)
    if stated < SIGNED or bits == 16:
        return max(stated, high)
    warnings.warn(NARROW.format(top=2**bits - 1, bits=bits), stacklevel=2)
    return int(2**bits - 1)


def eight_bit(strip: Image.Image, top: int) -> Image.Image:
    """Scale grey of more bits so that `top` is 255 (Pillow's own conversion clips it); other modes as they are."""
    if not strip.mode.startswith("I"):
        return strip
    values = np.asarray(strip).astype(np.int64)
    grey = Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8))
    if "transparency" in strip.info:
        grey.putalpha(Image.fromarray(np.where(values == strip.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def on_white(image: Image.Image) -> Image.Image:
    """Lay transparency on white; pictures without any as they are."""
    if not {"A", "a"} & set(image.getbands()) and "transparency" not in image.info:
        return image
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def class_ids(strip: Image.Image, top: int | None, name: str) -> NDArray[Any]:
    """Read palette indices or grey values [H,W], as stored; an alpha channel says nothing about classes.

    `top` is that of `Upright`. Raises `PictureError` for pictures that are no label maps.
    """
    values = np.asarray(strip)
    if strip.mode == "F" or strip.mode not in ("RGB", "RGBA", "LA", "PA") and values.ndim == 3:
        raise PictureError(f"{name} is a {strip.mode} picture, expected a label map: a palette or grey picture of ids")
    if top:
        full = 65535 if strip.mode.startswith("I") else 255
        values = (values.astype(np.int64) * top + full // 2) // full
    if values.ndim == 2:
        return values.astype(np.uint8) if strip.mode == "1" else values
    colours = values[..., :3] if strip.mode.startswith("RGB") else values[..., :1]
    if (colours != colours[..., :1]).any():
        raise PictureError(f"{name} is a colour picture, expected a label map: a palette or grey picture of class ids")
    return colours[..., 0]
