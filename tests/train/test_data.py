"""Training data: which files belong together, what is wrong with them, and samples that follow from the seed alone."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import draw_faces

from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures.loading import downsample, load
from psp_runtime.pictures.transforms import triangle
from psp_runtime.tasks import TASKS
from psp_train.data import folders
from psp_train.data.folders import SampleFiles
from psp_train.data.samples import BatchOrder, Samples, training_batches, validation_batches

FACTORS = (1, 2, 4, 8, 16, 32)


def message(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def picture(path: Path, seed: int = 0, size: int = 256) -> Path:
    """A random picture, so that no mirror image or neighbour looks alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def label_map(path: Path, ids) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)
    return path


def samples(task="inversion", items=(), flip="none", factors=FACTORS, seed=0, train=True):
    return Samples(TASKS[task], list(items), flip, factors, seed, train)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("data") / "drawn", 5)


@pytest.fixture
def item(tmp_path):
    return SampleFiles(picture(tmp_path / "a.png"), tmp_path / "a.png")


@pytest.fixture
def pair(tmp_path):
    return SampleFiles(picture(tmp_path / "in/a.png", 1), picture(tmp_path / "out/a.png", 2))


# ---- Folders --------------------------------------------------------------------------------------------------


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


def test_sketches_and_label_maps_need_faces(drawn):
    for task, folder in (("sketch", "sketches"), ("segmentation", "labels")):
        with pytest.raises(PspError, match="give --target"):
            folders.find_samples(TASKS[task], drawn / folder, None, None)
        found = folders.find_samples(TASKS[task], drawn / folder, drawn / "faces", None)
        assert found[1] == SampleFiles(drawn / folder / "a1.png", drawn / "faces/a1.png")


def test_label_maps_of_the_targets(drawn, tmp_path):
    found = folders.find_samples(TASKS["inversion"], drawn / "faces", None, drawn / "labels")
    assert found[2] == SampleFiles(drawn / "faces/a2.png", drawn / "faces/a2.png", drawn / "labels/a2.png")
    label_map(tmp_path / "a0.png", [[0]])
    with pytest.raises(PspError) as error:
        folders.find_samples(TASKS["inversion"], drawn / "faces", None, tmp_path)
    assert "4 pictures have no label map" in message(error) and "a1.png" in message(error)


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
    items = [SampleFiles(path, path) for path in maps]
    folders.check_label_maps(items, TASKS["segmentation"])
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
        folders.check_label_maps(items, TASKS["segmentation"])
    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_label_maps_that_are_not_there(item, capsys):
    folders.check_label_maps([item], TASKS["inversion"])
    assert capsys.readouterr().err == ""


def test_a_fingerprint_is_that_of_names_order_and_parts():
    a, b, c = (
        SampleFiles(Path(folder) / f"{name}.png", Path("x")) for folder, name in (("1", "a"), ("1", "b"), ("1", "c"))
    )
    known = folders.fingerprint([a, b], [c])
    moved = [SampleFiles(Path("/else/1") / item.source.name, Path("/else/x")) for item in (a, b, c)]
    assert known == folders.fingerprint(moved[:2], moved[2:])
    others = [
        SampleFiles(Path("2/a.png"), Path("x")),
        SampleFiles(a.source, Path("y")),
        SampleFiles(a.source, a.target, Path("m")),
    ]
    assert len({known, *(folders.fingerprint([other, b], [c]) for other in others)}) == 4
    assert len({known, *(folders.fingerprint(*parts) for parts in (([b, a], [c]), ([a], [b, c]), ([a, b], [])))}) == 4


def test_split_is_a_fixed_choice(drawn):
    items = [SampleFiles(Path(str(i)), Path(str(i))) for i in range(20)]
    kept, held_out = folders.split(items, 6, seed=1)
    assert (len(kept), len(held_out)) == (14, 6)
    assert sorted(map(str, (x.source for x in kept + held_out))) == sorted(map(str, range(20)))
    assert folders.split(items, 6, seed=1) == (kept, held_out)
    assert folders.split(items, 6, seed=2) != (kept, held_out)
    with pytest.raises(PspError, match="--held-out 20 leaves none of 20 samples to train on"):
        folders.split(items, 20, seed=1)


# ---- What a task does to a picture ----------------------------------------------------------------------------


def seen(samples, count=24):
    """Samples of one picture in `count` epochs."""
    return [samples[epoch, 0] for epoch in range(count)]


def test_a_picture_is_its_own_target(item):
    source, target, mask, name = samples(items=[item])[0, 0]
    expected = load(item.source, "rgb")
    assert np.array_equal(source, expected) and np.array_equal(target, expected)
    assert mask.shape == (256, 256) and mask.all() and name == str(item.source)


def flips(found, pair):
    """Which of source and target each sample mirrors."""
    source, target = (load(path, "rgb") for path in (pair.source, pair.target))
    for a, b, *_ in found:
        first, second = np.array_equal(a, source[:, ::-1]), np.array_equal(b, target[:, ::-1])
        assert first or np.array_equal(a, source)
        assert second or np.array_equal(b, target)
        yield first, second


def test_flips(pair):
    kinds = {flip: set(flips(seen(samples(items=[pair], flip=flip)), pair)) for flip in ("none", "both", "independent")}
    together = {(False, False), (True, True)}
    apart = {(True, False), (False, True)}
    assert kinds == {"none": {(False, False)}, "both": together, "independent": together | apart}
    held_out = samples(items=[pair], flip="independent", train=False)
    assert set(flips(seen(held_out), pair)) == {(False, False)}


def test_frontalization_mirrors_a_picture_against_itself(item):
    found = seen(samples("frontalization", [item], "independent"))
    assert set(flips(found, item)) == {(a, b) for a in (False, True) for b in (False, True)}


def test_a_mirrored_label_map_has_left_and_right_exchanged(tmp_path):
    ids = np.repeat(np.arange(16, dtype=np.uint8), 16)[None].repeat(256, 0)  # 4 .. 9: left and right eye, brow, ear
    swapped = np.array([0, 1, 2, 3, 5, 4, 7, 6, 9, 8, 10, 11, 12, 13, 14, 15])
    item = SampleFiles(label_map(tmp_path / "labels.png", ids), picture(tmp_path / "face.png"))
    face, found = load(item.target, "rgb"), seen(samples("segmentation", [item], "both"))
    mirrored = [np.array_equal(target, face[:, ::-1]) for _, target, *_ in found]
    assert set(mirrored) == {True, False}
    for (source, *_), mirror in zip(found, mirrored):
        assert np.array_equal(source, swapped[ids[:, ::-1]] if mirror else ids)


def test_masks_are_where_the_face_is_and_follow_the_target(tmp_path):
    ids = np.zeros((256, 256), np.uint8)
    ids[:, :19] = np.arange(19)
    face = picture(tmp_path / "face.png")
    item = SampleFiles(face, face, label_map(tmp_path / "labels.png", ids))
    expected = np.isin(ids, range(1, 14))  # not background, hat, earring, necklace, neck, cloth
    found = seen(samples(items=[item], flip="independent"), 8)
    for (_, second), (_, _, mask, _) in zip(flips(found, item), found):
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, expected[:, ::-1] if second else expected)


def test_super_resolution_shrinks_as_at_run_time(item):
    original = load(item.source, "rgb")
    small = {factor: downsample(original, factor) for factor in FACTORS}
    back = {f: np.array(Image.fromarray(x).resize((256, 256), Image.Resampling.BILINEAR)) for f, x in small.items()}
    drawn = []
    for source, target, *_ in seen(samples("super_resolution", [item]), 40):
        assert np.array_equal(target, original)
        drawn.append(next(factor for factor, expected in back.items() if np.array_equal(source, expected)))
    assert set(drawn) == set(FACTORS)
    held_out = seen(samples("super_resolution", [item], train=False), 3)
    assert all(np.array_equal(source, back[8]) for source, *_ in held_out)
    only = seen(samples("super_resolution", [item], factors=(16,)), 2)
    assert all(np.array_equal(source, back[16]) for source, *_ in only)


def test_inpainting_hides_a_symmetric_triangle(item):
    source, target, *_ = samples("inpainting", [item])[0, 0]
    hidden = triangle()
    original = load(item.source, "rgb")
    assert np.array_equal(target, original)
    assert not source[hidden].any() and np.array_equal(source[~hidden], original[~hidden])
    assert np.array_equal(hidden, hidden[:, ::-1])
    widths = hidden.sum(1)
    assert not widths[:128].any() and widths[128:].tolist() == list(range(2, 257, 2))


def test_a_pair_is_not_degraded(pair):
    for task in ("super_resolution", "inpainting"):
        source, target, *_ = samples(task, [pair])[0, 0]
        assert np.array_equal(source, load(pair.source, "rgb"))
        assert np.array_equal(target, load(pair.target, "rgb"))


# ---- Order ----------------------------------------------------------------------------------------------------


def everything(batch):
    return [tensor.numpy().tobytes() for tensor in batch[:3]], batch.names


def faces_of(drawn, task="super_resolution"):
    return samples(task, [SampleFiles(p, p) for p in folders.pictures(drawn / "faces")], "both", seed=4)


def test_every_epoch_has_every_sample_once():
    order = list(BatchOrder(5, 2, seed=3, numbers=range(10)))
    keys = [key for batch in order for key in batch]
    assert len(order) == 10 and len(keys) == 20
    for epoch in range(4):
        indices = [index for e, index in keys if e == epoch]
        assert sorted(indices) == list(range(5))
    assert len({tuple(index for e, index in keys if e == epoch) for epoch in range(4)}) > 1  # and its own order


def test_restarts_and_worker_counts_change_nothing(drawn):
    training = faces_of(drawn)
    whole = [everything(b) for b in training_batches(training, BatchOrder(5, 2, 4, range(6)), workers=0)]
    assert len(whole) == 6
    for first, workers in ((0, 2), (3, 2), (4, 0)):
        part = training_batches(training, BatchOrder(5, 2, 4, range(first, 6)), workers)
        assert [everything(b) for b in part] == whole[first:]


def test_processes_share_the_double_batch(drawn):
    together = list(BatchOrder(5, 4, 1, range(2, 7)))
    apart = [list(BatchOrder(5, 2, 1, range(2, 7), rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*apart)] == together


def test_a_seed_of_its_own_for_every_sample(drawn):
    training = faces_of(drawn)
    first, again = training[0, 1], training[0, 1]
    assert all(np.array_equal(a, b) for a, b in zip(first[:3], again[:3]))
    looks = {training[epoch, index][0].tobytes() for epoch in range(6) for index in range(2)}
    assert len(looks) > 6


def test_batches_are_tensors_of_the_engines_kinds(drawn):
    for task, folder, shape in (("sketch", "sketches", (2, 256, 256, 1)), ("segmentation", "labels", (2, 256, 256))):
        items = folders.find_samples(TASKS[task], drawn / folder, drawn / "faces", drawn / "labels")
        batch = next(training_batches(samples(task, items), BatchOrder(5, 2, 0, range(1)), 0))
        assert batch.source.shape == shape and batch.target.shape == (2, 256, 256, 3)
        assert batch.mask.shape == (2, 256, 256) and 0 < batch.mask.float().mean() < 1
        assert {batch.source.dtype, batch.target.dtype, batch.mask.dtype} == {torch.uint8}
        assert all(Path(name).parent.name == folder for name in batch.names)


def test_held_out_samples_once_and_in_order(drawn):
    held_out = samples(items=faces_of(drawn).files, train=False)
    batches = list(validation_batches(held_out, 2))
    assert [len(b.names) for b in batches] == [2, 2, 1]
    assert [name for b in batches for name in b.names] == [str(i.source) for i in held_out.files]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_one_line(tmp_path, workers):
    path = picture(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:100])
    broken = samples(items=[SampleFiles(path, path)])
    with pytest.raises(PictureError) as error:
        list(training_batches(broken, BatchOrder(1, 1, 0, range(1)), workers))
    assert message(error).startswith(f"cannot read {path}")
