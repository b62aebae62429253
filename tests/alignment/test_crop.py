"""The FFHQ crop against the reference's: quads, pictures, and the way back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from psp_runtime import alignment
from psp_runtime.alignment.padding import _median, gaussian, padded
from psp_runtime.errors import PictureError

GOLDEN = Path(__file__).parents[1] / "golden" / "align"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "cases.json").read_text())


def picture(name: str) -> Image.Image:
    with Image.open(GOLDEN / f"{name}.webp") as opened:
        return opened.convert("RGB")


def test_quads_are_those_of_the_reference() -> None:
    with np.load(GOLDEN / "quads.npz") as table:
        found = [alignment.quad(*points) for points in table["points"]]
        assert len(found) == 200
        np.testing.assert_allclose(found, table["quads"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_crops_are_those_of_the_reference(name: str) -> None:
    case = CASES[name]
    crop = alignment.crop(picture(name), case["quad"], case["output_size"], case["transform_size"])
    difference = np.abs(np.asarray(crop.picture, np.int16) - np.asarray(picture(f"{name}.aligned"), np.int16))
    assert difference.max() <= 1 and np.mean(difference > 0) <= 1e-4
    back = crop.to_crop(case["output_size"])
    there = np.array(case["photo_positions"]) @ back[:, :2].T + back[:, 2]
    np.testing.assert_allclose(there, case["crop_positions"], rtol=0, atol=1e-6)


def test_a_grey_picture_is_cropped_too() -> None:
    case = CASES["corner"]
    grey = picture("corner").convert("L")
    found = alignment.crop(grey, case["quad"], 64).picture
    assert found.mode == "RGB" and np.ptp(np.asarray(found), axis=2).max() == 0


@pytest.mark.parametrize("quad", [[[0, 0], [0, 9]], np.full((4, 2), np.nan), np.zeros((4, 2))])
def test_what_is_no_quad(quad: Any) -> None:
    with pytest.raises(PictureError, match="four corners"):
        alignment.crop(picture("tiny"), quad, 64)


def test_a_quad_outside_of_the_picture() -> None:
    with pytest.raises(PictureError, match="outside of the picture"):
        alignment.crop(picture("tiny"), CASES["tiny"]["quad"] + np.float64(5000), 64)


@pytest.mark.parametrize("side", [100.0, 500.0, 1000.0])  # blurred at every pixel, every second and every fourth one
@pytest.mark.parametrize("pad", [(9, 9, 9, 9), (200, 30, 40, 1)])
def test_padding_against_its_formula(pad: tuple[int, int, int, int], side: float) -> None:
    """In float64, blurred as a sum over the kernel; also where the pad is wider than the picture."""
    pixels = np.random.default_rng(1).integers(0, 256, (60, 75, 2), np.uint8)
    found, sigma = padded(pixels, np.array(pad), side), 0.02 * side
    assert gaussian(sigma).step == max(side // 250, 1)
    left, top, right, bottom = pad
    x = np.pad(pixels.astype(np.float64), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = x.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    depth = np.maximum(
        1 - np.minimum(columns / left, (width - 1 - columns) / right),
        1 - np.minimum(rows / top, (height - 1 - rows) / bottom),
    )[..., None]
    blurred = x
    reach = round(4 * sigma)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    for axis in (0, 1):
        around = [(reach, reach) if one == axis else (0, 0) for one in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(blurred, around, "symmetric"), len(taps), axis)
        blurred = windows @ (taps / taps.sum())
    x = x + (blurred - x) * np.clip(3 * depth + 1, 0, 1)
    x = x + (np.median(x, axis=(0, 1)) - x) * np.clip(depth, 0, 1)
    difference = np.abs(found - np.rint(x).clip(0, 255))
    assert difference.max() <= 1 and np.mean(difference > 0) <= 2e-4


@pytest.mark.parametrize("count", [7, 8])
def test_the_median(count: int) -> None:
    values = np.random.default_rng(count).random((3, count), np.float32)
    assert _median(values) == np.median(values)
