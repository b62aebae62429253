"""The procedural faces: deterministic, controllable, and with picture, labels and sketch that agree."""

import numpy as np
import pytest

from psp_export.verify.parity import psnr
from psp_runtime.pictures.label_classes import IDS
from psp_train.drawn import FACE_DIM, PARAMETERS, draw, parameters, sample, with_parameters

NAMES = [parameter.name for parameter in PARAMETERS]
SKIN_LABELS = [IDS[name] for name in ("skin", "nose", "neck")]


@pytest.fixture(scope="module")
def crowd():
    """Twenty drawn faces at size 128."""
    return [draw(z, 128) for z in sample(20, seed=7)]


def centre(face, *names):
    """Mean (x, y) of the pixels with these labels, as fractions of the picture."""
    rows, columns = np.nonzero(np.isin(face.labels, [IDS[name] for name in names]))
    assert rows.size, f"no pixel is labelled {names}"
    return columns.mean() / face.labels.shape[1], rows.mean() / face.labels.shape[0]


def halved(image, times):
    """Area down-sampling by 2 ** times."""
    image = np.float64(image)
    for _ in range(times):
        image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
    return image


@pytest.mark.parametrize("size", [64, 100, 256])
def test_shapes_types_and_determinism(size):
    z = sample(1, seed=3)[0]
    first, second = draw(z, size), draw(z.copy(), size)
    assert first.image.shape == (size, size, 3)
    assert first.labels.shape == first.sketch.shape == (size, size)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == np.uint8 and a.flags["C_CONTIGUOUS"]
        assert a.tobytes() == b.tobytes()


def test_sample_numbers_faces_by_seed():
    z = sample(10, seed=5)
    assert z.shape == (10, FACE_DIM) and z.dtype == np.float32
    np.testing.assert_array_equal(z[4:6], sample(2, seed=5, first=4))
    assert not np.array_equal(z, sample(10, seed=6))
    assert sample(0, seed=5).shape == (0, FACE_DIM)


def test_parameters_fill_their_ranges():
    drawn = [parameters(z) for z in sample(300, seed=1)]
    for p in PARAMETERS:
        values = [d[p.name] for d in drawn]
        assert p.low <= min(values) and max(values) <= p.high
        assert np.mean(values) == pytest.approx((p.low + p.high) / 2, abs=0.07 * (p.high - p.low))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_changes_the_picture(name):
    p = PARAMETERS[NAMES.index(name)]
    z = with_parameters(sample(1, seed=11)[0], yaw=5)
    low, high = (draw(with_parameters(z, **{name: value}), 64).image for value in (p.low, p.high))
    assert np.abs(np.int16(low) - high).max() > 10


def test_unused_coordinates_and_scale_do_not_matter():
    z = sample(1, seed=12)[0]
    shuffled = z.copy()
    shuffled[len(PARAMETERS) :] = -z[len(PARAMETERS) :][::-1]
    image = draw(z, 64).image
    for same in (shuffled, 3 * z, 0.25 * z):
        assert np.abs(np.int16(draw(same, 64).image) - image).max() <= 1


def test_labels_are_known_and_features_are_in_place(crowd):
    for face in crowd:
        assert face.labels.max() < len(IDS)
        assert not np.isin(face.labels, [IDS[name] for name in ("hat", "earring", "necklace")]).any()
        left, right = centre(face, "left eye"), centre(face, "right eye")
        nose, mouth = centre(face, "nose"), centre(face, "mouth", "upper lip", "lower lip")
        assert left[0] < right[0]
        assert 0.42 < left[1] < 0.55 and 0.42 < right[1] < 0.55
        assert max(left[1], right[1]) < nose[1] < mouth[1] < centre(face, "neck")[1] < 0.95
        assert centre(face, "hair")[1] < 0.5 < centre(face, "cloth")[1]


def test_labels_follow_the_picture():
    z = with_parameters(sample(1, seed=13)[0], skin_tone=0.0, hair_colour=0.0, light=0.0)
    face = draw(z)
    brightness = face.image.mean(axis=2)
    skin, hair = np.isin(face.labels, SKIN_LABELS), face.labels == IDS["hair"]
    assert brightness[skin].mean() > 170
    assert brightness[hair].mean() < 90


def test_yaw_moves_the_nose():
    z = sample(1, seed=14)[0]
    noses = [centre(draw(with_parameters(z, yaw=yaw), 128), "nose")[0] for yaw in (-30, -15, 0, 15, 30)]
    assert (np.diff(noses) > 0.02).all()
    assert noses[2] == pytest.approx(0.5, abs=0.01)


def test_far_eye_is_smaller():
    face = draw(with_parameters(sample(1, seed=15)[0], yaw=30, glasses=0))
    assert np.sum(face.labels == 5) < 0.8 * np.sum(face.labels == 4)


def test_a_third_wears_glasses():
    worn = [parameters(z)["glasses"] > 0.65 for z in sample(1000, seed=2)]
    assert np.mean(worn) == pytest.approx(0.35, abs=0.04)
    z = sample(1, seed=2)[0]
    for value, expected in ((0.6, False), (0.7, True)):
        labels = draw(with_parameters(z, glasses=value), 128).labels
        assert (labels == IDS["glasses"]).any() == expected


@pytest.mark.parametrize("name", NAMES)
def test_with_parameters_round_trip(name):
    z = sample(1, seed=16)[0]
    p = PARAMETERS[NAMES.index(name)]
    value = p.low + 0.3 * (p.high - p.low)
    changed = with_parameters(z, **{name: value})
    before, after = parameters(z), parameters(changed)
    assert changed.shape == (FACE_DIM,) and changed.dtype == np.float32
    assert np.mean(np.float64(changed) ** 2) == pytest.approx(1, abs=1e-5)
    assert after.pop(name) == pytest.approx(value, abs=1e-4)
    before.pop(name)
    assert after == pytest.approx(before, abs=1e-4)


def test_with_parameters_clamps_and_works_without_a_rest():
    middle = with_parameters(np.zeros(FACE_DIM), yaw=0.0)
    assert parameters(middle)["yaw"] == pytest.approx(0, abs=1e-4)
    assert parameters(with_parameters(middle, yaw=90))["yaw"] == pytest.approx(35, abs=0.1)


def test_sketch_is_light_paper_with_dark_lines(crowd):
    for face in crowd:
        assert np.mean(face.sketch > 150) > 0.75
        assert 0.01 < np.mean(face.sketch < 100) < 0.2
        assert face.sketch[0, 0] == 255


def test_sizes_agree():
    for z in sample(6, seed=17):
        small, large = draw(z, 64).image, draw(z, 256).image
        assert psnr(small - halved(large, 2)) > 30


@pytest.mark.parametrize("shape", [(FACE_DIM - 1,), (1, FACE_DIM), ()])
def test_wrong_length_is_refused(shape):
    for function in (draw, parameters, with_parameters):
        with pytest.raises(ValueError, match=rf"expected \({FACE_DIM},\)"):
            function(np.ones(shape))


def test_bad_arguments_are_refused():
    z = sample(1, seed=18)[0]
    with pytest.raises(ValueError, match="'beard'.*skin_tone"):
        with_parameters(z, beard=1.0)
    with pytest.raises(ValueError, match="too many extreme"):
        with_parameters(z, **{p.name: p.high for p in PARAMETERS})
    with pytest.raises(ValueError, match="size is 32"):
        draw(z, 32)
