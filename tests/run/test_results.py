"""What commands say at the end: every file by name, what was replaced, what is next, and which engine it was."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun, runner
from PIL import Image
from tiny_engines import write_onnx, write_plan

from psp_runtime import load
from psp_runtime.engines.location import find_engine
from psp_runtime.errors import EngineError, PspError

PIXELS = np.random.default_rng(2).integers(0, 256, (3, 256, 256, 3), np.uint8)


@pytest.fixture
def psp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    """psp in a folder with engines of two tasks, with mapping networks, and three pictures."""
    monkeypatch.chdir(tmp_path)
    for name, task in (("psp", "inversion"), ("sr", "super_resolution"), ("ip", "inpainting")):
        write_onnx(tmp_path / f"{name}.onnx", task=task)
    Path("photos").mkdir()
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(f"photos/p{index}.png")
    return runner(monkeypatch, capsys, "psp")


@pytest.mark.parametrize("change", [["-e", "sr.onnx", "--downsample", 4], ["-e", "ip.onnx", "--mask", "triangle"]])
def test_the_changed_input_is_named(psp: PspRun, change: list[object]) -> None:
    out = psp("run", "photos/p0.png", *change)[1]
    assert out.endswith(": p0_out.png, p0_out_input.png\n") and Path("p0_out_input.png").is_file()


def test_changed_inputs_of_a_folder_are_named(psp: PspRun) -> None:
    for index in range(4):
        Image.fromarray(PIXELS[0]).save(f"photos/q{index}.png")
    out = psp("run", "photos", "-e", "sr.onnx", "--downsample", 4, "-o", "made")[1]
    assert out.endswith(": made/, the changed inputs as *_input.*\n")


def test_all_pictures_of_one_input_are_named(psp: PspRun) -> None:
    asked = ["morph", "photos/p0.png", "--to", "photos/p1.png", "-e", "psp.onnx"]
    out = psp(*asked, "--steps", 5)[1]
    assert out.endswith(": " + ", ".join(f"p0_out_{number}.png" for number in range(1, 6)) + "\n")
    out = psp(*asked, "--steps", 12, "--grid", "g.png", "-o", "made/")[1]
    assert out.endswith(": made/p0_out_01.png to p0_out_12.png, g.png\n")
    assert len(list(Path("made").iterdir())) == 12


def test_an_output_of_another_run_is_not_replaced_in_silence(psp: PspRun) -> None:
    asked = ["run", "photos/p0.png", "-e", "psp.onnx"]
    assert len(psp(*asked)[1].splitlines()) == 1
    assert len(psp(*asked)[1].splitlines()) == 1, "the same run again replaces nothing"
    for more in (["--size", 32], []):
        assert psp(*asked, *more)[1].splitlines()[1:] == ["replaced what another run had made: p0_out.png"]
    Path("p0_out.png").write_bytes(b"")
    assert psp(*asked)[1].splitlines()[1:] == ["replaced what another run had made: p0_out.png"]
    assert json.loads(Image.open("p0_out.png").info["psp"])["input"] == "p0.png"
    psp("run", "photos", "-e", "psp.onnx", "-o", "made")
    out = psp("run", "photos", "-e", "psp.onnx", "-o", "made", "--couple")[1]
    assert out.endswith("replaced what another run had made: made/p0_out.png, made/p1_out.png, made/p2_out.png\n")


def test_other_files_of_another_run_are_not_replaced_in_silence(psp: PspRun) -> None:
    morph = ["morph", "photos/p0.png", "-e", "psp.onnx", "--gif", "m.gif", "--to"]
    for name, lines in (("p1", 1), ("p1", 1), ("p2", 2)):
        out = psp(*morph, f"photos/{name}.png")[1].splitlines()
        assert len(out) == lines
    assert out[1] == "replaced what another run had made: m.gif"
    for name, lines in (("p0", 2), ("p0", 2), ("p1", 3)):
        out = psp("run", f"photos/{name}.png", "-e", "psp.onnx", "--save-latents", "w.npy")[1].splitlines()
        assert len(out) == lines
    assert out[1] == "replaced what another run had made: w.npy"


def test_what_decodes_saved_latents_is_said(psp: PspRun) -> None:
    out = psp("run", "photos", "-e", "psp.onnx", "--save-latents", "w.npy")[1]
    assert out.splitlines()[-1] == "next: psp decode w.npy --engine psp.onnx"
    assert psp(*out.splitlines()[-1].split()[2:])[0] == 0


@pytest.mark.parametrize("ending", [".trt", ".plan", ".engine"])
def test_a_plan_that_is_not_there_is_the_onnx_beside_it(psp: PspRun, ending: str) -> None:
    """As where a plan cannot run."""
    words = f"warning: there is no psp{ending}: taking psp.onnx beside it instead\n"
    code, out, err = psp("run", "photos/p0.png", "-e", f"psp{ending}")
    assert (code, err) == (0, words) and "p0_out.png" in out
    code, out, err = psp("info", f"psp{ending}")
    assert (code, err) == (0, words) and out.startswith("engine") and "psp.onnx" in out
    with pytest.warns(UserWarning, match="taking psp.onnx beside it"):
        load(f"psp{ending}").close()


def test_an_engine_by_another_ending_is_named(psp: PspRun, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.trt")
    for given, there in (("plan.onnx", "plan.trt"), ("psp", "psp.onnx"), ("plan.plan", "plan.trt")):
        code, _, err = psp("run", "photos/p0.png", "-e", given)
        assert code == 2 and f"no engine at {given}, but there is {there} beside it" in err
    with pytest.raises(EngineError, match=r"but there is psp\.onnx"):
        find_engine(Path("psp.trt"), "cuda")
    with pytest.raises(PspError, match="no engine at none.trt"):
        load("none.trt")


@pytest.mark.parametrize(("kind", "task"), [("face", ""), ("sketch", "sketch"), ("labels", "segmentation")])
def test_a_sample_says_what_to_do_with_it(psp: PspRun, kind: str, task: str) -> None:
    out = psp("sample", "x.png", "--kind", kind)[1].splitlines()
    assert out[0].startswith("x.png: ") and out[1].startswith("next: psp export") and "psp run x.png" in out[1]
    assert task in out[1]
