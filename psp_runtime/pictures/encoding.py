"""Arrays -> picture files, the mirror of `decoding`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.disk import replacing
from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures import png

#: Pillow's name of the format each suffix stands for.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
#: Pixels of a side at most, of the formats that have a limit.
LONGEST = {"GIF": 65535, "JPEG": 65500, "WEBP": 16383}
#: The keyword of the text in a PNG that says how it was made.
NOTE_KEY = "psp"
#: Quality of lossy formats where none is asked for.
QUALITY = 95
# WebP's effort 0 is three times quicker than its default 4, for 0.1 to 0.5 dB less at this quality.
_LOSSY: dict[str, dict[str, Any]] = {"JPEG": {}, "WEBP": {"method": 0}}


def save(
    picture: NDArray[np.uint8] | Image.Image,
    path: str | Path,
    note: str = "",
    quality: int = QUALITY,
    level: int = png.QUICKEST,
    profile: bytes = b"",
) -> None:
    """Write uint8 [H,W,3], or grey [H,W], or a PIL picture of these, in the format of the path's suffix.

    An earlier file is replaced only when it is complete.

    `quality` 1..100 is that of JPEG and WebP, `level` 0..9 how hard to compress a PNG. A PNG carries the `note` (ASCII)
    as text under NOTE_KEY; files of other formats get none. `profile` is the ICC profile of the values; BMP has none.
    Raises `PspError` for an unknown suffix and for what the system refuses, and `PictureError` for a picture that the
    format cannot hold; then an earlier file is still there.
    """
    path = Path(path)
    try:
        encoded = to_bytes(picture, picture_format(path), note, quality, level, profile)
    except PictureError as error:
        raise PictureError(f"cannot write {path}: {error}") from error
    with replacing(path) as file:
        file.write(encoded)


def to_bytes(
    picture: NDArray[np.uint8] | Image.Image,
    kind: str,
    note: str = "",
    quality: int = QUALITY,
    level: int = png.QUICKEST,
    profile: bytes = b"",
) -> bytes | memoryview:
    """Encode uint8 [H,W,3], or grey [H,W], as `save` writes it; `kind` is Pillow's name of the format.

    Raises `PictureError` for a picture that the format cannot hold.
    """
    if kind == "PNG":
        return png.encode(np.asarray(picture), {NOTE_KEY: note} if note else {}, level, profile)
    options = _LOSSY[kind] | {"quality": quality} if kind in _LOSSY else {}
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return encode(image, kind, options | ({"icc_profile": profile} if profile else {}))


def encode(image: Image.Image, kind: str, options: dict[str, Any]) -> memoryview:
    """Encode a PIL picture as the bytes of a file, with Pillow's name and options of its format.

    In memory first: writing through a codec loses the reason of a failed write. Raises `PictureError` for a picture
    that the format cannot hold.
    """
    encoded, size = io.BytesIO(), f"{image.width}x{image.height}"
    most = LONGEST.get(kind)
    if most and max(image.size) > most:
        raise PictureError(
            f"{size}, a {kind} picture has at most {most} pixels a side: give a --size, or another format"
        )
    try:
        image.save(encoded, format=kind, **options)
    except ValueError as error:
        if kind != "WEBP":
            raise
        # A WebP has half a megabyte for how its blocks are coded, which 25 megapixels full of detail have filled.
        words = f"{size} is too large for WebP at this quality ({error})"
        raise PictureError(f"{words}: give a --size, a lower --quality, or another format") from error
    return encoded.getbuffer()


def picture_format(path: Path) -> str:
    """Pillow's name of the format `path` asks for; `PspError` names the known suffixes."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise PspError(f"cannot write {path}: its name must end in one of {', '.join(FORMATS)}") from None
