"""psp align: a folder of photos becomes aligned crops and a table of them."""

import csv
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun, runner
from PIL import Image, ImageCms

from psp_runtime import alignment
from psp_runtime.run.align_photos import CORNERS, TABLE
from psp_train.drawn.samples import draw_scene


@cache
def drawn_scene() -> Image.Image:
    """A photo of four people, which no test changes."""
    return Image.fromarray(draw_scene(1, 360))


@pytest.fixture
def psp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys, "psp")


@pytest.fixture
def photos(psp: PspRun) -> Path:
    """A folder with a scene of four, turned by EXIF, and a photo of nobody."""
    folder = Path("photos")
    folder.mkdir()
    scene = drawn_scene()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    scene.transpose(Image.Transpose.ROTATE_90).save(folder / "scene.png", exif=exif, icc_profile=profile)
    Image.new("RGB", (300, 200), "pink").save(folder / "nobody.jpg")
    return folder


def rows() -> list[dict[str, str]]:
    with (Path("aligned") / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_crops_and_their_table(psp: PspRun, photos: Path) -> None:
    code, out, err = psp("align", "photos/", "aligned/", "--size", 128, "--faces", "all")
    assert code == 1 and out.startswith("4 faces of 2 photos in ") and err.count("error: ") == 2
    assert "photos/nobody.jpg: no face found" in err and "1 of 2 photos could not be used" in err
    nobody, *found = rows()
    assert (nobody["file"], nobody["face"], nobody["crop"]) == ("photos/nobody.jpg", "0", "")
    scene = drawn_scene()
    for face, row in zip(alignment.find(scene), found, strict=True):
        np.testing.assert_allclose([float(row[name]) for name in CORNERS], face.quad.ravel(), atol=1e-3)
        assert float(row["size"]) == pytest.approx(face.size, abs=0.01)
        with Image.open(Path("aligned") / row["crop"]) as crop:
            assert crop.size == (128, 128) and crop.info["icc_profile"]
            np.testing.assert_array_equal(crop, alignment.crop(scene, face, 128, 512).picture)


def test_faces_are_counted_from_the_largest(psp: PspRun, photos: Path) -> None:
    psp("align", "photos/", "aligned/", "--size", 64, "--faces", "2nd")
    nobody, second = rows()
    assert (nobody["face"], second["face"], second["crop"]) == ("0", "2", "scene.png")
    faces = alignment.find(drawn_scene())
    assert float(second["x0"]) == pytest.approx(faces[1].quad[0][0], abs=1e-3)


def test_it_goes_on_where_it_ended(psp: PspRun, photos: Path) -> None:
    command = ("align", "photos", "aligned", "--size", 64, "--faces", 2)
    assert psp(*command)[0] == 1
    code, out, err = psp(*command)
    assert (code, err) == (0, "") and "0 faces of 0 photos" in out and ", 2 done before" in out
    with (Path("aligned") / TABLE).open("a") as table:
        table.write("photos/half")  # of a run that was killed
    (Path("aligned") / "scene_face2.png").unlink()
    draw = draw_scene(2, 240)
    Image.fromarray(draw).save(photos / "nobody.jpg")
    code, out, err = psp(*command)
    assert (code, err) == (0, "") and out.startswith("4 faces of 2 photos")
    assert psp(*command)[1].startswith("0 faces of 0 photos")
    assert psp("align", "photos", "aligned", "--size", 64, "--faces", 1)[1].startswith("2 faces of 2 photos")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text(psp: PspRun, photos: Path) -> None:
    name = os.fsdecode(b"\xff\n.png")
    (photos / "scene.png").rename(photos / name)
    (photos / "nobody.jpg").unlink()
    code, out, err = psp("align", "photos", "aligned", "--size", 64, "--faces", 2)
    assert (code, err) == (0, "") and out.startswith("2 faces of 1 photos")
    assert all((Path("aligned") / f"{name[:-4]}_face{n}.png").is_file() for n in (1, 2))
    assert ", 1 done before" in psp("align", "photos", "aligned", "--size", 64, "--faces", 2)[1]


def test_what_is_aligned_already_stays_as_it_is(psp: PspRun) -> None:
    scene = drawn_scene()
    crop = alignment.crop(scene, alignment.find(scene, most=1)[0], 200).picture
    crop.save("face.png")
    assert psp("align", "face.png", "aligned", "--size", 200)[0] == 0
    with Image.open("aligned/face.png") as found:
        np.testing.assert_array_equal(found, crop)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("nothing", "aligned"), "no such file|cannot read"),
        (("photos", "photos"), "is an input too"),
        (("photos", "aligned", "--faces", "two"), "--faces two: expected largest, all"),
        (("photos", "aligned", "--scale", 9), "--scale 9: expected 0.2 to 5"),
        (("photos/nobody.jpg", "aligned"), "no face found"),
    ],
)
def test_mistakes(psp: PspRun, photos: Path, options: tuple[object, ...], words: str) -> None:
    import re

    Image.new("RGB", (64, 64)).save(photos / "scene.png")
    code, out, err = psp("align", *options)
    assert (code, out) == (2, "") and err.count("\n") == 1 and re.search(words, err), err
    assert not any(Path("aligned").glob("*"))
