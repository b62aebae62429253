"""Pencil sketches of photos: where lines are and where not, and folders of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.sketching import sketch
from psp_train.data.sketches import make_sketches
from psp_train.drawn import draw, sample

PAPER = 255


def halves(left, right, size=256):
    """A picture whose left half has one colour and whose right half has another."""
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:, : size // 2], pixels[:, size // 2 :] = left, right
    return pixels


@pytest.mark.parametrize("level", [128, 200, 255])
@pytest.mark.parametrize("shape", [(256, 256), (1, 1), (1, 40), (300, 60), (700, 900)])
def test_nothing_to_draw_is_paper(shape, level):
    drawn = sketch(np.full((*shape, 3), level, np.uint8))
    assert drawn.shape == shape and drawn.dtype == np.uint8
    assert drawn.min() == PAPER


def test_black_is_shaded_not_black():
    assert np.unique(sketch(np.zeros((256, 256, 3), np.uint8))).tolist() == [178]  # 255.5 * (1 - SHADE)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((250, 240, 230), (140, 140, 140)),  # brightness
        ((255, 130, 140), (120, 190, 200)),  # colour alone: both have a brightness of about 169
    ],
)
def test_a_contour_is_one_thin_line(left, right):
    row = sketch(halves(left, right))[100].astype(int)
    inked = np.flatnonzero(row < 200)
    assert 2 <= len(inked) <= 6
    assert np.array_equal(inked, np.arange(inked[0], inked[-1] + 1))
    assert abs(inked.mean() - 127.5) < 3
    assert row.min() < 110 and row[:110].min() == row[146:].min() == PAPER


def test_a_line_stays_where_it_is_in_an_enlargement():
    def line(size):
        return np.flatnonzero(sketch(halves((250,) * 3, (150,) * 3, size))[size // 3] < 180) / size

    small, large, huge = line(256), line(512), line(1024)
    assert abs(small.mean() - large.mean()) < 0.005 and abs(large.mean() - huge.mean()) < 0.005
    assert huge[-1] - huge[0] < 8 / 256


def test_noise_draws_nothing():
    noise = np.random.default_rng(0).normal(200, 3, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    drawn = sketch(noise)
    assert drawn.mean() > 250 and (drawn < 200).mean() < 0.001


def test_sketches_of_drawn_faces_are_like_their_drawn_sketches():
    agreement, wrong = [], []
    for vector in sample(8, seed=5):
        face = draw(vector)
        ours, theirs = (a.astype(float) for a in (sketch(face.image), face.sketch))
        agreement.append(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])
        wrong.append(np.abs(ours - theirs).mean())
    assert min(agreement) > 0.7 and np.mean(agreement) > 0.78
    assert np.mean(wrong) < 13


def test_the_same_photo_gives_the_same_sketch_and_is_left_alone():
    photo = draw(sample(1, seed=6)[0]).image
    before = photo.copy()
    assert np.array_equal(sketch(photo), sketch(photo[:, ::-1][:, ::-1]))
    assert np.array_equal(photo, before)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8)],
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(PictureError, match=r"a photo must be uint8 \[H,W,3\], given") as error:
        sketch(pixels)
    assert "\n" not in str(error.value)


# ---- Folders --------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Two photos, one of them in a sub-folder."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for index, name in enumerate(("a.jpg", "more/b.png")):
        Image.fromarray(draw(sample(2, seed=7)[index]).image).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_keeps_its_shape(photos, tmp_path, capsys):
    target = tmp_path / "made" / "sketches"
    assert make_sketches(photos, target) == []
    assert files(target) == ["a.png", "more/b.png"]
    drawn = np.asarray(Image.open(target / "more" / "b.png"))
    expected = sketch(np.asarray(Image.open(photos / "more" / "b.png")))
    assert np.array_equal(drawn, expected)
    assert f"sketches made: 2, already there: 0, in {target}" in capsys.readouterr().out


def test_only_what_is_new_is_sketched_again(photos, tmp_path, capsys):
    target = tmp_path / "sketches"
    make_sketches(photos, target)
    before = (target / "a.png").stat().st_mtime_ns
    later = (target / "more" / "b.png").stat().st_mtime_ns + 10**9
    os.utime(photos / "more" / "b.png", ns=(later, later))
    capsys.readouterr()
    make_sketches(photos, target)
    assert "sketches made: 1, already there: 1" in capsys.readouterr().out
    assert (target / "a.png").stat().st_mtime_ns == before


def test_sketches_below_the_photos_are_no_photos(photos):
    for _ in range(2):
        assert make_sketches(photos, photos / "sketches") == []
    assert files(photos) == ["a.jpg", "more/b.png", "sketches/a.png", "sketches/more/b.png"]


def test_unreadable_photos_are_skipped_and_named(photos, tmp_path, capsys):
    (photos / "cut.png").write_bytes((photos / "more" / "b.png").read_bytes()[:500])
    (photos / "more" / "empty.jpg").touch()
    unread = make_sketches(photos, tmp_path / "out")
    assert unread == [photos / "cut.png", photos / "more" / "empty.jpg"]
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "cut.png" in errors[0] and "empty.jpg" in errors[1]
    assert files(tmp_path / "out") == ["a.png", "more/b.png"]


def test_a_failed_write_leaves_no_half_sketch(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PspError, match="cannot write .*No space left on device"):
        make_sketches(photos, tmp_path / "out")
    assert files(tmp_path / "out") == []


def copy(photos, name):
    (photos / name).write_bytes((photos / "a.jpg").read_bytes())
    return photos


MISTAKES = {
    "missing": (lambda p, t: (p / "nowhere", t), "no folder"),
    "empty": (lambda p, t: (t.parent / "void", t), "no pictures in"),
    "same": (lambda p, t: (p, p), "the sketches would go among the photos"),
    "only our own": (lambda p, t: (p, p / "more") if (p / "a.jpg").unlink() is None else None, "besides those in"),
    "a file": (lambda p, t: (p, p / "a.jpg"), "is a file, expected a folder"),
    "one name": (lambda p, t: (copy(p, "a.webp"), t), "would both become .*a.png: rename one"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(photos, tmp_path, case):
    (tmp_path / "void").mkdir()
    arguments, said = MISTAKES[case]
    source, target = arguments(photos, tmp_path / "out")
    before = files(tmp_path)
    with pytest.raises(PspError, match=said) as error:
        make_sketches(source, target)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == before


def test_a_photo_is_never_replaced(photos):
    """The photos are below the target, and one of them has the name a sketch would get."""
    inner = photos / "more"
    (inner / "more").mkdir()
    copy(photos, "more/more/b.jpg")
    with pytest.raises(PspError, match="would replace the photo"):
        make_sketches(inner, photos)
    assert files(photos) == ["a.jpg", "more/b.png", "more/more/b.jpg"]


def test_the_runtime_part_needs_no_torch():
    code = "import sys, psp_runtime.pictures.sketching; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
