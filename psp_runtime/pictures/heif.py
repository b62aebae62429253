"""HEIC, as phones save photos: read with the package pillow-heif (the extra `heif`), called by its name without it.

Pillow finds this module like one of its own formats; pillow-heif is imported at the first such file.
"""

import importlib
import importlib.util
from typing import IO

from PIL import Image, ImageFile

from psp_runtime.errors import PictureError

ENDINGS = (".heic", ".heif", ".hif")
HOW = "pip install '.[heif]'"
_NAME = "HEIF"
#: Brands of HEVC pictures in the first box of the file; AVIF has the same container.
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


def register() -> None:
    """Let Pillow know of the format, unless pillow-heif itself has done so."""
    if _NAME not in Image.OPEN:
        Image.register_open(_NAME, _open, _has_box)
        Image.register_extensions(_NAME, list(ENDINGS))


def is_readable() -> bool:
    """Tell whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def _has_box(start: bytes) -> bool:
    return start[4:8] == b"ftyp"


def _open(file: IO[bytes], name: str | bytes) -> ImageFile.ImageFile:
    """Open a file with pillow-heif. Raises `SyntaxError`, Pillow's sign for another format, and `PictureError`."""
    start = file.read(int.from_bytes(file.read(4), "big"))
    file.seek(0)
    if not any(brand in start for brand in _BRANDS):
        raise SyntaxError("no HEVC picture")
    if not is_readable():
        where = str(getattr(file, "name", "")) or "the picture"
        raise PictureError(f"cannot read {where}: it is HEIC, as phones save photos: {HOW}, or save it as JPEG")
    importlib.import_module("pillow_heif").register_heif_opener()
    return Image.OPEN[_NAME][0](file, name)
