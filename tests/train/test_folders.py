"""Training data in folders: which files belong together, and what is wrong with them."""

import threading
from pathlib import Path

import numpy as np
import pytest
from training import draw_faces, label_map, message, picture

from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.loading import load
from psp_runtime.tasks import TASKS
from psp_train.data import folders
from psp_train.data.folders import SampleFiles


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of five drawn faces."""
    return draw_faces(tmp_path_factory.mktemp("data") / "drawn", 5)


@pytest.fixture
def own(tmp_path):
    return SampleFiles(picture(tmp_path / "a.png"), tmp_path / "a.png")


def test_pictures_of_any_format_in_folders_in_folders(tmp_path):
    names = ["b.png", "A.JPG", "deep/er/c.webp", "deep/d.bmp", "e.tiff"]
    for name in names:
        picture(tmp_path / name, size=8)
    picture(tmp_path / ".hidden/x.png", size=8)
    picture(tmp_path / ".y.png", size=8)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    assert folders.pictures(tmp_path) == sorted(tmp_path / name for name in names)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(PspError) as error:
        folders.pictures(tmp_path / "none")
    assert "no folder" in message(error)
    with pytest.raises(PspError) as error:
        folders.pictures(tmp_path)
    assert "no pictures" in message(error) and ".png" in message(error)


def test_pairs_by_folder_and_stem(tmp_path):
    for name in ("x/1.png", "y/1.png", "2.png"):
        picture(tmp_path / "in" / name, size=8)
        picture((tmp_path / "out" / name).with_suffix(".jpg"), size=8)
    picture(tmp_path / "out" / "unused.png", size=8)
    found = folders.pairs(tmp_path / "in", tmp_path / "out")
    names = [tuple(str(p.relative_to(tmp_path)) for p in pair) for pair in found]
    assert names == [("in/2.png", "out/2.jpg"), ("in/x/1.png", "out/x/1.jpg"), ("in/y/1.png", "out/y/1.jpg")]


def test_a_missing_target_is_named(tmp_path):
    for name in ("1", "2", "3"):
        picture(tmp_path / "in" / f"{name}.png", size=8)
    picture(tmp_path / "out/1.png", size=8)
    with pytest.raises(PspError) as error:
        folders.pairs(tmp_path / "in", tmp_path / "out")
    assert "2 of 3 pictures" in message(error) and str(tmp_path / "in/2.png") in message(error)


def test_two_files_of_one_name(tmp_path):
    picture(tmp_path / "in/1.png", size=8)
    picture(tmp_path / "out/1.png", size=8)
    picture(tmp_path / "out/1.jpg", size=8)
    with pytest.raises(PspError) as error:
        folders.pairs(tmp_path / "in", tmp_path / "out")
    assert "1.jpg" in message(error) and "1.png" in message(error)


def test_sketches_and_label_maps_need_faces(few):
    for task, folder in (("sketch", "sketches"), ("segmentation", "labels")):
        with pytest.raises(PspError, match="give --target"):
            folders.find_samples(TASKS[task], few / folder, None, None)
        found = folders.find_samples(TASKS[task], few / folder, few / "faces", None)
        assert found[1] == SampleFiles(few / folder / "a1.png", few / "faces/a1.png")


def test_label_maps_of_the_targets(few, tmp_path):
    found = folders.find_samples(TASKS["inversion"], few / "faces", None, few / "labels")
    assert found[2] == SampleFiles(few / "faces/a2.png", few / "faces/a2.png", few / "labels/a2.png")
    label_map(tmp_path / "a0.png", [[0]])
    with pytest.raises(PspError) as error:
        folders.find_samples(TASKS["inversion"], few / "faces", None, tmp_path)
    assert "4 pictures without a label map" in message(error) and "a1.png" in message(error)


def test_the_first_bad_label_map_and_its_id_are_named(tmp_path):
    good = label_map(tmp_path / "a.png", np.arange(25).reshape(5, 5) % 19)
    bad = label_map(tmp_path / "b.png", [[0, 18], [3, 19]])
    worse = label_map(tmp_path / "c.png", [[200]])
    face = picture(tmp_path / "faces/a.png", size=8)
    task = TASKS["segmentation"]
    folders.check_label_maps([SampleFiles(good, face)], task)
    with pytest.raises(PictureError) as error:
        folders.check_label_maps([SampleFiles(good, face), SampleFiles(bad, face), SampleFiles(worse, face)], task)
    assert all(part in message(error) for part in (str(bad), "class id 19", "x=1, y=1"))
    with pytest.raises(PictureError, match="class id 200"):  # as a mask, too
        folders.check_label_maps([SampleFiles(face, face, worse)], TASKS["inversion"])
    with pytest.raises(PictureError, match="colour picture"):
        folders.check_label_maps([SampleFiles(face, face)], task)


def test_the_first_bad_label_map_is_named_when_a_later_one_is_read_before(tmp_path, monkeypatch, capsys):
    """Label maps are read in threads: the first bad one is the first in order, not in time."""
    maps = [label_map(tmp_path / f"{i:02}.png", [[i % 19]]) for i in range(30)]
    files = [SampleFiles(path, path) for path in maps]
    folders.check_label_maps(files, TASKS["segmentation"])
    assert "checking label maps 30/30" in capsys.readouterr().err
    for index in (5, 6):
        label_map(maps[index], [[100 + index]])
    read, later = load, threading.Event()

    def slow(path, *args, **kinds):
        if path == maps[5]:
            assert later.wait(20)
        try:
            return read(path, *args, **kinds)
        finally:
            if path == maps[6]:
                later.set()

    monkeypatch.setattr(folders, "THREADS", 2)
    monkeypatch.setattr(folders, "load", slow)
    with pytest.raises(PictureError, match="class id 105"):
        folders.check_label_maps(files, TASKS["segmentation"])
    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_label_maps_that_are_not_there(own, capsys):
    folders.check_label_maps([own], TASKS["inversion"])
    assert capsys.readouterr().err == ""


def test_a_fingerprint_is_that_of_names_order_and_parts():
    a, b, c = (SampleFiles(Path(f"1/{name}.png"), Path("x")) for name in "abc")
    known = folders.fingerprint([a, b], [c])
    moved = [SampleFiles(Path("/else/1") / own.source.name, Path("/else/x")) for own in (a, b, c)]
    assert known == folders.fingerprint(moved[:2], moved[2:])
    others = [
        SampleFiles(Path("2/a.png"), Path("x")),
        SampleFiles(a.source, Path("y")),
        SampleFiles(a.source, a.target, Path("m")),
    ]
    assert len({known, *(folders.fingerprint([other, b], [c]) for other in others)}) == 4
    assert len({known, *(folders.fingerprint(*parts) for parts in (([b, a], [c]), ([a], [b, c]), ([a, b], [])))}) == 4


def test_split_is_a_fixed_choice(few):
    files = [SampleFiles(Path(str(i)), Path(str(i))) for i in range(20)]
    kept, held_out = folders.split(files, 6, seed=1)
    assert (len(kept), len(held_out)) == (14, 6)
    assert sorted(map(str, (x.source for x in kept + held_out))) == sorted(map(str, range(20)))
    assert folders.split(files, 6, seed=1) == (kept, held_out)
    assert folders.split(files, 6, seed=2) != (kept, held_out)
    with pytest.raises(PspError, match="--held-out 20 leaves none of 20 samples to train on"):
        folders.split(files, 20, seed=1)
