"""Picture files, PIL pictures and arrays -> decoded pictures, within the memory that one may take."""

import functools
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from psp_runtime.errors import PictureError
from psp_runtime.pictures import libtiff, memory
from psp_runtime.pictures.strips import Upright
from psp_runtime.pictures.values import SIGNED

#: What a picture may be given as: a file's path, a PIL picture, or uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4] (RGBA).
Picture = str | Path | Image.Image | NDArray[np.uint8]

#: Pillow's names of what a server should take from strangers: formats of browsers, whose decoders are fuzzed.
UPLOADS = ("PNG", "JPEG", "WEBP")
#: Formats that are programs: Pillow would have them run.
_PROGRAMS = ("EPS", "WMF")
#: Pillow's names of grey with 2 or 4 bits.
_LOW_DEPTH = re.compile("L;([24])[A-Z]*")
_EXIF_ORIENTATION = 0x0112
# Tags of TIFF files, and what the last of them says of values that are floating point.
_BITS, _CHANNELS, _KIND, _FLOAT = 258, 277, 339, 3

# Pillow warns from half of its limit on; ours is the one limit. Appended: a filter of the caller's own goes first. Not
# around each open: that is not thread-safe, and makes Python forget which warnings it has shown.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def open_upright(picture: Picture, name: str, exact: bool = True, formats: Sequence[str] | None = None) -> Upright:
    """Decode a picture; a caller's own object is not changed.

    `exact` is for class ids: else a JPEG too large for the memory of one picture is decoded at a half, a quarter or an
    eighth of its size. `formats` are Pillow's names of those that are taken from files, all by default.
    """
    if isinstance(picture, str | Path):
        return _read(Path(picture), name, exact, formats)
    if isinstance(picture, np.ndarray):
        return Upright(_from_array(picture))
    return _loaded(picture)


def open_upload(file: BinaryIO, name: str, exact: bool = True) -> Image.Image:
    """Open what a stranger sent, of UPLOADS and not decoded yet; `exact` as for `open_upright`, which takes it then.

    Raises `PictureError` for another format and for what takes too much memory; damaged bytes raise anything.
    """
    image = _identified(file, name, UPLOADS)
    _fit(image, name, exact)
    return image


def _read(path: Path, name: str, exact: bool, formats: Sequence[str] | None) -> Upright:
    with path.open("rb") as file:
        image = _identified(file, name, formats)
        if image.format == "TIFF":
            libtiff.silence()
        _fit(image, name, exact)
        return _loaded(image)


def _fit(image: Image.Image, name: str, exact: bool) -> None:
    """Have a large JPEG decoded smaller. Raises `PictureError` for what takes too much memory."""
    if memory.fits(image):
        return
    scale = 0 if exact or image.format not in memory.SHRUNK else memory.scale(image)
    if not scale:
        raise PictureError(
            f"cannot read {name}: {image.width}x{image.height} is too large, reading such a {image.format} picture "
            f"takes {memory.needed(image) / 1e9:.1f} GB: scale it down"
        )
    image.draft(None, (image.width // scale, image.height // scale))


def _identified(file: BinaryIO, name: str, formats: Sequence[str] | None) -> Image.Image:
    start = file.read(3)
    file.seek(0)
    try:
        if start == b"\xff\xd8\xff" and (formats is None or "JPEG" in formats):
            return JpegImagePlugin.jpeg_factory(file)  # Image.open refuses large ones, which draft mode reads
        if formats is None and start == b"\x89PN":
            return Image.open(file, formats=("PNG",))  # the others take a moment to import
        return Image.open(file, formats=_readable() if formats is None else tuple(formats))
    except UnidentifiedImageError:
        if formats is not None:
            raise PictureError(f"cannot read {name}: expected a picture as {', '.join(formats)}") from None
        file.seek(0)
        raise PictureError(f"cannot read {name}: {_unreadable_tiff(file)}") from None


@functools.cache
def _readable() -> list[str]:
    """List Pillow's names of the formats that are read."""
    Image.init()
    return [name for name in Image.OPEN if name not in _PROGRAMS]


def _unreadable_tiff(file: BinaryIO) -> str:
    """Say why Pillow does not know a picture: the TIFF files it cannot read are explained."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bits, channels, kind = tags[_BITS], tags[_CHANNELS], tags.get(_KIND, (1,))
    except Exception:  # no TIFF file, or a damaged one
        return "not a picture of a known format, or damaged from its first bytes"
    if _FLOAT in kind:
        return "its values are floating point, save it with 8 or 16 bits"
    return f"a TIFF file of {channels} channels with {bits[0]} bits is not known, save it with 8 bits a channel"


def _loaded(image: Image.Image) -> Upright:
    """Decode a picture. What its file says of values is known before, its EXIF may only be known after."""
    top, white = _stored_top(image), _stated_white(image)
    image.load()
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return Upright(image, orientation if orientation in range(1, 9) else 1, top, white)


def _raw_mode(image: Image.Image) -> str:
    """Say how values lie in a file, in Pillow's words; empty for pictures that are none."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _stated_white(image: Image.Image) -> int:
    """Find what is white in grey of more than 8 bits: in 12 bits 4095, in signed 16 bits 32767."""
    raw = _raw_mode(image)
    return 4095 if raw.startswith("I;12") else SIGNED if raw in ("I;16S", "I;16BS", "I;16NS") else 65535


def _stored_top(image: Image.Image) -> int | None:
    """Find the largest grey value a file can hold, where Pillow stretches that to 8 or 16 bits; None elsewhere."""
    tiles = getattr(image, "tile", None)  # of files only: how Pillow decodes them
    decoder, _, _, arguments = tiles[0][:4] if tiles else ("", None, 0, None)
    if decoder in ("ppm", "ppm_plain") and isinstance(arguments, tuple):
        return int(arguments[1])
    bits = _LOW_DEPTH.fullmatch(_raw_mode(image))
    return 2 ** int(bits[1]) - 1 if bits else None


def _from_array(pixels: NDArray[Any]) -> Image.Image:
    channels = pixels.shape[2:] or (1,)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels[0] not in (1, 3, 4) or not pixels.size:
        raise PictureError(
            f"a picture as an array must be uint8 [H,W], [H,W,1], [H,W,3] or [H,W,4], not {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
