"""What is pasted back lies where it was cut out, and nothing else changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from psp_runtime import alignment
from psp_runtime.alignment import pasting
from psp_runtime.alignment.pasting import MASKS, Mask
from psp_runtime.errors import PspError
from psp_train.drawn.samples import draw_scene

GOLDEN = Path(__file__).parents[1] / "golden" / "align"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "cases.json").read_text())


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(draw_scene(1, 1024))


@pytest.fixture(scope="module")
def faces(scene: Image.Image) -> list[alignment.Face]:
    return alignment.find(scene)


def outside(crop: alignment.Crop, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a photo whose middle is not within the crop, bool [H,W]."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    found = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(crop.corners, np.roll(crop.corners, -1, axis=0)):
        found |= (x - x0) * (y1 - y0) - (y - y0) * (x1 - x0) < 0
    return found


def share(scene: Image.Image, crop: alignment.Crop, mask: Mask) -> np.ndarray:
    """How much of a made picture is taken, 0..1 [H,W]: white on black."""
    made = Image.new("RGB", (256, 256), "white")
    return np.asarray(alignment.paste(Image.new("RGB", scene.size), crop, made, mask))[..., 0] / 255


@pytest.mark.parametrize("mask", MASKS)
def test_an_unchanged_crop_changes_hardly_anything(scene: Image.Image, faces: list[alignment.Face], mask: Mask) -> None:
    photo = np.asarray(scene)
    for face in (faces[0], faces[2]):  # the other one at the border
        crop = alignment.crop(scene, face, 1024)
        found = np.asarray(alignment.paste(scene, crop, crop.picture, mask))
        np.testing.assert_array_equal(found[outside(crop, scene.size)], photo[outside(crop, scene.size)])
        inside = share(scene, crop, mask) > 0
        error = np.mean((found[inside].astype(np.float64) - photo[inside]) ** 2)
        assert 10 * np.log10(255**2 / error) >= 44


def test_another_face_stays_within_its_square(scene: Image.Image, faces: list[alignment.Face]) -> None:
    for mask in MASKS:
        crop = alignment.crop(scene, faces[0], 256)
        found = alignment.paste(scene, crop, Image.new("RGB", (64, 64), "red"), mask)
        change = np.abs(np.asarray(found, np.int16) - np.asarray(scene)).max(-1)
        assert not change[outside(crop, scene.size)].any()
        middle = faces[0].points.mean(0).round().astype(int)
        assert found.getpixel((int(middle[0]), int(middle[1]))) == (255, 0, 0)


def test_the_mask_is_the_face_with_its_forehead(scene: Image.Image, faces: list[alignment.Face]) -> None:
    face = faces[0]
    taken = share(scene, alignment.crop(scene, face, 256), "face")
    inner = face.points[[33, 263, 61, 291, 4, 10]].round().astype(int)  # eyes, mouth, nose, forehead
    assert taken[inner[:, 1], inner[:, 0]].min() > 0.9
    above = (face.points[10] + 0.12 * (face.points[10] - face.points[152])).round().astype(int)
    assert taken[above[1], above[0]] > 0.4
    corners = (face.quad.mean(0) + 0.8 * (face.quad - face.quad.mean(0))).round().astype(int)
    assert taken[corners[:, 1].clip(0, 1023), corners[:, 0].clip(0, scene.width - 1)].max() == 0


@pytest.mark.parametrize("name", sorted(set(CASES) - {"corner"}))  # of which the photo has next to nothing
def test_places_of_the_crop_come_back_to_places_of_the_photo(name: str) -> None:
    """The made picture says at each place where it is: x in red, y in green, by the reference's pairs of places."""
    case = CASES[name]
    size = case["output_size"]
    with Image.open(GOLDEN / f"{name}.webp") as opened:
        photo = opened.convert("RGB")
    crop = alignment.crop(photo, case["quad"], size, case["transform_size"])
    ramp = (np.arange(512) + 0.5) / 512 * 255
    made = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], 0 * ramp[None]), -1).round().astype(np.uint8)
    found = np.asarray(alignment.paste(photo, crop, Image.fromarray(made), "square"), np.float64)
    pairs = zip(np.array(case["photo_positions"]), np.array(case["crop_positions"]) / size)
    inner = [pair for pair in pairs if pair[1].min() > 0.15 and pair[1].max() < 0.85]
    seen = 0
    for (x, y), place in inner:
        left, top, right, bottom = (max(width, 1) for width in crop.blurred)
        if left < x < photo.width - right and top < y < photo.height - bottom:
            left, top = int(x - 0.5), int(y - 0.5)
            across, down = x - 0.5 - left, y - 0.5 - top
            around = found[top : top + 2, left : left + 2, :2]
            value = np.einsum("yxc,y,x->c", around, [1 - down, down], [1 - across, across])
            np.testing.assert_allclose(value / 255, place, rtol=0, atol=0.008)
            seen += 1
    assert seen >= 2


def test_the_bands_of_a_large_photo_meet(
    scene: Image.Image, faces: list[alignment.Face], monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = alignment.crop(scene, faces[1], 256)
    made = crop.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    whole = alignment.paste(scene, crop, made)
    monkeypatch.setattr(pasting, "_BAND", 9999)
    np.testing.assert_array_equal(alignment.paste(scene, crop, made), whole)


def test_masks_that_are_not_there(scene: Image.Image, faces: list[alignment.Face]) -> None:
    crop = alignment.crop(scene, faces[0].quad, 64)
    with pytest.raises(PspError, match="made of a square alone"):
        alignment.paste(scene, crop, crop.picture)
    with pytest.raises(PspError, match="mask 'oval': expected one of face, square"):
        alignment.paste(scene, crop, crop.picture, "oval")  # type: ignore[arg-type]
