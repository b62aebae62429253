"""Label maps as files: every id as stored, whatever the format."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psp_runtime.errors import PictureError
from psp_runtime.pictures.loading import LABELLED, LOSSY_LABELS, load

RNG = np.random.default_rng(0)


def test_labels_keep_their_ids_in_every_form(tmp_path: Path) -> None:
    ids = RNG.integers(0, 19, (300, 300), np.uint8)
    palette = Image.fromarray(ids, "P")
    palette.putpalette(list(RNG.integers(0, 256, 57, np.uint8)))
    palette.save(tmp_path / "p.png")
    Image.fromarray(ids).save(tmp_path / "l.png")
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "i16.png")
    Image.fromarray(ids.astype(np.int32)).save(tmp_path / "i32.tif")
    Image.fromarray(np.repeat(ids[..., None], 3, 2)).save(tmp_path / "rgb.png")
    Image.fromarray(ids).convert("RGBA").save(tmp_path / "rgba.png")
    wanted = np.asarray(Image.fromarray(ids).resize((256, 256), Image.Resampling.NEAREST))
    for name in ("p.png", "l.png", "i16.png", "i32.tif", "rgb.png", "rgba.png"):
        loaded = load(tmp_path / name, "labels")
        assert loaded.shape == (256, 256) and loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, wanted, err_msg=name)


def grey_png(ids: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits, which Pillow does not write."""
    steps = np.arange(8 // bits - 1, -1, -1) * bits
    rows = (ids.reshape(len(ids), -1, 8 // bits) << steps).sum(-1).astype(np.uint8)
    header = struct.pack(">IIBBBBB", ids.shape[1], len(ids), bits, 0, 0, 0, 0)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ids_of_few_bits_are_not_stretched(tmp_path: Path, bits: int) -> None:
    ids = RNG.integers(0, min(2**bits, 19), (256, 256), np.uint8)
    (tmp_path / "a.png").write_bytes(grey_png(ids, bits))
    np.testing.assert_array_equal(load(tmp_path / "a.png", "labels"), ids)
    stretched = ids * np.uint8(255 // (2**bits - 1))  # a picture is
    np.testing.assert_array_equal(load(tmp_path / "a.png", "sketch")[..., 0], stretched)


def test_ids_of_few_bits_opened_by_the_caller(tmp_path: Path) -> None:
    ids = RNG.integers(0, 16, (256, 256), np.uint8)
    (tmp_path / "a.png").write_bytes(grey_png(ids, 4))
    np.testing.assert_array_equal(load(Image.open(tmp_path / "a.png"), "labels"), ids)
    (tmp_path / "a.ppm").write_bytes(b"P6 256 256 18\n" + np.repeat(ids[..., None], 3, 2).tobytes())
    np.testing.assert_array_equal(load(tmp_path / "a.ppm", "labels"), ids)


@pytest.mark.parametrize("top", [18, 31, 255, 300, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_ids_of_a_pgm_are_not_stretched(tmp_path: Path, top: int, plain: bool) -> None:
    ids = RNG.integers(0, 19, (256, 256), np.uint8)
    values = " ".join(map(str, ids.ravel())).encode() if plain else ids.astype(">u2" if top > 255 else "u1").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P%d 256 256 %d\n" % (2 if plain else 5, top) + values)
    np.testing.assert_array_equal(load(tmp_path / "a.pgm", "labels"), ids)


@pytest.mark.parametrize(("suffix", "warned"), [("jpg", 1), ("webp", 1), ("png", 0), ("bmp", 0), ("tiff", 0)])
@pytest.mark.parametrize("opened", [True, False])
def test_formats_that_change_ids_are_warned_about(tmp_path: Path, suffix: str, warned: int, opened: bool) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.full((256, 256), 7, np.uint8)).save(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(Image.open(path) if opened else path, "labels")
    assert [str(warning.message) for warning in caught] == warned * [LOSSY_LABELS]


@pytest.mark.parametrize(
    ("pixels", "mode", "warned"),
    [
        (RNG.integers(0, 19, (64, 64), np.uint8), "L", 1),
        (RNG.integers(0, 19, (64, 64), np.uint8), "P", 1),
        (RNG.integers(0, 20, (64, 64), np.uint8), "L", 0),  # a dark picture
        (RNG.integers(0, 256, (64, 64), np.uint8), "L", 0),
        (np.zeros((64, 64), np.uint8), "L", 0),  # black all over
        (RNG.integers(0, 19, (64, 64, 3), np.uint8), "RGB", 0),
    ],
)
def test_label_maps_given_as_pictures_are_warned_about(pixels: np.ndarray, mode: str, warned: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(Image.fromarray(pixels, mode), "rgb")
    assert [str(warning.message) for warning in caught] == warned * [LABELLED]


def test_one_bit_labels_are_zero_and_one() -> None:
    ids = np.eye(256, dtype=np.uint8)
    np.testing.assert_array_equal(load(Image.fromarray(ids * 255).convert("1"), "labels"), ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unknown_class_is_named_with_its_place(tmp_path: Path, dtype: type) -> None:
    ids = np.zeros((300, 280), dtype)
    ids[7, 5] = 30
    ids[9, 1] = 250
    Image.fromarray(ids).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match=r"a\.png has class id 30 at \(x=5, y=7\), this engine knows 0\.\.18"):
        load(tmp_path / "a.png", "labels")
    assert load(tmp_path / "a.png", "labels", classes=251).max() <= 250


def test_ids_beyond_a_byte_do_not_wrap_around() -> None:
    with pytest.raises(PictureError, match="class id 256"):
        load(Image.fromarray(np.full((256, 256), 256, np.uint16)), "labels")


def test_colour_and_float_pictures_are_no_label_maps() -> None:
    with pytest.raises(PictureError, match="colour picture, expected a label map"):
        load(RNG.integers(0, 256, (64, 64, 3), np.uint8), "labels")
    with pytest.raises(PictureError, match="CMYK picture, expected a label map"):
        load(Image.new("CMYK", (4, 4)), "labels")
    with pytest.raises(PictureError, match="F picture, expected a label map"):
        load(Image.new("F", (4, 4)), "labels")
