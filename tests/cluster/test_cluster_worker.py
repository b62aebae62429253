"""Runs on a cluster whose one worker is in this process: what they make is what a plain run makes."""

import json
from pathlib import Path

import pytest
from cli_runs import PspRun
from cluster_runs import contents, errors, write_pictures
from PIL import Image
from tiny_engines import write_onnx
from tiny_steps import write_steps

from psp_train.drawn.samples import draw_scene

pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install '.[ray]'")
pytestmark = pytest.mark.usefixtures("workers_here")


@pytest.mark.parametrize("far", [False, True])
def test_whole_photos(far: bool, psp_run: PspRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the faces; crops and outputs, here or elsewhere, are byte for byte those of a plain run."""
    monkeypatch.chdir(tmp_path)
    engine = write_onnx(tmp_path / "psp.onnx", crop_scale=1.28)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    Image.fromarray(draw_scene(1, 360)).save("photos/sub/party.jpg", quality=95)
    Image.new("RGB", (300, 200), "pink").save("photos/nobody.png")
    place = f"fsspec+file://{tmp_path}/" if far else ""
    words = ["--engine", engine, "--align", "--faces", "all", *(["--paste-back"] if far else [])]
    folders = ["--out", f"{place}out", "--save-aligned", f"{place}crops"]
    code, out, err = psp_run(f"{place}photos", *words, *folders, "--ray", "--actors", 1)
    assert code == 1 and out.startswith("1 picture in " if far else "4 pictures in ")
    assert [line for line in errors(err) if "nobody.png: no face found" in line]
    assert psp_run("photos/sub/party.jpg", *words, "--out", "plain/", "--save-aligned", "plain_crops")[0] == 0
    assert pictures(tmp_path / "out" / "sub") == pictures(tmp_path / "plain")
    assert pictures(tmp_path / "crops" / "sub") == pictures(tmp_path / "plain_crops")
    assert len(pictures(tmp_path / "crops")) == 4 and len(pictures(tmp_path / "out")) == (1 if far else 4)


def pictures(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*.*") if path.suffix in (".png", ".jpg")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_an_int8_engine(psp_run: PspRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers compute in what a plain run does, and say so in every file."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", 2)
    engine = write_onnx(tmp_path / "psp.onnx", precision="int8", processor="cpu")
    code, out, err = psp_run("photos", "--engine", engine, "--precision", "int8", "--out", "out", "--ray")
    assert code == 0 and out.startswith("2 pictures in "), err
    assert psp_run("photos", "--engine", engine, "--out", "plain")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") != {}
    assert json.loads(Image.open("out/p00_out.png").text["psp"])["computed"] == "int8"


def test_an_engine_without_that_precision(psp_run: PspRun, tmp_path: Path) -> None:
    """A worker's answer, as that of an engine that does not open: one line, and nothing is made."""
    write_pictures(tmp_path / "photos", 1)
    engine = write_onnx(tmp_path / "psp.onnx")
    how = ["--engine", engine, "--precision", "int8", "--out", tmp_path / "out"]
    code, out, err = psp_run(tmp_path / "photos", *how, "--ray")
    assert (code, out, len(errors(err))) == (2, "", 1) and "is an FP32 engine and has no INT8 form" in err
    assert set(contents(tmp_path)) == {"photos/p00.png"}


def test_steps_of_restyle(psp_run: PspRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of steps, and one of another engine before them, shape the outputs as those of a plain run."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", 3)
    write_steps(tmp_path, "toon", 0.5), write_steps(tmp_path, "face")
    how = ["--engine", "toon.onnx", "--first", "face.onnx", "--iterations", 3]
    code, out, err = psp_run("photos", *how, "--out", "out", "--ray")
    assert code == 0 and out.startswith("3 pictures in "), err
    assert psp_run("photos", *how, "--out", "plain")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "plain") != {}
    assert psp_run("photos", *how, "--out", "out", "--ray", "host:1")[1].startswith("nothing to do, 3 done before")
    code, out, _ = psp_run("photos", *how[:4], "--iterations", 1, "--out", "out", "--ray")
    assert code == 0 and out.startswith("3 pictures in "), "other steps make other pictures"
