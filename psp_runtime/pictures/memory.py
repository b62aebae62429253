"""How much memory decoding a picture takes, known from its header: a small file may ask for gigabytes.

The bytes per pixel were measured, for each format, as the highest memory of a process while Pillow 12.3 decodes it
(docs/security.md).
"""

from typing import Any

from PIL import Image

from psp_runtime.pictures.strips import STRIP

#: Bytes that one picture may take at its highest, with a tenth to spare below a gigabyte.
BUDGET = 900_000_000
#: 178 megapixels, where Pillow too assumes a decompression bomb. A JPEG that is decoded smaller may have more.
MAX_PIXELS, MAX_SHRUNK = 178_956_970, 1 << 29

#: Pillow's names of the formats that libjpeg decodes.
SHRUNK = ("JPEG", "MPO")

#: Bytes of a pixel in memory, by Pillow's mode; in all others four.
_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
#: Bytes per pixel that decoders take besides the picture. Those of formats that are not named are not measured.
_DECODERS = {
    "PNG": 0.0, "BMP": 0.0, "DIB": 0.0, "TGA": 0.0, "PPM": 0.0, "PCX": 0.0, "JPEG": 0.0, "MPO": 0.0, "TIFF": 0.0,
    "GIF": 1.0, "WEBP": 13.0, "AVIF": 16.0, "JPEG2000": 22.0,
}  # fmt: skip
_OTHERS = 20.0
#: Formats whose decoders stream their file; of others all of it is in memory.
_STREAMED = ("PNG", "BMP", "DIB", "TGA", "PPM", "PCX", "GIF", "JPEG", "MPO")
# Tags of TIFF files.
_BITS, _CHANNELS, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT, _ORIENTATION = 258, 277, 278, 322, 323, 274
#: What converting a strip takes for each of its pixels, and resizing for each row and column.
_CONVERTING, _SIDES = 40, 1100


def needed(image: Image.Image, scale: int = 1) -> float:
    """Count the bytes for decoding and reading a picture that is not decoded yet, its sides divided by `scale`."""
    width, height = (-(-side // scale) for side in image.size)
    decoder = _DECODERS.get(image.format or "", _OTHERS) + _jpeg_coefficients(image)
    decoding = width * height * _MODES.get(image.mode, 4) + image.width * image.height * decoder
    longest = max(width, height)
    converting = max(STRIP, longest) * _CONVERTING + longest * _SIDES
    return decoding + converting + _tiff(image) + _file_size(image)


def fits(image: Image.Image) -> bool:
    """Tell whether a picture takes no more memory than one may."""
    return image.width * image.height <= MAX_PIXELS and needed(image) <= BUDGET


def scale(image: Image.Image) -> int:
    """Choose the smallest of 2, 4 and 8 at which a JPEG fits, decoded that much smaller; 0 where none is enough."""
    if image.width * image.height > MAX_SHRUNK:
        return 0
    return next((scale for scale in (2, 4, 8) if needed(image, scale) <= BUDGET), 0)


def _jpeg_coefficients(image: Image.Image) -> float:
    """Count the bytes per pixel of all coefficients of a JPEG, kept where several scans bring them, each for itself."""
    layers: Any = getattr(image, "layer", None)
    if image.format not in SHRUNK or not layers or not _has_scans(image, len(layers)):
        return 0.0
    across, down = (max(layer[place] for layer in layers) for place in (1, 2))
    return float(2 * sum(layer[1] * layer[2] for layer in layers) / (across * down))


def _has_scans(image: Image.Image, components: int) -> bool:
    """Tell whether a JPEG is progressive, or its first scan has not all components."""
    return "progressive" in image.info or _scanned(image) < components


def _scanned(image: Image.Image) -> int:
    """Count the components in the first scan of a JPEG, behind segments of known lengths. 0 without a scan."""
    file: Any = getattr(image, "fp", None)
    place = file.tell()
    try:
        file.seek(2)
        while True:
            marker, length = file.read(2), int.from_bytes(file.read(2), "big")
            if marker == b"\xff\xda":
                return int.from_bytes(file.read(1), "big")
            if marker[:1] != b"\xff" or length < 2:
                return 0
            file.seek(length - 2, 1)
    finally:
        file.seek(place)


def _tiff(image: Image.Image) -> float:
    """Count the bytes of a strip or tile of a TIFF, perhaps larger than the picture, and of the copy that is turned."""
    if image.format != "TIFF":
        return 0.0
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    rows = 0 if _is_raw(image) else min(tags.get(_ROWS_PER_STRIP, image.height), image.height)
    pixels = max(image.width * rows, tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0))
    raw = pixels * tags.get(_CHANNELS, 1) * max(tags.get(_BITS, (1,))) / 8
    turned = 0 if tags.get(_ORIENTATION, 1) == 1 else image.width * image.height * _MODES.get(image.mode, 4)
    return float(raw + turned)


def _is_raw(image: Image.Image) -> bool:
    """Tell whether a file holds plain values, which are copied, or mapped, into the picture."""
    tiles: Any = getattr(image, "tile", None)
    return bool(tiles) and tiles[0][0] == "raw" and image.format != "WEBP"


def _file_size(image: Image.Image) -> int:
    file: Any = getattr(image, "fp", None)
    if image.format in _STREAMED or file is None or _is_raw(image):
        return 0
    place = file.tell()
    size = file.seek(0, 2)
    file.seek(place)
    return int(size)
