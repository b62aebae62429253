"""Every application from Python: exact where that is promised, the same from the whole engine and from its parts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_family import MAP, STYLE_DIM, STYLES, picture_of, write_family, write_part

import psp_runtime
from psp_runtime import EngineError, PictureError, Pipeline, PspError
from psp_runtime.arrays.files import read_array
from psp_runtime.latents import AVERAGE_SEED, AVERAGED
from psp_runtime.pictures import transforms as inputs
from psp_runtime.pictures.loading import load

GOLDEN = Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (3, 4, 4, 3), np.uint8), np.ones((1, 64, 64, 1), np.uint8))
DIRECTION = RNG.normal(0, 0.2, (STYLES, STYLE_DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_family(folder, "whole", parts=False)
    write_family(folder, "split")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Iterator[Pipeline]:
    with psp_runtime.load(folder / "whole.onnx", "cpu") as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def split(folder: Path) -> Iterator[Pipeline]:
    """The same engine with encoder and generator beside it."""
    with psp_runtime.load(folder / "split.onnx", "cpu") as pipeline:
        yield pipeline


@pytest.fixture(params=["whole", "split"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return request.getfixturevalue(request.param)


def levels(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference between uint8 pictures."""
    assert one.dtype == other.dtype == np.uint8 and one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def is_picture_of(picture: np.ndarray, latents: np.ndarray) -> bool:
    return bool(np.abs(picture.astype(float) - picture_of(latents)).max() <= 1)


# ---- Latents ----------------------------------------------------------------------------------------------------


def test_decoded_codes_are_the_translation(pipeline: Pipeline) -> None:
    translated = pipeline.translate(PIXELS)
    latents = pipeline.encode(PIXELS)
    np.testing.assert_allclose(latents, translated.latents, atol=1e-5)
    assert levels(pipeline.decode(latents), translated.output) <= 1
    assert pipeline.encode(latents) is not None and np.array_equal(pipeline.encode(latents), latents)


def test_the_whole_engine_decodes_its_own_codes_bit_for_bit(whole: Pipeline) -> None:
    translated = whole.translate(PIXELS[:1])
    np.testing.assert_array_equal(whole.decode(translated.latents), translated.output)


def test_parts_are_used_where_they_lie_beside_the_engine(whole: Pipeline, split: Pipeline) -> None:
    assert split.parts.usable and not whole.parts.usable


def counted(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many pictures go through each session from now on."""
    count: dict[str, int] = {}
    sessions = {"full": pipeline.session}
    if pipeline.parts.usable:
        sessions |= {"encoder": pipeline.parts.encoder, "generator": pipeline.parts.generator}
    for name, session in sessions.items():

        def run(inputs: dict, name: str = name, real=session.run) -> dict:
            count[name] = count.get(name, 0) + len(next(iter(inputs.values())))
            return real(inputs)

        monkeypatch.setattr(session, "run", run)
    return count


def test_encoding_once_and_decoding_many_times(split: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    styles = split.styles(5)
    count = counted(split, monkeypatch)
    split.mix(PIXELS, styles)
    assert count == {"encoder": 3, "generator": 15}
    count.clear()
    split.edit(PIXELS[:1], DIRECTION, (-1, 0, 1))
    assert count == {"encoder": 1, "generator": 3}
    count.clear()
    split.interpolate(PIXELS[:1], PIXELS[1:2], 9)
    assert count == {"full": 2, "generator": 7}


def test_without_parts_nothing_is_run_twice(whole: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    styles = whole.styles(5)
    count = counted(whole, monkeypatch)
    whole.mix(PIXELS, styles)
    whole.interpolate(PIXELS[:1], PIXELS[1:2], 9)
    whole.edit(PIXELS[:1], DIRECTION, (-1, 0, 1))
    assert count == {"full": 15 + 9 + 4}


@pytest.mark.parametrize("field", ["task", "checkpoint", "precision"])
def test_parts_of_another_export_are_left_alone(tmp_path: Path, field: str) -> None:
    engine = write_family(tmp_path)
    other = {"task": "toonify", "checkpoint": "cd" * 32, "precision": "fp16"}[field]
    write_part(tmp_path / "psp.generator.onnx", "generator", **{field: other})
    with psp_runtime.load(engine, "cpu") as pipeline:
        with pytest.warns(UserWarning, match=rf"psp\.generator\.onnx is not used: .* \({field} {other}, not "):
            pipeline.mix(PIXELS[:1], pipeline.styles(2))
        assert not pipeline.parts.usable


# ---- Random styles --------------------------------------------------------------------------------------------


def test_a_seed_is_the_same_styles_everywhere(whole: Pipeline, split: Pipeline) -> None:
    styles = whole.styles(3, seed=7)
    assert styles.shape == (3, STYLES, STYLE_DIM) and styles.dtype == np.float32
    w = np.random.RandomState(7).standard_normal((3, STYLE_DIM)) @ MAP + 0.5
    np.testing.assert_allclose(styles, np.repeat(w[:, None], STYLES, 1), atol=1e-5)
    np.testing.assert_array_equal(split.styles(3, 7), styles)
    np.testing.assert_allclose(whole.styles(5, 7)[:3], styles, atol=1e-6)
    assert np.abs(whole.styles(3, 8) - styles).max() > 0.1
    assert levels(whole.mix(PIXELS, styles), split.mix(PIXELS, styles)) <= 1


def test_truncation_ends_at_the_average_face(pipeline: Pipeline) -> None:
    average = (np.random.RandomState(AVERAGE_SEED).standard_normal((AVERAGED, STYLE_DIM)) @ MAP + 0.5).mean(0)
    styles = pipeline.styles(2, seed=3, psi=0)
    np.testing.assert_allclose(styles, np.broadcast_to(average, styles.shape), atol=1e-5)
    faces = pipeline.mix(PIXELS[:1], styles, layers=range(STYLES), alpha=1)[0]
    assert all(is_picture_of(face, styles[0]) for face in faces)
    half = 0.5 * (average + pipeline.styles(2, 3))
    np.testing.assert_allclose(pipeline.styles(2, 3, psi=0.5), half, atol=1e-5)


def test_styles_need_the_mapping_network(tmp_path: Path) -> None:
    engine = write_family(tmp_path)
    with psp_runtime.load(engine, "cpu") as pipeline:
        write_part(tmp_path / "psp.mapping.onnx", "mapping", checkpoint="cd" * 32)
        with pytest.raises(EngineError, match=r"psp\.mapping\.onnx does not belong to psp\.onnx: checkpoint cd"):
            pipeline.styles(1)
        (tmp_path / "psp.mapping.onnx").unlink()
        with pytest.raises(EngineError, match=r"random styles need .*psp\.mapping\.onnx, which is not there"):
            pipeline.styles(1)


# ---- Mixing, transfer, interpolation, edits --------------------------------------------------------------------


def test_mixing_replaces_the_layers_of_the_task(pipeline: Pipeline) -> None:
    styles, latents = pipeline.styles(2, 1), pipeline.encode(PIXELS)
    mixed = pipeline.mix(PIXELS, styles)
    assert mixed.shape == (3, 2, 16, 16, 3)
    for b in range(3):
        for n in range(2):
            assert is_picture_of(mixed[b, n], np.concatenate([latents[b, :8], styles[n, 8:]]))


def test_mixing_some_layers_a_little(pipeline: Pipeline) -> None:
    styles, latents = pipeline.styles(2, 1), pipeline.encode(PIXELS)
    mixed = pipeline.mix(PIXELS, styles, layers=(4, 7), alpha=0.25)
    wanted = latents[2].copy()
    wanted[[4, 7]] = 0.75 * wanted[[4, 7]] + 0.25 * styles[1, [4, 7]]
    assert is_picture_of(mixed[2, 1], wanted)
    assert levels(mixed, pipeline.mix(latents, styles, (4, 7), 0.25)) <= 1


def test_alpha_zero_is_the_translation_bit_for_bit(whole: Pipeline, split: Pipeline) -> None:
    for pipeline in (whole, split):
        translated = pipeline.translate(PIXELS[:1]).output[0]
        np.testing.assert_array_equal(pipeline.mix(PIXELS[:1], pipeline.styles(1), alpha=0)[0, 0], translated)
        np.testing.assert_array_equal(pipeline.transfer(PIXELS[:1], PIXELS[1:2], alpha=0)[0], translated)
    for picture in whole.mix(PIXELS[:1], whole.styles(4), alpha=0)[0]:
        np.testing.assert_array_equal(picture, whole.translate(PIXELS[:1]).output[0])


def test_transfer_takes_the_coarse_layers_of_one_and_the_fine_ones_of_another(pipeline: Pipeline) -> None:
    latents = pipeline.encode(PIXELS)
    pictures = pipeline.transfer(PIXELS[:2], PIXELS[2:])
    for index in range(2):
        assert is_picture_of(pictures[index], np.concatenate([latents[index, :8], latents[2, 8:]]))
    assert levels(pipeline.transfer(PIXELS[:2], PIXELS[1:])[:1], pipeline.transfer(PIXELS[:1], PIXELS[1:2])) <= 1


@pytest.mark.parametrize("steps", [2, 3, 9])
def test_interpolation_ends_exactly_at_the_translations(pipeline: Pipeline, steps: int) -> None:
    frames = pipeline.interpolate(PIXELS[:1], PIXELS[1:2], steps)
    assert frames.shape == (1, steps, 16, 16, 3)
    np.testing.assert_array_equal(frames[0, 0], pipeline.translate(PIXELS[:1]).output[0])
    np.testing.assert_array_equal(frames[0, -1], pipeline.translate(PIXELS[1:2]).output[0])
    latents = pipeline.encode(PIXELS[:2])
    for share, frame in zip(np.linspace(0, 1, steps), frames[0], strict=True):
        assert is_picture_of(frame, (1 - share) * latents[0] + share * latents[1])


def test_interpolation_of_several_with_one_and_between_pictures_and_codes(pipeline: Pipeline) -> None:
    frames = pipeline.interpolate(PIXELS, PIXELS[2:], 3)
    assert frames.shape[:2] == (3, 3) and levels(frames[2, 0], frames[2, 1]) <= 1
    assert levels(pipeline.interpolate(pipeline.encode(PIXELS), PIXELS[2:], 3), frames) <= 1


@pytest.mark.parametrize("direction", [DIRECTION, DIRECTION[0], DIRECTION.astype(np.float64)])
def test_edits_move_along_a_direction(pipeline: Pipeline, direction: np.ndarray) -> None:
    pictures, latents = pipeline.edit(PIXELS, direction, (-2, 0, 0.5)), pipeline.encode(PIXELS)
    assert pictures.shape == (3, 3, 16, 16, 3)
    assert levels(pictures[:, 1], pipeline.translate(PIXELS).output) <= 1
    assert is_picture_of(pictures[1, 0], latents[1] - 2 * direction)
    assert is_picture_of(pictures[2, 2], latents[2] + 0.5 * direction)


def test_edits_of_some_layers_and_beyond_alpha_one(pipeline: Pipeline) -> None:
    latents = pipeline.encode(PIXELS[:1])
    with pytest.warns(UserWarning, match=r"alpha 1\.5 is outside 0\.\.1"):
        picture = pipeline.edit(PIXELS[:1], DIRECTION, (2,), layers=(3,), alpha=1.5)[0, 0]
    latents[0, 3] += 3 * DIRECTION[3]
    assert is_picture_of(picture, latents[0])


def test_no_pictures_give_empty_results(pipeline: Pipeline) -> None:
    none = PIXELS[:0]
    assert (
        pipeline.encode(none).shape == (0, STYLES, STYLE_DIM) and pipeline.decode(pipeline.encode(none)).shape[0] == 0
    )
    assert pipeline.mix(none, pipeline.styles(2)).shape == (0, 2, 16, 16, 3)
    assert pipeline.edit(none, DIRECTION).shape == (0, 1, 16, 16, 3)


def test_batches_as_large_as_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with psp_runtime.load(folder / "whole.onnx", "cpu") as pipeline:
        sizes, run = [], pipeline.session.run
        monkeypatch.setattr(pipeline.session, "run", lambda x: (sizes.append(len(x["image"])), run(x))[1])
        for batch, expected in ((None, [1] * 6), (3, [3, 3]), (100, [4, 2])):
            sizes.clear()
            Pipeline(pipeline.session, batch).mix(PIXELS, pipeline.styles(2))
            assert sizes == expected


# ---- Mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.mix(PIXELS, p.styles(1), layers=(13, 14)), r"layer 14: this engine has layers 0\.\.13"),
        (lambda p: p.mix(PIXELS, p.styles(1), layers=(-1,)), "layer -1"),
        (lambda p: p.mix(PIXELS, p.styles(1), alpha=1.01), r"alpha 1\.01: expected 0 .* to 1"),
        (lambda p: p.mix(PIXELS, p.styles(1), alpha=float("nan")), "alpha nan"),
        (lambda p: p.transfer(PIXELS, PIXELS[:1], alpha=-0.1), r"alpha -0\.1"),
        (lambda p: p.edit(PIXELS, DIRECTION, alpha=float("inf")), "alpha inf: expected a number"),
        (lambda p: p.edit(PIXELS, DIRECTION, (float("nan"),)), "strengths .*nan.*: expected numbers"),
        (lambda p: p.mix(PIXELS, p.styles(1)[:, :4]), r"styles: expected float32 \[B,14,8\], given float32 \[1,4,8\]"),
        (
            lambda p: p.decode(np.zeros((1, 18, 512), np.float32)),
            r"latents: expected .*\[B,14,8\], given .*\[1,18,512\]",
        ),
        (lambda p: p.decode(np.zeros((1, 14, 8))), "latents: expected float32 .* given float64"),
        (lambda p: p.encode(np.zeros((1, 14, 9), np.float32)), r"given float32 \[1,14,9\]"),
        (lambda p: p.encode([1]), "image: expected uint8 .* given list"),
        (lambda p: p.edit(PIXELS, np.zeros(9)), r"direction: expected numbers \[8\] or \[14,8\], given float64 \[9\]"),
        (lambda p: p.edit(PIXELS, np.full(8, np.nan)), "direction: 8 of its 8 values are not finite"),
        (lambda p: p.edit(PIXELS, np.array(["a"] * 8)), "direction: expected numbers"),
        (lambda p: p.interpolate(PIXELS, PIXELS[:2], 3), "second: 2 pictures for 3, expected 3 or one for all"),
        (lambda p: p.transfer(PIXELS, PIXELS[:2]), "style_of: 2 pictures for 3"),
        (lambda p: p.interpolate(PIXELS, PIXELS, 1), "steps 1: expected at least 2"),
        (lambda p: p.interpolate(PIXELS, PIXELS[..., 0], 3), r"image: expected .*given uint8 \[3,256,256\]"),
        (lambda p: p.styles(1, seed=-1), "seed -1: expected 0 to"),
        (lambda p: p.styles(1, psi=float("nan")), "psi nan: expected a number"),
    ],
)
def test_mistakes_name_given_and_expected(pipeline: Pipeline, call, message: str) -> None:
    with pytest.raises(PspError, match=message) as caught:
        call(pipeline)
    assert "\n" not in str(caught.value)


def test_an_engine_too_small_for_its_tasks_layers(tmp_path: Path) -> None:
    engine = write_family(tmp_path, mix_layers=())
    with psp_runtime.load(engine, "cpu") as pipeline:
        with pytest.raises(PspError, match="none of those its task mixes"):
            pipeline.mix(PIXELS[:1], pipeline.styles(1))
        assert pipeline.mix(PIXELS[:1], pipeline.styles(1), layers=(3,)).shape == (1, 1, 16, 16, 3)


# ---- Changed inputs -------------------------------------------------------------------------------------------


def test_the_triangle_is_symmetric_and_stands_on_the_lower_edge() -> None:
    mask = inputs.triangle(256)
    np.testing.assert_array_equal(mask, mask[:, ::-1])
    assert not mask[:128].any() and mask[-1, 1:-1].all() and mask[128, 127:129].all()
    hidden = inputs.hide(PIXELS, mask)
    assert (hidden[:, mask] == 0).all() and (hidden[:, ~mask] == PIXELS[:, ~mask]).all()


def test_masks_from_pictures_hide_what_is_white(tmp_path: Path) -> None:
    drawn = Image.new("L", (64, 64))
    drawn.paste(255, (0, 0, 32, 64))
    drawn.save(tmp_path / "mask.png")
    mask = inputs.read_mask(tmp_path / "mask.png")
    assert mask[:, :127].all() and not mask[:, 129:].any()
    for colour in (0, 255):
        Image.new("L", (8, 8), colour).save(tmp_path / "mask.png")
        with pytest.raises(PictureError, match="all over: expected white where"):
            inputs.read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_degraded_pictures_are_the_references(factor: int) -> None:
    picture = load(GOLDEN / "picture_256.png", "rgb")
    with np.load(GOLDEN / "super_resolution_inputs.npz") as expected:
        small = Image.fromarray(expected[f"x{factor}"])
    wanted = np.asarray(small.resize((256, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(inputs.degrade(picture, factor), wanted)


def test_factors_out_of_range() -> None:
    for factor in (0, -2, 65):
        with pytest.raises(PspError, match=f"downsample {factor}: expected a factor of 1 to 64"):
            inputs.degrade(PIXELS[0], factor)


def test_classes_are_swapped_all_at_once() -> None:
    labels = np.array([[4, 5], [13, 0]], np.uint8)
    np.testing.assert_array_equal(inputs.swap(labels, {4: 5, 5: 4, 13: 0}), [[5, 4], [0, 0]])


def test_reading_arrays_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"not numpy")
    np.save(tmp_path / "b.npy", np.array([{}], object))
    for name, message in (
        ("a", "not a .npy, .npz or .pt file"),
        ("b", "holds a dict without arrays"),
        ("none", "No such file"),
    ):
        with pytest.raises(PspError, match=message):
            read_array(tmp_path / f"{name}.npy")
