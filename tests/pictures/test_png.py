"""Our PNG files: read by Pillow as what was written, whatever the shape, the level and the text."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from psp_runtime.pictures import png

RNG = np.random.default_rng(0)
#: Noise, a ramp whose differences are constant, and one pixel.
PICTURES = [
    RNG.integers(0, 256, (33, 20, 3), np.uint8),
    np.cumsum(np.full((40, 50, 3), 3, np.uint8), 0, np.uint8),
    np.array([[[1, 2, 3]]], np.uint8),
    RNG.integers(0, 256, (7, 9), np.uint8),
]


@pytest.mark.parametrize("pixels", PICTURES, ids=lambda p: "x".join(map(str, p.shape)))
@pytest.mark.parametrize("level", png.LEVELS)
def test_pillow_reads_what_was_written(pixels: np.ndarray, level: int) -> None:
    with Image.open(io.BytesIO(png.encode(pixels, {"psp": '{"seed": 1}', "more": ""}, level))) as picture:
        picture.verify()  # every checksum
    with Image.open(io.BytesIO(png.encode(pixels, {"psp": '{"seed": 1}', "more": ""}, level))) as picture:
        assert picture.mode == ("RGB" if pixels.ndim == 3 else "L")
        np.testing.assert_array_equal(np.asarray(picture), pixels)
        assert picture.text == {"psp": '{"seed": 1}', "more": ""}


@pytest.mark.parametrize("profile", [b"", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
def test_its_text_is_found_whatever_else_it_holds(tmp_path: Path, profile: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png.encode(PICTURES[0], {"psp": "made"}, profile=profile))
    assert png.has_text(path, "psp", "made") and not png.has_text(path, "psp", "other")
    with Image.open(path) as picture:
        assert picture.info.get("icc_profile", b"") == profile and picture.info["psp"] == "made"


def test_views_and_rows_that_are_not_contiguous() -> None:
    picture = np.asarray(Image.open(io.BytesIO(png.encode(PICTURES[0][::2, ::-1], {}))))
    np.testing.assert_array_equal(picture, PICTURES[0][::2, ::-1])


def test_levels_trade_time_for_size() -> None:
    y, x = np.mgrid[:256, :256]
    waves = (128 + 100 * np.sin(x * y / 999)).astype(np.uint8)
    sizes = [len(png.encode(waves, {}, level)) for level in (0, 1, 9)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > waves.nbytes > 1.5 * sizes[2]


def test_text_outside_ascii_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        png.encode(PICTURES[2], {"psp": "é"})


def test_the_file_of_one_pixel_byte_for_byte() -> None:
    """The layout of the specification, section 5: signature, header, data, end; filter 2 before the row."""
    header = struct.pack(">II5B", 1, 1, 8, 2, 0, 0, 0)
    encoded = png.encode(PICTURES[2], {}, 0)
    assert encoded.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + header)
    assert encoded.endswith(b"\0\0\0\0IEND\xae\x42\x60\x82")
    start = encoded.index(b"IDAT") + 4
    assert zlib.decompress(encoded[start:-16]) == bytes([2, 1, 2, 3])
