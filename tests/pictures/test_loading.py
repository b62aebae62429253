import io
import os
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.encoding import FORMATS, save
from psp_runtime.pictures.loading import SQUEEZED, downsample, load, resize

GOLDEN = Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (200, 220, 3), np.uint8)


def reference(image: Image.Image) -> np.ndarray:
    """The reference's own preprocessing: convert, then resize to a square, bilinear."""
    return np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_rgb_is_the_references_bilinear_square(picture: Path) -> None:
    pixels = load(picture, "rgb")
    assert pixels.dtype == np.uint8 and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, reference(Image.fromarray(NOISE)))


def test_path_string_pil_and_array_agree(picture: Path) -> None:
    wanted = load(picture, "rgb")
    for same in (str(picture), Image.open(picture), NOISE):
        np.testing.assert_array_equal(load(same, "rgb"), wanted)


def test_jpeg_is_decoded_in_full(tmp_path: Path) -> None:
    large = Image.fromarray(NOISE).resize((2200, 2000))
    large.save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_array_equal(load(tmp_path / "a.jpg", "rgb"), reference(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_is_applied_once(tmp_path: Path, suffix: str) -> None:
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned 90 degrees clockwise
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.rot90(upright)).save(path, exif=exif)
    pixels = load(path, "rgb").astype(int)
    assert pixels[:100].min() > 200 and pixels[-100:].max() < 55
    np.testing.assert_array_equal(load(Image.open(path), "rgb"), pixels)


def test_a_callers_picture_is_left_alone() -> None:
    given = Image.fromarray(NOISE).convert("RGBA")
    given.getexif()[0x0112] = 6
    load(given, "rgb")
    assert given.size == (220, 200) and given.mode == "RGBA" and given.getexif()[0x0112] == 6


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = (200, 0, 0, 255)
    half = rgba.copy()
    half[..., 3] = 128
    for mode, pixels in (("RGBA", rgba), ("LA", rgba), ("half", half)):
        image = Image.fromarray(pixels)
        image.convert("LA" if mode == "LA" else "RGBA").save(tmp_path / f"{mode}.png")
    loaded = load(tmp_path / "RGBA.png", "rgb")
    assert tuple(loaded[0, 0]) == (200, 0, 0) and tuple(loaded[0, -1]) == (255, 255, 255)
    assert tuple(load(tmp_path / "LA.png", "rgb")[0, -1]) == (255, 255, 255)
    assert tuple(load(tmp_path / "half.png", "rgb")[0, -1]) == (127, 127, 127)
    assert load(tmp_path / "RGBA.png", "sketch")[0, -1] == 255
    np.testing.assert_array_equal(load(rgba, "rgb"), loaded)


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 8).reshape(2, 8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    image.save(tmp_path / "bytes.png", transparency=b"\xff\x00")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", SQUEEZED)
        plain, clear, by_bytes = (load(tmp_path / f"{name}.png", "rgb") for name in ("plain", "clear", "bytes"))
    assert tuple(plain[0, 0]) == (10, 20, 30) and tuple(plain[-1, 0]) == (40, 50, 60)
    for pixels in (clear, by_bytes):
        assert tuple(pixels[0, 0]) == (10, 20, 30) and tuple(pixels[-1, 0]) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]] * 4, np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        whole = load(tmp_path / name, "rgb", size=4)
        assert whole[0, :, 0].tolist() == [0, 1, 128, 255] and (whole == whole[..., :1]).all()


def test_transparent_sixteen_bit_grey_is_white(tmp_path: Path) -> None:
    values = np.full((256, 256), 30000, np.uint16)
    values[:, :128] = 500
    Image.fromarray(values).save(tmp_path / "a.png", transparency=500)
    pixels = load(tmp_path / "a.png", "rgb")
    assert (pixels[:, :127] == 255).all() and (pixels[:, 129:] == 117).all()


def test_premultiplied_pictures_are_laid_on_white() -> None:
    image = Image.new("RGBA", (256, 256), (200, 0, 0, 128))
    np.testing.assert_array_equal(load(image.convert("RGBa"), "rgb"), load(image, "rgb"))


def test_32_bit_and_floating_point_grey_are_refused_with_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "int.tif")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(PictureError, match="70000"):
        load(tmp_path / "int.tif", "rgb")
    with pytest.raises(PictureError, match="floating point"):
        load(tmp_path / "float.tif", "rgb")


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV"])
def test_other_modes_look_like_their_rgb(mode: str) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    np.testing.assert_array_equal(load(image, "rgb"), reference(image))


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (255, 255, 255)).convert("CMYK").save(tmp_path / "a.jpg")
    assert load(tmp_path / "a.jpg", "rgb").min() > 250


def test_one_pixel_is_upscaled() -> None:
    pixels = load(np.full((1, 1, 3), 77, np.uint8), "rgb")
    assert pixels.shape == (256, 256, 3) and (pixels == 77).all()


def test_sketch_is_grey_with_a_channel_axis(picture: Path) -> None:
    with pytest.warns(UserWarning, match="in colours is read as a pencil sketch"):
        pixels = load(picture, "sketch")
    wanted = Image.fromarray(NOISE).convert("L").resize((256, 256), Image.Resampling.BILINEAR)
    assert pixels.shape == (256, 256, 1)
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(wanted))


def test_programs_are_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would give PostScript to Ghostscript, whatever the file is called."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("was run"))
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(PictureError, match="not a picture of a known format"):
        load(tmp_path / "a.png", "rgb")


def test_strongly_non_square_pictures_warn() -> None:
    with pytest.warns(UserWarning, match="squeezed"):
        load(np.zeros((100, 151, 3), np.uint8), "rgb")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(np.zeros((100, 150, 3), np.uint8), "rgb")


def huge_png(width: int, height: int) -> bytes:
    """The first bytes of a PNG of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a picture"),
        (b"just some text\n", "not a picture"),
        (encoded("PNG")[:20000], "truncated"),
        (encoded("JPEG")[:8000], "truncated"),
        (encoded("WEBP")[:5000], "cannot read"),
        (encoded("BMP")[:5000], "truncated"),
        (encoded("TIFF")[:5000], "cannot read"),
        (encoded("GIF")[:5000], "cannot read"),
        (encoded("PNG")[:40], "cannot read"),
        (huge_png(30000, 30000), "too large"),
    ],
    ids=["empty", "text", "png", "jpeg", "webp", "bmp", "tiff", "gif", "png-head", "bomb"],
)
def test_damaged_pictures_are_one_line_errors(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(PictureError, match=reason) as caught:
        load(tmp_path / "bad.png", "rgb")
    assert str(caught.value).startswith(f"cannot read {tmp_path / 'bad.png'}: ")
    assert "\n" not in str(caught.value)


def test_the_size_limit_does_not_hang_on_pillows_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(huge_png(30000, 30000))
    with pytest.raises(
        PictureError, match=r"30000x30000 is too large, reading such a PNG picture takes 3\.7 GB: scale it down"
    ):
        load(tmp_path / "bomb.png", "rgb")


def test_large_pictures_below_the_limit_are_no_reason_to_warn(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(huge_png(12000, 12000))  # Pillow warns at 144 megapixels; the rest is cut off
    code = f"""
from psp_runtime import PictureError
from psp_runtime.pictures.loading import load
try:
    load({str(tmp_path / "large.png")!r}, "rgb")
except PictureError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "large.png: " in done.stdout and done.stderr == ""


def test_running_out_of_memory_is_a_picture_error(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", exhausted)
    with pytest.raises(PictureError, match="MemoryError"):
        load(picture, "rgb")


def test_missing_folder_and_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PictureError, match=r"none\.png: No such file"):
        load(tmp_path / "none.png", "rgb")
    with pytest.raises(PictureError, match="Is a directory"):
        load(tmp_path, "rgb")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(PictureError, match=r"a\.png: Permission denied"):
        load(tmp_path / "a.png", "rgb")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_of_another_kind_are_named(array: np.ndarray) -> None:
    with pytest.raises(PictureError, match=str(array.dtype)):
        load(array, "rgb")


@pytest.mark.parametrize("suffix", FORMATS)
def test_save_follows_the_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix.upper()}"
    save(NOISE, path)
    with Image.open(path) as image:
        assert image.format == FORMATS[suffix]
        if suffix not in (".jpg", ".jpeg", ".webp"):
            np.testing.assert_array_equal(np.asarray(image), NOISE)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_quality_and_level_trade_size(tmp_path: Path) -> None:
    smooth = np.array(Image.fromarray(NOISE[:8, :8]).resize((256, 256), Image.Resampling.BICUBIC))
    for name, small, large in (
        ("a.jpg", {"quality": 30}, {}),
        ("a.webp", {"quality": 30}, {}),
        ("a.png", {}, {"level": 0}),
    ):
        sizes = []
        for options in (small, large):
            save(smooth, tmp_path / name, **options)
            sizes.append((tmp_path / name).stat().st_size)
        assert sizes[0] < 0.8 * sizes[1], name


def test_grey_pictures_are_saved_too(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.bmp"):
        save(NOISE[..., 0], tmp_path / name)
        assert Image.open(tmp_path / name).mode == "L"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), NOISE[..., 0])


def test_save_refuses_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(PspError, match=r"out\.xyz: its name must end in one of \.png, \.jpg"):
        save(NOISE, tmp_path / "out.xyz")


def test_saved_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    save(NOISE, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"earlier")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((PspError, KeyboardInterrupt)) as caught:
        save(NOISE, path)
    if isinstance(failure, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == b"earlier" and [entry.name for entry in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    # The temporary name is known: let it lead to a device that is always full.
    temporary = tmp_path / f".{os.getpid()}-{threading.get_ident()}.tmp"
    temporary.symlink_to("/dev/full")
    with pytest.raises(PspError, match=r"out\.png: No space left on device"):
        save(NOISE, tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_saving_below_a_file_is_an_error(picture: Path) -> None:
    with pytest.raises(PspError, match="Not a directory"):
        save(NOISE, picture / "out.png")


def test_resize_is_lanczos() -> None:
    wanted = Image.fromarray(NOISE).resize((50, 50), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(resize(NOISE, 50), np.asarray(wanted))


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_downsample_is_the_references(factor):
    with np.load(GOLDEN / "super_resolution_inputs.npz") as expected:
        picture = np.asarray(Image.open(GOLDEN / "picture_256.png").convert("RGB"))
        assert np.array_equal(downsample(picture, factor), expected[f"x{factor}"])
