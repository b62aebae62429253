"""ReStyle at run time: every step against the formula, every application, the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import runner
from PIL import Image
from tiny_engines import write_onnx
from tiny_family import STYLE_DIM, STYLES
from tiny_steps import CARS, expected_steps, picture_of, write_steps

from psp_runtime import commands
from psp_runtime.cluster.artifacts import pack
from psp_runtime.engines.info import read_info
from psp_runtime.engines.refinement import RefiningSession
from psp_runtime.engines.session import OnnxSession, open_session
from psp_runtime.errors import EngineError, PspError
from psp_runtime.pipeline import Pipeline
from psp_runtime.run.info import describe
from psp_runtime.run.verbs import Translate

PIXELS = np.random.default_rng(3).integers(0, 256, (3, 256, 256, 3), np.uint8)
PIXELS[0] //= 3  # so that no two of them are alike
PIXELS[2] = 255 - PIXELS[2] // 4


#: Of means over 200,000 pixels in FP32.
ROUNDING = 2e-4


class Counted:
    """A session that counts its runs."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path, "cpu")
        self.path, self.info = self._session.path, self._session.info
        self.device, self.precision, self.max_batch = "cpu", "fp32", self._session.max_batch
        self.runs, self.close = 0, self._session.close

    def run(self, inputs):
        self.runs += 1
        return self._session.run(inputs)

    def run_many(self, batches):
        return map(self.run, batches)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_steps(tmp_path_factory.mktemp("engine"))


def close(actual: np.ndarray, wanted: np.ndarray) -> bool:
    """Truncated to uint8, up to a rounding in FP32 at a whole number."""
    return bool(np.abs(actual.astype(float) + 0.5 - wanted).max() <= 0.51)


def test_every_step_is_the_formula(engine: Path) -> None:
    with Pipeline(OnnxSession(engine, "cpu")) as pipeline:
        done = pipeline.refine(PIXELS)
        last = pipeline.translate(PIXELS)
        assert pipeline.info.part == "full" and pipeline.info.iterations == 5
    assert done.output.shape == (3, 5, 16, 16, 3) and done.latents.shape == (3, 5, STYLES, STYLE_DIM)
    for one, pixels in enumerate(PIXELS):
        for step, (latents, _) in enumerate(expected_steps(pixels, 5)):
            np.testing.assert_allclose(done.latents[one, step], latents, atol=ROUNDING)
            assert close(done.output[one, step], picture_of(latents))
    np.testing.assert_array_equal(last.output, done.output[:, -1])
    np.testing.assert_array_equal(last.latents, done.latents[:, -1])
    assert np.abs(np.diff(done.latents, axis=1)).max(axis=(0, 2, 3)).min() > 10 * ROUNDING  # each step is another one


def test_styles_are_mixed_in_after_the_last_step_alone(engine: Path) -> None:
    style = np.full((1, STYLES, STYLE_DIM), 2, np.float32)
    alpha = np.linspace(0, 1, STYLES, dtype=np.float32)[None]
    with Pipeline(OnnxSession(engine, "cpu"), iterations=3) as pipeline:
        mixed = pipeline.translate(PIXELS[:1], style, alpha)
        plain = pipeline.translate(PIXELS[:1])
    latents = expected_steps(PIXELS[0], 3)[-1][0]
    np.testing.assert_allclose(mixed.latents[0], latents, atol=ROUNDING)
    np.testing.assert_array_equal(mixed.latents, plain.latents)
    weight = alpha[0][:, None]
    assert close(mixed.output[0], picture_of((1 - weight) * latents + weight * style[0]))


def test_each_picture_of_a_batch_has_its_own_steps(engine: Path) -> None:
    session = RefiningSession(OnnxSession(engine, "cpu"))
    zeros = {"style": np.zeros((3, STYLES, STYLE_DIM), np.float32), "alpha": np.zeros((3, STYLES), np.float32)}
    counts = np.array([[1], [0], [3]], np.int32)  # 0: as many as the engine says
    done = session.run({"image": PIXELS, "iterations": counts, **zeros})
    for pixels, count, latents in zip(PIXELS, (1, 5, 3), done["latents"], strict=True):
        np.testing.assert_allclose(latents, expected_steps(pixels, count)[-1][0], atol=ROUNDING)


def test_what_each_application_costs(engine: Path) -> None:
    session = Counted(engine)
    with Pipeline(session) as pipeline:
        latents = pipeline.encode(PIXELS[:1])
        assert session.runs == 5
        pictures = pipeline.decode(latents)
        assert session.runs == 6
        np.testing.assert_array_equal(pictures, pipeline.translate(PIXELS[:1]).output)
        before, styles = session.runs, pipeline.styles(4, seed=1)
        faces = pipeline.mix(PIXELS[:1], styles)
        assert session.runs == before + 5 + 4
        before = session.runs
        one = pipeline.mix(PIXELS[:1], styles[:1])
        assert session.runs == before + 5
        np.testing.assert_array_equal(one[:, 0], faces[:, 0])
        np.testing.assert_array_equal(pipeline.mix(PIXELS[:1], styles[:2], alpha=0)[:, 0], pictures)
        edited = pipeline.edit(PIXELS[:1], np.ones(STYLE_DIM), (0, 0.5))
        np.testing.assert_array_equal(edited[:, 0], pictures)
        assert close(edited[0, 1], picture_of(latents[0] + 0.5))
        way = pipeline.interpolate(PIXELS[:1], PIXELS[1:2], 3)
        np.testing.assert_array_equal(way[0, 2], pipeline.translate(PIXELS[1:2]).output[0])
        assert close(way[0, 1], picture_of((latents[0] + pipeline.encode(PIXELS[1:2])[0]) / 2))
        taken = pipeline.transfer(PIXELS[:1], PIXELS[1:2], layers=range(STYLES), alpha=1)
        np.testing.assert_array_equal(taken[0], way[0, 2])


class Served:
    """A session as psp serve has it: all steps of a step engine behind it, or as many as it is asked for."""

    def __init__(self, step: Counted) -> None:
        self._steps = RefiningSession(step)
        self.path, self.info, self.device, self.max_batch = step.path, self._steps.info, "cpu", step.max_batch
        self.run, self.run_many, self.close = self._steps.run, self._steps.run_many, step.close


def test_what_each_application_costs_a_server(engine: Path) -> None:
    step = Counted(engine)
    with Pipeline(Served(step)) as pipeline, Pipeline(OnnxSession(engine, "cpu")) as here:
        latents = pipeline.encode(PIXELS[:1])
        assert step.runs == 5
        np.testing.assert_array_equal(pipeline.decode(latents), here.decode(latents))
        assert step.runs == 6
        before, styles = step.runs, here.styles(4, seed=1)
        np.testing.assert_array_equal(pipeline.mix(PIXELS[:1], styles), here.mix(PIXELS[:1], styles))
        assert step.runs == before + 5 + 4
        before = step.runs
        pipeline.edit(PIXELS[:1], np.ones(STYLE_DIM), (0, 0.5))
        assert step.runs == before + 5 + 2


def test_another_engine_first(engine: Path, tmp_path: Path) -> None:
    toon = write_steps(tmp_path, "toon", scale=0.5, task="toonify")
    with Pipeline(OnnxSession(toon, "cpu"), first=OnnxSession(engine, "cpu")) as pipeline:
        done = pipeline.refine(PIXELS[:1])
    begun = expected_steps(PIXELS[0], 1)
    wanted = [*begun, *expected_steps(PIXELS[0], 2, scale=0.5, state=begun[0])]
    assert done.output.shape[1] == 3
    for step, (latents, _) in enumerate(wanted):
        np.testing.assert_allclose(done.latents[0, step], latents, atol=ROUNDING)
        assert close(done.output[0, step], picture_of(latents))


def test_what_has_no_steps_says_so(engine: Path, tmp_path: Path) -> None:
    plain = write_onnx(tmp_path / "plain.onnx")
    with pytest.raises(PspError, match=r"plain.onnx makes its pictures in one step: leave out iterations$"):
        Pipeline(OnnxSession(plain, "cpu"), iterations=3)
    with pytest.raises(PspError, match="leave out iterations and first$"):
        Pipeline(OnnxSession(plain, "cpu"), iterations=3, first=OnnxSession(engine, "cpu"))
    with Pipeline(OnnxSession(engine, "cpu")) as pipeline, pytest.raises(PspError, match="iterations 0: expected 1"):
        pipeline.repeat(0)
    with pytest.raises(EngineError, match=r"plain.onnx makes its picture in one step"):
        Pipeline(OnnxSession(engine, "cpu"), first=OnnxSession(plain, "cpu"))
    with Pipeline(OnnxSession(plain, "cpu")) as pipeline, pytest.raises(PspError, match="no others to show"):
        pipeline.refine(PIXELS)
    with pytest.raises(PspError, match="iterations 21: expected 1 to 20 steps"):
        Pipeline(OnnxSession(engine, "cpu"), iterations=21)
    cars = write_steps(tmp_path, "cars", **CARS)
    with pytest.raises(EngineError, match=r"cars.onnx is no engine to go on from: its input_shape is \(192, 256\)"):
        Pipeline(OnnxSession(engine, "cpu"), first=OnnxSession(cars, "cpu"))


# ---- The command line ------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, pixels in zip("ab", PIXELS, strict=False):
        Image.fromarray(pixels).save(f"{name}.png")
    write_steps(tmp_path)
    return tmp_path


def read(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


def note_of(name: str) -> dict:
    with Image.open(name) as opened:
        return json.loads(opened.info["psp"])


def test_notes_say_the_steps_that_were_run(here: Path, psp_run, monkeypatch, capsys) -> None:
    assert psp_run("a.png", "-e", "steps.onnx", "--save-latents", "w.npy", "--out", "all.png")[0] == 0
    assert psp_run("a.png", "-e", "steps.onnx", "--iterations", 2, "--grid", "two.png")[0] == 0
    psp = runner(monkeypatch, capsys, "psp")
    assert psp("decode", "w.npy", "-e", "steps.onnx", "--out", "decoded.png")[0] == 0
    assert note_of("all.png")["iterations"] == 5 and note_of("two.png")["iterations"] == 2
    assert "iterations" not in note_of("decoded.png") and "first" not in note_of("all.png")


def test_the_sheet_shows_every_step(here: Path, psp_run) -> None:
    code, out, err = psp_run("a.png", "--engine", "steps.onnx", "--iterations", 3, "--grid", "steps.png")
    assert code == 0, err
    assert out.startswith("3 pictures in ") and ", one after each of 3 steps)" in out
    sheet = read("steps.png")
    assert sheet.shape == (16 + 8, 4 * 20 + 4, 3)
    for step, (latents, _) in enumerate(expected_steps(PIXELS[0], 3)):
        left = 4 + 20 * (step + 1)
        assert close(sheet[4:20, left : left + 16], picture_of(latents))


def test_the_summary_counts_pictures_and_steps(here: Path, psp_run, monkeypatch, capsys) -> None:
    """One picture is none in the plural; several of one input share its steps."""
    psp = runner(monkeypatch, capsys, "psp")
    for words, counts in (
        ("run a.png --iterations 1", ("1 picture in ", "cpu): ")),
        ("run a.png --iterations 1 --grid one.png", ("1 picture in ", "cpu): one.png")),
        ("run a.png b.png --iterations 2 --grid two.png", ("4 pictures in ", ", one after each of 2 steps; busy")),
        ("run a.png --first steps.onnx --grid two.png", ("3 pictures in ", ", one after each of 3 steps): two.png")),
        ("mix a.png --count 3 --iterations 2 --grid mixed.png", ("3 pictures in ", ", 2 steps of each input): mixed")),
    ):
        code, out, err = psp(*words.split(), "--engine", "steps.onnx")
        assert code == 0 and out.startswith(counts[0]) and counts[1] in out, (words, out, err)


def test_a_folder_gets_its_last_pictures_and_latents(here: Path, psp_run, monkeypatch, capsys) -> None:
    code, out, err = psp_run("a.png", "b.png", "-e", "steps.onnx", "--save-latents", "w.npy")
    assert code == 0 and "5 steps each" in out, err
    saved = np.load("w.npy")
    for index, name in enumerate("ab"):
        latents = expected_steps(PIXELS[index], 5)[-1][0]
        assert close(read(f"{name}_out.png"), picture_of(latents))
        np.testing.assert_allclose(saved[index], latents, atol=ROUNDING)
    out = runner(monkeypatch, capsys, "psp")("decode", "w.npy", "-e", "steps.onnx")[1]
    assert out.startswith("2 pictures in ") and "steps" not in out.partition(": ")[0], "latents are decoded in one"


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ("a.png -e steps.onnx", 5),
        ("a.png b.png -e steps.onnx --iterations 3", 6),
        ("a.png -e steps.onnx --grid steps.png", 5),
        ("a.png -e plain.onnx", 1),
        ("a.png -e plain.onnx --align --faces all", None),
    ],
)
def test_an_engine_is_opened_for_all_its_runs(here: Path, psp_run, monkeypatch, words: str, runs: int | None) -> None:
    """One that is opened for a single run gives back its memory after it, which costs every other run its speed."""
    write_onnx(here / "plain.onnx")
    opened = []

    def open_pipeline(options, runs):
        opened.append(runs)
        raise PspError("that is enough")

    monkeypatch.setattr(commands, "open_pipeline", open_pipeline)
    assert psp_run(*words.split())[0] == 2
    assert opened == [runs]


def test_quiet_is_quiet(here: Path, psp_run, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "5 steps a picture" in psp_run("a.png", "-e", "steps.onnx")[2]
    assert psp_run("a.png", "-e", "steps.onnx", "--quiet") == (0, "", "")


def test_toonify_from_a_face(here: Path, psp_run) -> None:
    write_steps(here, "toon", scale=0.5, task="toonify")
    code, out, err = psp_run("a.png", "-e", "toon.onnx", "--first", "steps.onnx", "--iterations", 1)
    assert code == 0 and ", 2 steps): " in out, err
    note = note_of("a_out.png")
    assert (note["iterations"], note["first"]) == (1, "steps.onnx")
    begun = expected_steps(PIXELS[0], 1)[0]
    assert close(read("a_out.png"), picture_of(expected_steps(PIXELS[0], 1, 0.5, begun)[-1][0]))
    options = Translate(engine=Path("toon.onnx"), first=Path("steps.onnx"))
    assert {file.path.name for file in pack(options).files} >= {"toon.onnx", "steps.onnx"}  # what Ray sends along
    code, _, err = psp_run("a.png", "-e", "toon.onnx", "--first", "none.onnx")
    assert code == 2 and "no engine at none.onnx" in err


def test_steps_of_an_engine_without_any(here: Path, psp_run) -> None:
    write_onnx(here / "plain.onnx")
    code, _, err = psp_run("a.png", "-e", "plain.onnx", "--iterations", 3)
    assert code == 2 and "--iterations is for ReStyle engines, plain.onnx makes its pictures in one step" in err


def test_steps_of_stored_latents(here: Path, psp_run, monkeypatch, capsys) -> None:
    """They are decoded in one: only another input that is a picture takes more."""
    np.save("lat.npy", np.zeros((STYLES, STYLE_DIM), np.float32))
    np.save("smile.npy", np.zeros((STYLES, STYLE_DIM), np.float32))
    psp = runner(monkeypatch, capsys, "psp")
    for words in (["edit", "lat.npy", "-d", "smile.npy"], ["morph", "lat.npy", "--to", "smile.npy"]):
        code, _, err = psp(*words, "-e", "steps.onnx", "--iterations", 3)
        assert code == 2 and "--iterations is for pictures, and lat.npy holds latents, which are decoded in one" in err
    assert psp("morph", "lat.npy", "--to", "a.png", "-e", "steps.onnx", "--iterations", 3, "--steps", 2)[0] == 0
    latents = expected_steps(PIXELS[0], 3)[-1][0]
    assert close(read("lat_out_2.png"), picture_of(latents))


def test_info_frames_faces_alone(here: Path) -> None:
    for name, facts, framed in (("face", {}, True), ("cars", CARS, False)):
        path = write_steps(here, name, **facts)
        assert ("faces framed" in describe(path, read_info(path))) == framed


def test_cars_are_wide(here: Path, psp_run) -> None:
    write_steps(here, "cars", **CARS)
    Image.fromarray(PIXELS[0][:192]).save("car.png")
    code, _, err = psp_run("car.png", "-e", "cars.onnx", "--size", 32, "--couple", "--out", "car_out.png")
    assert (code, err) == (0, "")
    assert read("car_out.png").shape == (24, 64, 3)
    code, _, err = psp_run("car.png", "-e", "cars.onnx", "--grid", "sheet.png", "--iterations", 2)
    assert code == 0 and read("sheet.png").shape == (12 + 8, 3 * 20 + 4, 3)
    latents = expected_steps(PIXELS[0][:192], 2)[-1][0]
    assert close(read("sheet.png")[4:16, 44:60], picture_of(latents, 12))


def test_a_square_is_no_warning_for_cars_but_a_tower_is(here: Path, psp_run) -> None:
    write_steps(here, "cars", **CARS)
    _, _, err = psp_run("a.png", "-e", "cars.onnx")
    assert err == ""
    Image.fromarray(PIXELS[0][:, :128]).save("tower.png")
    _, _, err = psp_run("tower.png", "-e", "cars.onnx")
    assert "far from the shape 256x192 of this engine's" in err
