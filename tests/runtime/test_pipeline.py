import itertools
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_engines import MAX_BATCH, STYLE_DIM, STYLES, expected_output, write_onnx, write_plan

import psp_runtime
from psp_runtime import EngineError, PictureError, Pipeline, PspError, Translation
from psp_runtime.pipeline import parallel_map

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 256, 256, 3), np.uint8)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    for kind in ("rgb", "sketch", "labels"):
        write_onnx(folder / f"{kind}.onnx", kind)
    return folder


@pytest.fixture(scope="module")
def pipeline(engines: Path) -> Iterator[Pipeline]:
    with psp_runtime.load(engines / "rgb.onnx", device="cpu") as pipeline:
        yield pipeline


def latents_of(pixels: np.ndarray) -> np.ndarray:
    return np.float32(pixels.mean()) * np.arange(32, dtype=np.float32).reshape(STYLES, STYLE_DIM) / 2550


@pytest.mark.parametrize("batch", [None, 1, MAX_BATCH - 1, MAX_BATCH])
@pytest.mark.parametrize("count", [1, MAX_BATCH, MAX_BATCH + 1, 8])
def test_translate_splits_into_batches_and_loses_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, count: int, batch: int | None
) -> None:
    sizes = []
    monkeypatch.setattr(pipeline, "_batch", batch)
    run = pipeline.session.run
    pipeline.session.run = lambda inputs: (sizes.append(len(inputs["image"])), run(inputs))[1]
    try:
        output, latents = pipeline.translate(PIXELS[:count])
    finally:
        pipeline.session.run = run
    assert max(sizes) == min(batch or 1, count) and sum(sizes) == count
    for index in range(count):
        np.testing.assert_allclose(latents[index], latents_of(PIXELS[index]), rtol=1e-4)
        np.testing.assert_allclose(output[index], expected_output(PIXELS[index], latents[index]), atol=1)


def test_no_pictures_give_empty_results_of_the_right_shape(pipeline: Pipeline) -> None:
    output, latents = pipeline.translate(PIXELS[:0])
    assert output.shape == (0, 64, 64, 3) and output.dtype == np.uint8
    assert latents.shape == (0, STYLES, STYLE_DIM) and latents.dtype == np.float32
    assert pipeline([]) == [] and list(pipeline.stream([])) == [] and pipeline.prepare([]).shape == (0, 256, 256, 3)


def test_style_is_mixed_by_alpha_per_picture_across_batches(pipeline: Pipeline) -> None:
    style = RNG.normal(size=(8, STYLES, STYLE_DIM)).astype(np.float32)
    alpha = RNG.random((8, STYLES), np.float32)
    output, latents = pipeline.translate(PIXELS, style, alpha)
    np.testing.assert_allclose(latents, pipeline.translate(PIXELS).latents, rtol=1e-6)
    for index in range(8):
        mixed = (1 - alpha[index, :, None]) * latents[index] + alpha[index, :, None] * style[index]
        np.testing.assert_allclose(output[index], expected_output(PIXELS[index], mixed), atol=1)


def test_style_alone_is_mixed_as_the_task_does(pipeline: Pipeline) -> None:
    style = np.full((2, STYLES, STYLE_DIM), 1.0, np.float32)
    alpha = np.array([[0, 0, 0.5, 0.5]] * 2, np.float32)
    wanted = pipeline.translate(PIXELS[:2], style, alpha).output
    np.testing.assert_array_equal(pipeline.translate(PIXELS[:2], style).output, wanted)
    assert (wanted != pipeline.translate(PIXELS[:2]).output).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": PIXELS[0]}, r"image: expected uint8 \[B,256,256,3\], given uint8 \[256,256,3\]"),
        ({"pixels": PIXELS[:2].astype(np.float32)}, r"image: expected uint8 .* given float32 \[2,256,256,3\]"),
        ({"pixels": PIXELS[:2, :128]}, r"given uint8 \[2,128,256,3\]"),
        ({"pixels": [1, 2]}, "given list"),
        (
            {"style": np.zeros((2, 18, 512), np.float32)},
            r"style: expected float32 \[2,4,8\], given .* \[2,18,512\]",
        ),
        ({"style": np.zeros((2, 4, 8))}, "given float64"),
        ({"style": np.zeros((3, 4, 8), np.float32)}, r"given float32 \[3,4,8\]"),
        (
            {"style": np.zeros((2, 4, 8), np.float32), "alpha": np.zeros(4, np.float32)},
            r"alpha: expected .* \[2,4\]",
        ),
        ({"alpha": np.ones((2, 4), np.float32)}, "alpha without style"),
    ],
)
def test_wrong_arrays_name_given_and_expected(pipeline: Pipeline, change: dict, message: str) -> None:
    with pytest.raises(PspError, match=message):
        pipeline.translate(**{"pixels": PIXELS[:2], **change})


def test_class_ids_the_engine_does_not_know(engines: Path) -> None:
    with psp_runtime.load(engines / "labels.onnx", "cpu") as pipeline:
        with pytest.raises(PspError, match=r"class id 19, this engine knows 0\.\.18"):
            pipeline.translate(np.full((1, 256, 256), 19, np.uint8))
        assert pipeline.translate(np.full((1, 256, 256), 18, np.uint8)).output.shape == (1, 64, 64, 3)


@pytest.mark.parametrize(("kind", "mode"), [("sketch", "RGBA"), ("labels", "L")])
def test_every_input_kind_runs_from_a_picture(engines: Path, kind: str, mode: str) -> None:
    picture = Image.new(mode, (300, 256), 7 if mode == "L" else "white")
    with psp_runtime.load(engines / f"{kind}.onnx", "cpu") as pipeline:
        assert pipeline(picture).size == (64, 64)
        assert pipeline.prepare([picture]).max() == (7 if kind == "labels" else 255)


def test_call_takes_one_picture_or_several_of_any_form(pipeline: Pipeline, tmp_path: Path) -> None:
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS[0]), PIXELS[0]]
    wanted = pipeline.translate(PIXELS[:1]).output[0]
    outputs = pipeline(forms) + pipeline(tuple(forms)) + [pipeline(form) for form in forms]
    assert len(outputs) == 12
    for output in outputs:
        assert isinstance(output, Image.Image)
        np.testing.assert_array_equal(np.asarray(output), wanted)


def test_call_raises_for_a_picture_that_cannot_be_used(pipeline: Pipeline) -> None:
    for pictures in ("none.png", [PIXELS[0], "none.png"]):
        with pytest.raises(PictureError, match=r"none\.png"):
            pipeline(pictures)


@pytest.mark.parametrize("batch", [None, 1, 2, 3, 7, 50])
def test_stream_keeps_order_places_errors_and_the_last_partial_batch(pipeline: Pipeline, batch: int | None) -> None:
    pictures = [*PIXELS[:5], "bad.png", *PIXELS[5:], "worse.png"]
    results = list(pipeline.stream(pictures, batch, threads=3))
    wanted = pipeline.translate(PIXELS).output
    assert [isinstance(result, PictureError) for result in results] == [False] * 5 + [True] + [False] * 3 + [True]
    assert "bad.png" in str(results[5]) and "worse.png" in str(results[9])
    good = [result for result in results if isinstance(result, Translation)]
    for result, output in zip(good, wanted, strict=True):
        assert result.latents.shape == (STYLES, STYLE_DIM)
        np.testing.assert_array_equal(result.output, output)


def test_stream_of_bad_pictures_only(pipeline: Pipeline) -> None:
    assert [type(result) for result in pipeline.stream(["a.png"] * 5, 2)] == [PictureError] * 5


def test_stream_is_lazy_and_bounded(pipeline: Pipeline) -> None:
    taken = itertools.count()

    def a_large_folder() -> Iterator[np.ndarray]:
        for index in itertools.islice(taken, 300):
            yield PIXELS[index % 8]

    results = pipeline.stream(a_large_folder(), batch=2, threads=2)
    for _ in range(10):
        next(results)
    assert next(taken) <= 10 + 2 * 2 + 2 + 2
    results.close()


def test_squeezing_is_warned_about_once(pipeline: Pipeline, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS[0, :90]).save(tmp_path / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        pipeline([tmp_path / "a.png", tmp_path / "b.png", PIXELS[0, :80]])
    assert len(caught) == 1 and "squeezed" in str(caught[0].message)


def test_map_ahead_works_in_threads_in_order() -> None:
    together = threading.Barrier(2, timeout=5)

    def meet(number: int) -> int:
        together.wait()
        time.sleep(0.01 * (number % 2))
        return number * number

    assert list(parallel_map(meet, range(6), threads=2, prefetch=4)) == [0, 1, 4, 9, 16, 25]


def test_map_ahead_passes_errors_on_and_stops() -> None:
    done: list[int] = []

    def fail_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        done.append(number)
        return number

    with pytest.raises(ValueError, match="three"):
        list(parallel_map(fail_at_three, range(100), threads=1, prefetch=2))
    assert len(done) < 8


def test_batches_by_default_are_one_on_a_cpu_and_the_largest_on_a_gpu(pipeline: Pipeline) -> None:
    assert pipeline.device == "cpu" and pipeline.batch == 1
    pipeline.session.device = "cuda"
    try:
        assert pipeline.batch == MAX_BATCH
    finally:
        pipeline.session.device = "cpu"


def test_a_part_of_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="only the encoder"):
        psp_runtime.load(write_onnx(tmp_path / "g.onnx", part="encoder"), "cpu")


def test_load_passes_the_plan_to_its_onnx(tmp_path: Path) -> None:
    write_onnx(tmp_path / "psp.onnx")
    with pytest.warns(UserWarning, match="instead"):
        pipeline = psp_runtime.load(str(write_plan(tmp_path / "psp.trt")), "cpu")
    assert pipeline.info.styles == STYLES
