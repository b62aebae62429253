"""Samples follow from the seed alone: what a task does to a picture, and the order of batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import draw_faces, label_map, message, picture

from psp_runtime.errors import PictureError
from psp_runtime.pictures.loading import downsample, load
from psp_runtime.pictures.transforms import triangle
from psp_runtime.tasks import TASKS
from psp_train.data import folders
from psp_train.data.folders import SampleFiles
from psp_train.data.samples import BatchOrder, Samples, training_batches, validation_batches

FACTORS = (1, 2, 4, 8, 16, 32)


def samples(task="inversion", files=(), flip="none", factors=FACTORS, seed=0, train=True):
    return Samples(TASKS[task], list(files), flip, factors, seed, train)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of five drawn faces."""
    return draw_faces(tmp_path_factory.mktemp("data") / "drawn", 5)


@pytest.fixture
def own(tmp_path):
    return SampleFiles(picture(tmp_path / "a.png"), tmp_path / "a.png")


@pytest.fixture
def pair(tmp_path):
    return SampleFiles(picture(tmp_path / "in/a.png", 1), picture(tmp_path / "out/a.png", 2))


def seen(samples, count=24):
    """Samples of one picture in `count` epochs."""
    return [samples[epoch, 0] for epoch in range(count)]


def test_a_picture_is_its_own_target(own):
    source, target, mask, name = samples(files=[own])[0, 0]
    expected = load(own.source, "rgb")
    assert np.array_equal(source, expected) and np.array_equal(target, expected)
    assert mask.shape == (256, 256) and mask.all() and name == str(own.source)


def flips(found, pair):
    """Which of source and target each sample mirrors."""
    source, target = (load(path, "rgb") for path in (pair.source, pair.target))
    for a, b, *_ in found:
        first, second = np.array_equal(a, source[:, ::-1]), np.array_equal(b, target[:, ::-1])
        assert first or np.array_equal(a, source)
        assert second or np.array_equal(b, target)
        yield first, second


def test_flips(pair):
    kinds = {flip: set(flips(seen(samples(files=[pair], flip=flip)), pair)) for flip in ("none", "both", "independent")}
    together = {(False, False), (True, True)}
    apart = {(True, False), (False, True)}
    assert kinds == {"none": {(False, False)}, "both": together, "independent": together | apart}
    held_out = samples(files=[pair], flip="independent", train=False)
    assert set(flips(seen(held_out), pair)) == {(False, False)}


def test_frontalization_mirrors_a_picture_against_itself(own):
    found = seen(samples("frontalization", [own], "independent"))
    assert set(flips(found, own)) == {(a, b) for a in (False, True) for b in (False, True)}


def test_a_mirrored_label_map_has_left_and_right_exchanged(tmp_path):
    ids = np.repeat(np.arange(16, dtype=np.uint8), 16)[None].repeat(256, 0)  # 4 .. 9: left and right eye, brow, ear
    swapped = np.array([0, 1, 2, 3, 5, 4, 7, 6, 9, 8, 10, 11, 12, 13, 14, 15])
    own = SampleFiles(label_map(tmp_path / "labels.png", ids), picture(tmp_path / "face.png"))
    face, found = load(own.target, "rgb"), seen(samples("segmentation", [own], "both"))
    mirrored = [np.array_equal(target, face[:, ::-1]) for _, target, *_ in found]
    assert set(mirrored) == {True, False}
    for (source, *_), mirror in zip(found, mirrored):
        assert np.array_equal(source, swapped[ids[:, ::-1]] if mirror else ids)


def test_masks_are_where_the_face_is_and_follow_the_target(tmp_path):
    ids = np.zeros((256, 256), np.uint8)
    ids[:, :19] = np.arange(19)
    face = picture(tmp_path / "face.png")
    own = SampleFiles(face, face, label_map(tmp_path / "labels.png", ids))
    expected = np.isin(ids, range(1, 14))  # not background, hat, earring, necklace, neck, cloth
    found = seen(samples(files=[own], flip="independent"), 8)
    for (_, second), (_, _, mask, _) in zip(flips(found, own), found):
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, expected[:, ::-1] if second else expected)


def test_super_resolution_shrinks_as_at_run_time(own):
    original = load(own.source, "rgb")
    small = {factor: downsample(original, factor) for factor in FACTORS}
    back = {f: np.array(Image.fromarray(x).resize((256, 256), Image.Resampling.BILINEAR)) for f, x in small.items()}
    drawn = []
    for source, target, *_ in seen(samples("super_resolution", [own]), 40):
        assert np.array_equal(target, original)
        drawn.append(next(factor for factor, expected in back.items() if np.array_equal(source, expected)))
    assert set(drawn) == set(FACTORS)
    held_out = seen(samples("super_resolution", [own], train=False), 3)
    assert all(np.array_equal(source, back[8]) for source, *_ in held_out)
    only = seen(samples("super_resolution", [own], factors=(16,)), 2)
    assert all(np.array_equal(source, back[16]) for source, *_ in only)


def test_inpainting_hides_a_symmetric_triangle(own):
    source, target, *_ = samples("inpainting", [own])[0, 0]
    hidden = triangle()
    original = load(own.source, "rgb")
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


def faces_of(few, task="super_resolution"):
    return samples(task, [SampleFiles(p, p) for p in folders.pictures(few / "faces")], "both", seed=4)


def test_every_epoch_has_every_sample_once():
    order = list(BatchOrder(5, 2, seed=3, numbers=range(10)))
    keys = [key for batch in order for key in batch]
    assert len(order) == 10 and len(keys) == 20
    for epoch in range(4):
        indices = [index for e, index in keys if e == epoch]
        assert sorted(indices) == list(range(5))
    assert len({tuple(index for e, index in keys if e == epoch) for epoch in range(4)}) > 1  # and its own order


def test_restarts_and_worker_counts_change_nothing(few):
    training = faces_of(few)
    whole = [everything(b) for b in training_batches(training, BatchOrder(5, 2, 4, range(6)), workers=0)]
    assert len(whole) == 6
    for first, workers in ((0, 2), (3, 2), (4, 0)):
        part = training_batches(training, BatchOrder(5, 2, 4, range(first, 6)), workers)
        assert [everything(b) for b in part] == whole[first:]


def test_processes_share_the_double_batch(few):
    together = list(BatchOrder(5, 4, 1, range(2, 7)))
    apart = [list(BatchOrder(5, 2, 1, range(2, 7), rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*apart)] == together


def test_a_seed_of_its_own_for_every_sample(few):
    training = faces_of(few)
    first, again = training[0, 1], training[0, 1]
    assert all(np.array_equal(a, b) for a, b in zip(first[:3], again[:3]))
    looks = {training[epoch, index][0].tobytes() for epoch in range(6) for index in range(2)}
    assert len(looks) > 6


def test_batches_are_tensors_of_the_engines_kinds(few):
    for task, folder, shape in (("sketch", "sketches", (2, 256, 256, 1)), ("segmentation", "labels", (2, 256, 256))):
        files = folders.find_samples(TASKS[task], few / folder, few / "faces", few / "labels")
        batch = next(training_batches(samples(task, files), BatchOrder(5, 2, 0, range(1)), 0))
        assert batch.source.shape == shape and batch.target.shape == (2, 256, 256, 3)
        assert batch.mask.shape == (2, 256, 256) and 0 < batch.mask.float().mean() < 1
        assert {batch.source.dtype, batch.target.dtype, batch.mask.dtype} == {torch.uint8}
        assert all(Path(name).parent.name == folder for name in batch.names)


def test_held_out_samples_once_and_in_order(few):
    held_out = samples(files=faces_of(few).files, train=False)
    batches = list(validation_batches(held_out, 2))
    assert [len(b.names) for b in batches] == [2, 2, 1]
    assert [name for b in batches for name in b.names] == [str(i.source) for i in held_out.files]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_one_line(tmp_path, workers):
    path = picture(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:100])
    broken = samples(files=[SampleFiles(path, path)])
    with pytest.raises(PictureError) as error:
        list(training_batches(broken, BatchOrder(1, 1, 0, range(1)), workers))
    assert message(error).startswith(f"cannot read {path}")
