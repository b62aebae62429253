"""psp-run given what it cannot use: one line, exit code 2, and nothing is written."""

import errno
import os
from pathlib import Path

import pytest
from cli_runs import PspRun
from PIL import Image
from tiny_engines import write_onnx
from translation_folder import PIXELS, one_error

from psp_runtime.errors import PspError
from psp_runtime.run import files


def damage(how: str, engine: Path) -> Path:
    """An engine that is none."""
    whole = engine.read_bytes()
    if how == "cut in half":
        engine.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        engine.write_bytes(b"")
    elif how == "a picture":
        return Path("image.png")
    elif how == "not ours":
        engine.write_bytes(whole.replace(b"\x03psp\x12", b"\x03abc\x12"))
    elif how == "corrupt":
        engine.write_bytes(whole.replace(b"ReduceMean", b"ReduceLean"))
    elif how == "a part":
        write_onnx(engine, part="encoder")
    elif how == "missing":
        return Path("none.trt")
    return engine


@pytest.mark.parametrize("how", ["cut in half", "empty", "a picture", "not ours", "corrupt", "a part", "missing"])
def test_bad_engines_come_before_bad_pictures(psp_run: PspRun, here: Path, how: str) -> None:
    engine = damage(how, here / "psp.onnx")
    message = one_error(psp_run("none.jpg", "--engine", engine, "--out", "r/"))
    assert "none.jpg" not in message and engine.name in message
    # What only opening the engine shows comes after the check that outputs can be written.
    assert Path("r").exists() == (how == "corrupt")
    assert not list(here.glob("*_out.png"))


def test_outputs_that_meet(psp_run: PspRun, here: Path) -> None:
    Image.fromarray(PIXELS[1]).save("photos/p1.jpg")
    message = one_error(psp_run("photos", "--engine", "psp.onnx", "--out", "r"))
    assert "photos/p1.jpg and photos/p1.png would both become r/p1_out.png" in message
    assert not Path("r").exists()


@pytest.mark.parametrize("out", ["image.png", "./photos/../image.png"])
def test_an_output_never_overwrites_an_input(psp_run: PspRun, here: Path, out: str) -> None:
    before = Path("image.png").read_bytes()
    assert "is an input too" in one_error(psp_run("image.png", "--engine", "psp.onnx", "--out", out))
    assert Path("image.png").read_bytes() == before


def test_outputs_that_meet_under_other_names(psp_run: PspRun, here: Path) -> None:
    message = one_error(
        psp_run("image.png", "--engine", "psp.onnx", "--out", here / "x.png", "--grid", "photos/../x.png")
    )
    assert "image.png and --grid would both become photos/../x.png" in message and not Path("x.png").exists()


def test_names_that_macos_takes_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(PspError, match="is an input too"):
        files.check_clashes([("Caf\u00e9.png", tmp_path / "CAFE\u0301.png")], [tmp_path / "caf\u00e9.png"])


def test_an_input_elsewhere_named_like_an_output(psp_run: PspRun) -> None:
    Image.fromarray(PIXELS[1]).save("p0_out.png")
    message = one_error(psp_run("photos/p0.png", "p0_out.png", "--engine", "psp.onnx"))
    assert "p0_out.png, the output of photos/p0.png, is an input too" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--out", "r.png"], "--out r.png names one picture"),
        (["image.png", "photos", "--out", "r.png"], "--out r.png names one picture"),
        (["image.png", "--out", "r.gif"], "must end in one of .png, .jpg"),
        (["image.png", "--out", "note/"], "note: it is a file, expected a folder"),
        (["photos", "--out", "note"], "note: it is a file, expected a folder"),
        (["image.png", "--out", "note/r.png"], "note: it is a file, expected a folder"),
        (["image.png", "--out", "note/deeper/r.png"], "Not a directory"),
        (["image.png", "--save-latents", "note/codes.npy"], "note: it is a file"),
        (["empty"], "no pictures in empty: expected files named .png"),
        (["none/none.png"], "cannot read none/none.png: No such file"),
        (["image.png", "--device", "cuda"], "cannot run with --device cuda"),
        (["image.png", "--format", "jpg", "--out", "r.png"], "--out r.png and --format jpg contradict each other"),
        (["photos", "--format", "jpg", "--grid", "g.png"], "--format is for single pictures, and only a sheet"),
        (["image.png", "--quality", "101"], "Invalid value for '--quality'"),
        (["image.png", "--quality", "0", "--format", "jpg"], "Invalid value for '--quality'"),
        (["image.png", "--compression", "10"], "Invalid value for '--compression'"),
        (["image.png", "--quality", "80"], "--quality is for JPEG and WEBP files, this run writes PNG"),
        (["photos", "--compression", "9", "--format", "webp"], "--compression is for PNG files, this run writes WEBP"),
        ([""], "one of the arguments is empty"),
        (["image.png", "--save-latents", ""], "one of the arguments is empty"),
    ],
)
def test_mistakes_are_one_line(
    psp_run: PspRun, here: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psp_runtime.engines.devices.cuda_devices", lambda: 0)
    Path("note").write_text("a file")
    Path("empty").mkdir()
    assert message in one_error(psp_run(*arguments, "--engine", "psp.onnx"))
    assert Path("note").read_text() == "a file" and not list(here.rglob("*_out.png"))


def test_a_read_only_folder_is_found_before_inference(
    psp_run: PspRun, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "r/tmp123")

    monkeypatch.setattr("psp_runtime.run.files.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("psp_runtime.run.execution.open_session", lambda *_: pytest.fail("opened the engine"))
    assert one_error(psp_run("photos", "--engine", "psp.onnx", "--out", "r")) == (
        "cannot write into r: Read-only file system"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(psp_run: PspRun) -> None:
    Path("r").mkdir(mode=0o500)
    assert "cannot write into r: Permission denied" in one_error(
        psp_run("photos", "--engine", "psp.onnx", "--out", "r")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image.png"], "expected one of --engine ENGINE and --url URL"),
        (["image.png", "--engine", "psp.onnx", "--url", "http://127.0.0.1:1"], "expected one of --engine"),
        (["--engine", "psp.onnx"], "expected pictures: psp run INPUTS --engine ENGINE"),
    ],
)
def test_incomplete_and_contradicting_commands(psp_run: PspRun, arguments: list[str], message: str) -> None:
    assert message in one_error(psp_run(*arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "'--batch'"),
        (["--size", "x"], "'--size'"),
        (["--size", "8192"], "'--size'"),
        (["--device", "tpu"], "'tpu' is not one of 'auto', 'cuda', 'cpu'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["-dash.png"], "No such option: -d"),
        (["--out"], "'--out' requires an argument"),
        (["--couple=3"], "'--couple' does not take a value"),
    ],
)
def test_wrong_options_are_one_line_too(psp_run: PspRun, arguments: list[str], message: str) -> None:
    error = one_error(psp_run("image.png", "--engine", "psp.onnx", *arguments))
    assert message in error and error.endswith(": see psp-run --help")
