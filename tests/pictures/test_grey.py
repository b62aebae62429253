"""Grey of more than 8 bits: what is white is what the file says, or what its values suggest, with a word about it."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psp_runtime.errors import PictureError
from psp_runtime.pictures.loading import load
from psp_runtime.pictures.values import NARROW

RAMP = np.tile(np.linspace(0, 1, 256), (256, 1))


def tiff(path: Path, values: np.ndarray, kind: int, bits: int, channels: int = 1) -> Path:
    """A TIFF of one strip; Pillow does not write these."""
    data = values.tobytes()
    height, width = values.shape[:2]
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1 if channels == 1 else 2)]
    tags += [(273, 4, 8), (277, 3, channels), (278, 4, height), (279, 4, len(data)), (339, 3, kind)]
    entries = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in sorted(tags))
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def grey(values: np.ndarray, top: int) -> np.ndarray:
    return (values.astype(np.int64) * 255 + top // 2) // top


def packed12(values: np.ndarray) -> np.ndarray:
    """Two values of 12 bits in three bytes, the high bits first."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).reshape(256, -1)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_fewer_bits_in_sixteen_are_noticed(tmp_path: Path, bits: int, name: str) -> None:
    values = np.round(RAMP * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    with pytest.warns(UserWarning, match=f"holds no value above {2**bits - 1}: it is read as one of {bits} bits"):
        pixels = load(tmp_path / name, "rgb")
    np.testing.assert_array_equal(pixels[..., 0], grey(values, 2**bits - 1))


def test_sixteen_bits_and_black_are_as_they_are(tmp_path: Path) -> None:
    for top in (65535, 40000, 16384, 0):
        values = np.round(RAMP * top).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "a.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(load(tmp_path / "a.png", "rgb")[..., 0], grey(values, 65535))


def test_signed_sixteen_bits_have_white_at_half(tmp_path: Path) -> None:
    values = np.round(RAMP * 32767).astype(np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = load(tiff(tmp_path / "a.tif", values, kind=2, bits=16), "rgb")
    np.testing.assert_array_equal(pixels[..., 0], grey(values, 32767))
    with pytest.warns(UserWarning, match=NARROW.partition("{")[0]):
        pixels = load(tiff(tmp_path / "a.tif", values // 8, kind=2, bits=16), "rgb")
    np.testing.assert_array_equal(pixels[..., 0], grey(values // 8, 4095))
    with pytest.raises(PictureError, match=r"grey values -1\.\.32767"):
        load(tiff(tmp_path / "a.tif", values - (values == 0), kind=2, bits=16), "rgb")


def test_packed_twelve_bits_say_so(tmp_path: Path) -> None:
    for top in (4095, 900):
        values = np.round(RAMP * top).astype(np.uint16)
        path = tiff(tmp_path / "a.tif", packed12(values), kind=1, bits=12)
        content = bytearray(path.read_bytes())
        place = content.rindex(struct.pack("<HHII", 256, 4, 1, 384))
        struct.pack_into("<I", content, place + 8, 256)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(load(path, "rgb")[..., 0], grey(values, 4095))


@pytest.mark.parametrize(
    ("dtype", "kind", "channels", "reason"),
    [
        (np.float32, 3, 1, "its values are floating point, save it with 8 or 16 bits"),
        (np.float32, 3, 3, "its values are floating point, save it with 8 or 16 bits"),
        (np.float64, 3, 3, "its values are floating point, save it with 8 or 16 bits"),
        (np.int16, 2, 3, "a TIFF file of 3 channels with 16 bits is not known, save it with 8 bits a channel"),
    ],
)
def test_tiffs_pillow_cannot_read_are_explained(
    tmp_path: Path, dtype: type, kind: int, channels: int, reason: str
) -> None:
    values = np.zeros((8, 8, channels), dtype)
    path = tiff(tmp_path / "a.tif", values, kind, values.itemsize * 8, channels)
    with pytest.raises(PictureError, match=f"a.tif: {reason}"):
        load(path, "rgb")
