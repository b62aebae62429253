"""The highest memory of a process while it loads pictures that are just below the limit, of every kind.

python tools/picture_peaks.py [BUDGET]     # in bytes; without one, that of the runtime: some minutes

One line of JSON for each picture: what it is, its size, and the bytes that loading it took at the highest.
"""

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from psp_runtime.errors import PictureError
from psp_runtime.pictures import memory
from psp_runtime.pictures.loading import load

ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6

#: Name, format, mode, and Pillow's options for saving.
CASES: list[tuple[str, str, str, dict]] = [
    *((f"PNG {mode}", "PNG", mode, {"compress_level": 1}) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16")),
    ("PNG P, transparent", "PNG", "P", {"transparency": 0, "compress_level": 1}),
    ("PNG RGB, transparent", "PNG", "RGB", {"transparency": (0, 0, 0), "compress_level": 1}),
    ("PNG I;16, transparent", "PNG", "I;16", {"transparency": 0, "compress_level": 1}),
    ("PNG RGB, turned", "PNG", "RGB", {"exif": ORIENTED, "compress_level": 1}),
    ("PNG RGBA, animated", "PNG", "RGBA", {"save_all": True, "compress_level": 1}),
    *((f"JPEG {mode}", "JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    *((f"JPEG {mode}, progressive", "JPEG", mode, {"progressive": True}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG RGB, progressive, 4:4:4", "JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    ("JPEG RGB, turned", "JPEG", "RGB", {"exif": ORIENTED}),
    ("MPO RGB", "MPO", "RGB", {"save_all": True}),
    ("WebP RGB", "WEBP", "RGB", {"method": 0}),
    ("WebP RGBA", "WEBP", "RGBA", {"method": 0}),
    ("WebP RGB, lossless", "WEBP", "RGB", {"lossless": True, "method": 0, "quality": 0}),
    ("WebP RGBA, lossless", "WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
    ("WebP RGBA, animated", "WEBP", "RGBA", {"save_all": True, "method": 0}),
    ("TIFF RGB", "TIFF", "RGB", {}),
    ("TIFF RGB, LZW", "TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF RGB, one strip", "TIFF", "RGB", {"compression": "tiff_adobe_deflate", "strip_size": 1 << 30}),
    ("TIFF RGBA, turned", "TIFF", "RGBA", {"compression": "tiff_lzw", "tiffinfo": {274: 6}}),
    ("TIFF RGB, JPEG", "TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF CMYK, LZW", "TIFF", "CMYK", {"compression": "tiff_lzw"}),
    ("TIFF I;16", "TIFF", "I;16", {"compression": "tiff_lzw"}),
    ("TIFF I", "TIFF", "I", {}),
    ("TIFF 1, fax", "TIFF", "1", {"compression": "group4"}),
    ("GIF P", "GIF", "P", {}),
    ("GIF RGB, animated", "GIF", "RGB", {"save_all": True}),
    ("BMP RGB", "BMP", "RGB", {}),
    ("TGA RGBA, packed", "TGA", "RGBA", {"compression": "tga_rle"}),
    ("PPM RGB", "PPM", "RGB", {}),
    ("PCX RGB", "PCX", "RGB", {}),
    ("JPEG 2000 RGB", "JPEG2000", "RGB", {}),
    ("JPEG 2000 RGBA", "JPEG2000", "RGBA", {}),
    ("AVIF RGB", "AVIF", "RGB", {"speed": 10}),
    ("AVIF RGBA", "AVIF", "RGBA", {"speed": 10}),
    ("SGI RGB", "SGI", "RGB", {}),
    ("QOI RGB", "QOI", "RGB", {}),
]


def picture(mode: str, side: int) -> Image.Image:
    """A square in four shades, which compresses to little."""
    shades = np.array([[0, 40], [80, 120]], np.uint16 if mode == "I;16" else np.uint8)
    small = Image.fromarray(shades * np.uint16(500) if mode == "I;16" else shades)
    large = small.resize((side, side), Image.Resampling.NEAREST)
    if mode == "RGBA":
        large = large.convert("RGB")
        large.putalpha(128)
        return large
    return large if mode in ("L", "I;16") else large.convert(mode)


def encoded(kind: str, mode: str, side: int, options: dict) -> io.BytesIO:
    """A file of a format; raises as Pillow does where it cannot write it."""
    image, file = picture(mode, side), io.BytesIO()
    more = {"append_images": [image.transpose(Image.Transpose.ROTATE_90)]} if options.get("save_all") else {}
    image.save(file, kind, **options, **more)
    return file


def largest(kind: str, mode: str, options: dict) -> int:
    """The side of the largest square that is read in full, by what a small one is said to take."""
    rates = []
    for side in (64, 128):
        with memory_opened(encoded(kind, mode, side, options)) as image:
            rates.append(memory.needed(image))
    fixed = memory.STRIP * 40
    rate = (rates[1] - rates[0] - 64 * 1100) / (128**2 - 64**2)
    side = int(min(memory.MAX_PIXELS, (memory.BUDGET - fixed - 15_000 * 1100) / rate) ** 0.5)
    return min(side, {"WEBP": 16383, "AVIF": 16384, "DDS": 16384}.get(kind, 65000)) // 2 * 2


def memory_opened(file: io.BytesIO) -> Image.Image:
    file.seek(0)
    return Image.open(file)


def status(name: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the highest so far) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def measured(path: Path) -> dict:
    """The bytes and seconds that loading a picture takes, and the error if it is refused."""
    before, began, refused = status("VmRSS"), time.process_time(), ""
    try:
        load(path, "rgb")
    except PictureError as error:
        refused = str(error)
    taken = status("VmHWM") - before
    return {"file": path.stat().st_size, "bytes": taken, "seconds": time.process_time() - began, "refused": refused}


def written(case: tuple[str, str, str, dict], path: Path) -> dict:
    """Write the picture of a case."""
    _, kind, mode, options = case
    try:
        side = largest(kind, mode, options)
        path.write_bytes(encoded(kind, mode, side, options).getvalue())
    except Exception as error:  # Pillow may be built without a format, or older than a way to write it
        return {"not written": f"{type(error).__name__}: {error}"}
    return {"side": side}


def in_child(function: Callable[[], dict]) -> dict:
    """Call a function in a fork: what it took is given back, and no free memory of others is used."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(function()).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    with open(reader, "rb") as answer:
        return json.load(answer)


def peaks(folder: Path) -> Iterator[dict]:
    path = folder / "picture"
    for case in CASES:
        made = in_child(partial(written, case, path))
        yield {"name": case[0]} | made | (in_child(partial(measured, path)) if "side" in made else {})


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None
    if len(sys.argv) > 1:
        memory.BUDGET = int(float(sys.argv[1]))
    load(Path(__file__).parents[1] / "tests" / "golden" / "picture.png", "rgb")  # what is imported is not counted
    with tempfile.TemporaryDirectory() as home:
        for line in peaks(Path(home)):
            print(json.dumps(line), flush=True)
