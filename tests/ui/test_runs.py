"""What the page asks of `psp`, and what it shows of it."""

import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_family import picture_of
from ui_pages import PIXELS, asked, run_command

from psp_runtime.errors import EngineError, PspError
from psp_runtime.pictures.loading import SQUEEZED, load
from psp_runtime.run.verbs import Translate
from psp_runtime.ui.canvas import face_labels
from psp_runtime.ui.choices import MAKES, as_options, command
from psp_runtime.ui.runs import KEPT, Runs
from psp_runtime.ui.watch import Cancelled, Watch

#: What can be made of a photo.
OF_PHOTOS = [make for make in MAKES if make != "Label swap"]


@pytest.mark.parametrize("make", OF_PHOTOS)
def test_the_command_makes_the_very_files_on_the_page(make: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = runs.run(Path("engines/psp.onnx"), asked(make))
    run_command(shown.command, monkeypatch)
    made = {Path(path).name: Path(path).read_bytes() for path, _ in shown.pictures}
    assert made == {path.name: path.read_bytes() for path in Path().glob("a_out*.png")}
    assert len(made) == {"Variations": 3, "Interpolate": 4, "Edit": 4}.get(make, 1)


@pytest.mark.parametrize("make", OF_PHOTOS)
def test_steps_of_restyle_on_the_page(make: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = runs.run(Path("engines/steps.onnx"), asked(make, iterations=2.0))
    assert "--iterations 2" in shown.command
    run_command(shown.command, monkeypatch)
    made = {Path(path).name: Path(path).read_bytes() for path, _ in shown.pictures}
    assert made == {path.name: path.read_bytes() for path in Path().glob("a_out*.png")}
    again = runs.run(Path("engines/steps.onnx"), asked(make))  # as many as the engine says
    assert "--iterations" not in again.command
    if make == "Translate":
        assert Path(again.pictures[0][0]).read_bytes() != Path(shown.pictures[0][0]).read_bytes()


def test_runs_of_the_page_show_no_progress_in_the_terminal(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = runs.run(Path("engines/steps.onnx"), asked("Translate"))
    assert capsys.readouterr().err == "" and "quiet" not in shown.command


@pytest.mark.parametrize(("engine", "change"), [("sr", {"downsample": 8.0}), ("inpaint", {"mask": True})])
def test_a_changed_input_is_shown_first(
    engine: str, change: dict[str, Any], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = runs.run(Path(f"engines/{engine}.onnx"), asked("Translate", **change))
    run_command(shown.command, monkeypatch)
    assert [text for _, text in shown.pictures] == ["input", ""]
    assert [Path(path).read_bytes() for path, _ in shown.pictures] == [
        Path(f"a_out{ending}.png").read_bytes() for ending in ("_input", "")
    ]


def test_captions_timing_and_warnings(runs: Runs) -> None:
    Image.fromarray(PIXELS[0, :100]).save("a.png")
    shown = runs.run(Path("engines/psp.onnx"), asked("Interpolate"))
    assert [text for _, text in shown.pictures] == ["share 0", "share 0.33", "share 0.67", "share 1"]
    assert re.fullmatch(r"4 pictures in \d+\.\d\d s of engine time \(\d+\.\d pictures/s, fp32, cpu\)", shown.timing)
    assert shown.warnings == [SQUEEZED]
    assert warnings.showwarning.__module__ != "psp_runtime.ui.runs"


def test_the_page_says_what_an_int8_engine_computes_in(here: Path) -> None:
    page = Runs(here / "page", precision="int8")
    assert page.run(Path("engines/int8.onnx"), asked("Variations")).timing.endswith(", int8, cpu)")
    page.close()


def test_bf16_that_cannot_be_is_one_line_on_the_page(here: Path) -> None:
    page = Runs(here / "page", precision="bf16")
    with pytest.raises(EngineError, match=r"psp\.onnx cannot run in bf16: PSP_CPU=onnxruntime computes in FP32: .*$"):
        page.run(Path("engines/psp.onnx"), asked("Translate"))
    page.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"picture": None}, "Translate: give a picture first"),
        ({"make": "Interpolate", "to": None}, "Interpolate: give both pictures first"),
        ({"make": "Variations", "layers": "99"}, "--layers 99: expected layers such as"),
        ({"downsample": 8}, "--downsample is for super_resolution engines"),
    ],
)
def test_what_cannot_be_made_is_one_line(values: dict[str, Any], message: str, runs: Runs) -> None:
    with pytest.raises(PspError, match=re.escape(message)):
        runs.run(Path("engines/psp.onnx"), asked("Translate") | values)


def test_messages_name_files_not_folders(runs: Runs) -> None:
    bad = runs.new_folder() / "bad.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(PspError) as caught:
        runs.run(Path("engines/psp.onnx"), asked("Translate", picture=str(bad)))
    assert runs.worded(caught.value).startswith("cannot read bad.png: not a picture of a known format")


def test_only_the_last_runs_are_kept(runs: Runs) -> None:
    folders = [runs.new_folder() for _ in range(KEPT + 2)]
    assert [folder.is_dir() for folder in folders] == [False] * 2 + [True] * KEPT


def test_a_face_of_the_generators_own(runs: Runs) -> None:
    engine = Path("engines/psp.onnx")
    face = load(runs.random_face(engine, 3), "rgb", 16)
    codes = runs.pipeline(engine).styles(1, 3, psi=0.7)[0]
    assert np.abs(face - picture_of(codes)).max() <= 1
    assert runs.pipeline(engine) is runs.pipeline(engine)


def test_the_words_of_a_command() -> None:
    options = as_options(Path("my engines/psp.onnx"), asked("Variations", picture="up/a b.png"), "cpu")
    words = "psp mix 'a b.png' --engine 'my engines/psp.onnx' --layers 4-9 --alpha 0.5"
    assert command(options) == f"{words} --count 3 --psi 0.0 --device cpu"
    plain = as_options(Path("psp.onnx"), asked("Translate", mask=False, layers=""))
    assert plain == Translate(inputs=["a.png"], engine=Path("psp.onnx"))


def test_a_swap_of_classes_is_seen_before_and_after(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(face_labels()).save("labels.png")
    shown = runs.run(Path("engines/seg.onnx"), asked("Label swap", picture="labels.png"))
    assert "--classes 13=0" in shown.command and [text for _, text in shown.pictures] == ["before", "after"]
    assert shown.compared == tuple(path for path, _ in shown.pictures)
    run_command(shown.command, monkeypatch)
    assert Path(shown.pictures[1][0]).read_bytes() == Path("labels_out_2.png").read_bytes()


def test_before_and_after_have_one_size(runs: Runs) -> None:
    shown = runs.run(Path("engines/sr.onnx"), asked("Translate", downsample=8))
    assert shown.compared is not None and shown.compared[1] == shown.pictures[-1][0]
    before, after = (Image.open(path) for path in shown.compared)
    assert before.size == after.size == (16, 16)
    seen = Image.open(shown.pictures[0][0]).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(np.asarray(before), np.asarray(seen))
    assert runs.run(Path("engines/psp.onnx"), asked("Variations")).compared is None


@pytest.mark.parametrize("make", ["Interpolate", "Edit"])
def test_the_zip_has_all_that_its_command_needs(
    make: str, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = runs.run(Path("engines/psp.onnx").resolve(), asked(make, animate=True))
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(shown.files) as archive:
        archive.extractall(unpacked)
        text = archive.read("command.txt").decode().strip()
    assert text == shown.command and "--out . --gif a.gif" in text
    made = {path.name: path.read_bytes() for path in unpacked.glob("a*") if path.name != "a.png"}
    assert len(made) == 5 and shown.animation is not None and "a.gif" in made
    for name in made:
        (unpacked / name).unlink()
    monkeypatch.chdir(unpacked)
    run_command(text, monkeypatch)
    assert made == {path.name: path.read_bytes() for path in Path().glob("a*") if path.name != "a.png"}
    assert Image.open("a.gif").n_frames == 6  # there and back again


def test_many_pictures_and_one_that_is_none(runs: Runs) -> None:
    Path("bad.png").write_bytes(b"not a picture")
    shown = runs.run(Path("engines/psp.onnx"), asked("Translate", picture=["a.png", "b.png", "bad.png"]))
    assert [text for _, text in shown.pictures] == ["a_out", "b_out"]
    assert len(shown.warnings) == 1 and shown.warnings[0].startswith("cannot read bad.png")
    assert shown.command == "psp run a.png b.png bad.png --engine engines/psp.onnx"
    with zipfile.ZipFile(shown.files) as archive:
        assert {"a_out.png", "b_out.png", "command.txt"} <= set(archive.namelist())


def test_a_run_tells_its_steps_and_ends_when_nobody_waits(runs: Runs) -> None:
    engine, watch, heard = Path("engines/psp.onnx"), Watch(), []
    watch.begin(lambda words, done, total: heard.append((words, done, total)))
    runs.run(engine, asked("Variations"), watch)
    assert heard[0] == ("Opening the engine", None, None)
    assert ("Making picture 2 of 3", 1, 3) in heard and heard[-1] == ("Making picture 3 of 3", 3, 3)
    ended = Watch()
    ended.begin(lambda words, done, total: ended.end() if done == 2 else None)
    with pytest.raises(Cancelled):
        runs.run(engine, asked("Variations"), ended)
    assert len(runs.run(engine, asked("Variations")).pictures) == 3  # the engine is as it was


def test_steps_of_restyle_are_counted(runs: Runs) -> None:
    watch, heard = Watch(), []
    watch.begin(lambda words, done, total: heard.append(words))
    runs.run(Path("engines/steps.onnx"), asked("Translate", iterations=3), watch)
    assert heard[1:] == ["Making step 1 of 3", "Making step 2 of 3", "Making step 3 of 3", "Making step 3 of 3"]
