"""Keep libtiff, through which Pillow reads packed TIFF files, from writing its own lines to the terminal."""

import ctypes
import functools
import os
from pathlib import Path

from PIL import Image


@functools.cache
def silence() -> None:
    """Take away what libtiff prints of damaged files; Pillow's error says the same. Left on with PSP_DEBUG=1.

    Where libtiff is not a library of its own, as in Pillow for Windows, nothing is changed.
    """
    if os.environ.get("PSP_DEBUG") == "1":
        return
    for path in _loaded():
        library = ctypes.CDLL(path)
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


def _loaded() -> list[str]:
    """List the libtiff that this process has loaded, as Linux says, or that which Pillow for macOS brings along."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        lines = maps.read_text(errors="surrogateescape").splitlines()
        return sorted({line.split(maxsplit=5)[-1] for line in lines if "/libtiff" in line})
    return [str(path) for path in (Path(Image.__file__).parent / ".dylibs").glob("libtiff*.dylib")]
