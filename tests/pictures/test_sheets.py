"""Contact sheets and animations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures import sheets
from psp_runtime.pictures.encoding import save


@pytest.mark.parametrize(("count", "cells", "groups"), [(1, 2, 1), (8, 2, 2), (50, 2, 5), (3, 8, 1), (4, 1, 2)])
def test_sheets_are_about_square(tmp_path: Path, count: int, cells: int, groups: int) -> None:
    sheet = sheets.Sheet(tmp_path / "s.png", count, cells, 10)
    for index in range(count):
        sheet.add([np.full((20, 20, 3), index, np.uint8)] * cells)
    picture = sheet.draw()
    assert sheet.groups == groups and picture.shape[1] == groups * cells * 14 + 4
    last = divmod(count - 1, groups)
    assert (picture[4 + last[0] * 14, 4 + last[1] * cells * 14] == count - 1).all()
    assert (picture[0] == 255).all()


def test_every_frame_of_a_webp_is_as_good(tmp_path: Path) -> None:
    """A slow sweep: frames stored as changes fall behind by 5 dB within four of them."""
    y, x = np.mgrid[:256, :256] / 255
    frames = [80 + 100 * np.stack([x, y, np.sin(6 * x * y + step / 8) / 2 + 0.5], -1) for step in range(6)]
    frames = np.array(frames).astype(np.uint8)
    sheets.animate(frames, tmp_path / "m.webp")
    errors = []
    with Image.open(tmp_path / "m.webp") as animation:
        for index, frame in enumerate(frames):
            animation.seek(index)
            errors.append(np.square(np.asarray(animation.convert("RGB")) - frame.astype(float)).mean())
    assert max(errors) < 1.5 * errors[0]


@pytest.mark.parametrize(("name", "width"), [("m.gif", 65536), ("m.webp", 16384)])
def test_frames_too_wide_for_their_format(tmp_path: Path, name: str, width: int) -> None:
    with pytest.raises(PictureError, match=f"m.* {width}x1, a .* at most {width - 1} pixels a side: give a --size"):
        sheets.animate([np.zeros((1, width, 3), np.uint8)] * 2, tmp_path / name)
    assert not list(tmp_path.iterdir())
    sheets.animate([np.zeros((1, width - 1, 3), np.uint8)] * 2, tmp_path / name)


def test_a_webp_of_too_much_detail(tmp_path: Path) -> None:
    """libwebp's error 6: the first partition of the file is full (RFC 6386, section 9.1: 19 bits for its size)."""
    blocks = np.random.default_rng(0).integers(0, 256, (625, 625, 3), np.uint8)
    picture = Image.fromarray(blocks).resize((5000, 5000))
    with pytest.raises(PictureError, match="a.webp: 5000x5000 is too large for WebP at this quality .*: give a --size"):
        save(picture, tmp_path / "a.webp")


def test_a_jpeg_too_high_leaves_the_earlier_file(tmp_path: Path) -> None:
    save(np.zeros((65500, 1, 3), np.uint8), tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(PictureError, match="a.jpg: 1x65501, a JPEG picture has at most 65500 pixels a side"):
        save(np.zeros((65501, 1, 3), np.uint8), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == before


def test_sheets_too_large_for_their_format(tmp_path: Path) -> None:
    with pytest.raises(PspError, match="too large for one WEBP picture: give fewer inputs"):
        sheets.Sheet(tmp_path / "s.webp", 4000, 2)
    with pytest.raises(PspError, match="too large for one PNG"):
        sheets.Sheet(tmp_path / "s.png", 4000, 2)
    sheets.Sheet(tmp_path / "s.png", 4000, 2, 64)


def test_notes_are_for_pngs_only(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("a.png", "a.jpg", "a.webp"):
        save(picture, tmp_path / name, '{"seed": 1}')
    assert Image.open(tmp_path / "a.png").text == {"psp": '{"seed": 1}'}
    np.testing.assert_array_equal(Image.open(tmp_path / "a.png"), picture)
