"""`psp` and what its verbs have in common: help that fits a screen, a quick start, what an engine says about itself."""

import importlib.metadata
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Outcome, PspRun, runner
from PIL import Image
from tiny_engines import write_onnx, write_plan

from psp_runtime import checkup, console
from psp_runtime.checkup import Need
from psp_runtime.cli import VERBS, help_page
from psp_runtime.engines import devices, precision
from psp_runtime.run import info
from psp_train.drawn.faces import draw, sample

#: A terminal: columns and rows.
COLUMNS, ROWS = 100, 40


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an engine."""
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "psp.onnx")
    Path("image.png").write_text("not an engine")
    return tmp_path


@pytest.fixture
def psp(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    """Run psp in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    return runner(monkeypatch, capsys, "psp")


def one_error(outcome: Outcome) -> str:
    assert outcome[:2] == (2, "") and outcome[2].startswith("error: ") and outcome[2].count("\n") == 1
    return outcome[2].removeprefix("error: ").strip()


def test_the_help_has_every_verb_on_one_screen(psp: PspRun) -> None:
    code, out, err = psp("--help")
    assert (code, err) == (0, "") and out.strip() == help_page().strip()
    lines = out.splitlines()
    assert len(lines) <= ROWS and max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_fits_a_screen(psp: PspRun, verb: str) -> None:
    code, out, err = psp(verb, "--help")
    assert (code, err) == (0, "")
    lines = out.rstrip().splitlines()
    assert len(lines) <= ROWS and max(map(len, lines)) <= COLUMNS


@pytest.mark.parametrize("verb", ["run", "mix", "decode", "info", "sample", "train", "eval", "serve"])
def test_a_verb_without_arguments_shows_its_help(psp: PspRun, verb: str) -> None:
    code, out, err = psp(verb)
    assert code in (0, 2) and (out + err).startswith(f"Usage: psp {verb} ")


def test_the_version(psp: PspRun) -> None:
    assert re.fullmatch(r"psp \d+\.\d+\.\d+\n", psp("--version")[1])


def test_completion_of_a_shell() -> None:
    environment = os.environ | {"_PSP_COMPLETE": "complete_bash", "COMP_WORDS": "psp mo", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'psp'\nfrom psp_runtime.cli import psp\npsp()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["morph"]


def test_check_says_what_is_missing_for_what(psp: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    code, out, err = psp("check")
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines() if line)
    assert (code, err) == (0, "") and facts["cache"] == "nothing is kept (PSP_CACHE=off, or no home)"
    assert facts["psp ui"] == "missing gradio: pip install '.[ui]'"
    version = importlib.metadata.version
    assert facts["run .onnx engines"] == f"onnxruntime {version('onnxruntime')}"
    assert facts["psp train, psp eval"].startswith(f"torch {version('torch')}, safetensors ")


def test_one_of_two_packages_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need("run plans", ("tensorrt|tensorrt_rtx", "json"), "rtx", gpu=True)
    here = {"tensorrt_rtx", "json"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in here else None)
    monkeypatch.setattr("psp_runtime.checkup.gpu_name", lambda: "")
    assert checkup.state(need).endswith("json, but no GPU to run them")
    here.remove("tensorrt_rtx")
    assert checkup.state(need) == "missing tensorrt or tensorrt-rtx: pip install '.[rtx]'"


@pytest.mark.parametrize(
    ("flags", "lacking", "bf16", "int8"),
    [
        (
            {"avx2"},
            "a CPU with AMX",
            "not here: it needs a CPU with AMX; FP16 engines run in FP32",
            "runs, but pays only",
        ),
        ({"avx2", "avx_vnni"}, "a CPU with AMX", "not here", "pays, about 3.5 times as fast as FP32"),
        ({"avx512_bf16", "avx512_vnni"}, "", "pays, about 2.2 times as fast as FP32", "pays, about 3.5 times"),
        (set(), "", "pays", "pays"),
    ],
)
def test_check_says_which_precisions_pay(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], lacking: str, bf16: str, int8: str
) -> None:
    """No flags are those of another system than Linux."""
    for place in (checkup, precision):
        monkeypatch.setattr(place, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(checkup, "lacks_bf16", lambda: lacking)
    monkeypatch.setattr(checkup, "has_openvino", lambda: True)
    lines = dict(line.split("  ", 1) for line in checkup.report() if line.startswith("in "))
    assert lines["in bf16"].strip().startswith(bf16) and lines["in INT8"].strip().startswith(int8)


@pytest.mark.parametrize(("kind", "mode", "size"), [("face", "RGB", 96), ("sketch", "L", 96), ("labels", "L", 96)])
def test_samples_are_what_is_drawn(psp: PspRun, kind: str, mode: str, size: int) -> None:
    assert psp("sample", "s.png", "--kind", kind, "--seed", 7, "--size", size)[::2] == (0, "")
    face = draw(sample(1, 7)[0], size)
    drawn = {"face": face.image, "sketch": face.sketch, "labels": face.labels}[kind]
    with Image.open("s.png") as picture:
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), drawn)


def test_several_samples_are_several_faces(psp: PspRun) -> None:
    """The first is of the seed, the next of the next one; nothing is drawn where one name will not do."""
    assert psp("sample", "a.png", "b.png", "--seed", 7, "--size", 64)[1].splitlines() == [
        "a.png: a drawn face, seed 7",
        "b.png: a drawn face, seed 8",
        "next: psp export, psp run a.png b.png --engine psp.onnx",
    ]
    assert psp("sample", "alone.png", "--seed", 8, "--size", 64)[0] == 0
    assert Path("alone.png").read_bytes() == Path("b.png").read_bytes() != Path("a.png").read_bytes()
    assert "must end in one of" in one_error(psp("sample", "c.png", "d.txt"))
    assert not Path("c.png").exists()


def test_every_verb_that_works_long_can_be_quiet_and_verbose(psp: PspRun) -> None:
    for verb in ("run", "mix", "morph", "transfer", "edit", "swap", "decode", "align", "direction", "export", "train"):
        page = psp(verb, "--help")[1]
        assert "-q, --quiet" in page and "-v, --verbose" in page, verb


def test_quiet_and_verbose_hold_for_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str | None, bool]] = []

    def do(asked: console.Talk) -> None:
        print("a line")
        seen.append((os.environ.get(console.DEBUG), console.shows_progress()))

    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    command = console.as_command(console.Talk, do)
    for given in ({"quiet": True, "verbose": False}, {"quiet": False, "verbose": False}):
        command(**given)
    monkeypatch.setenv(console.DEBUG, "")
    command(quiet=False, verbose=True)
    assert out.getvalue() == "a line\n" * 2
    assert [shown for _, shown in seen] == [False, True, True] and seen[-1][0] == "1"


def test_a_scene_has_several_faces(psp: PspRun) -> None:
    assert psp("sample", "scene.png", "--kind", "scene", "--size", 180)[0] == 0
    with Image.open("scene.png") as picture:
        assert picture.size == (320, 180)
        wall = np.asarray(picture)[:, :, 2].std(axis=1)
    assert wall[:10].max() < 1 < wall[120:].min()  # nobody at the top, people below
    assert psp("sample", "again.png", "--kind", "scene", "--size", 180)[0] == 0
    assert Path("again.png").read_bytes() == Path("scene.png").read_bytes()


def test_samples_that_cannot_be(psp: PspRun) -> None:
    assert "label map is saved as PNG" in one_error(psp("sample", "s.jpg", "--kind", "labels"))
    assert "there is no folder none" in one_error(psp("sample", "none/s.png"))
    assert "must end in one of" in one_error(psp("sample", "s.txt"))
    assert not Path("s.jpg").exists()


def test_verbs_that_are_not_there(psp: PspRun) -> None:
    assert one_error(psp("mxi", "a.png")) == "there is no psp mxi: did you mean psp mix?"
    assert one_error(psp("xyzzy")) == "there is no psp xyzzy: psp --help lists them"


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_no_heavy_library(verb: str) -> None:
    """They take seconds to import, and need not be there."""
    heavy = ("torch", "onnx", "onnxruntime", "ray", "gradio", "matplotlib")
    code = f"import sys; sys.argv[1:] = {[*verb.split(), '--help']!r}\nfrom psp_runtime.cli import psp\n"
    code += f"try:\n    psp()\nfinally:\n    print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_info_without_a_gpu_and_without_opening(psp: PspRun, here: Path) -> None:
    write_plan(here / "psp.trt", "labels", parity=None, part="full")
    code, out, err = psp("info", "psp.trt")
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
    assert (code, err) == (0, "") and len({re.search(r"  +", line).end() for line in out.splitlines()}) == 1
    assert facts["task"] == "segmentation" and facts["input"] == "uint8 [B,256,256] ids of 19 classes"
    assert facts["made with"] == "tensorrt 10.13.2" and facts["made for"] == "sm_90"
    assert facts["parity"] == "not verified" and facts["mixed layers"] == "2-3 at 0.5"
    assert "psnr 61.5, max 1" in psp("info", "psp.onnx")[1]


@pytest.mark.parametrize(
    ("stored", "flags", "bf16", "expected"),
    [
        ("fp32", {"avx2"}, "", "fp32, OpenVINO on the CPU; a single picture in fp32, ONNX Runtime on the CPU"),
        ("fp16", {"avx512_bf16"}, "", "bf16, OpenVINO on the CPU; a single picture in fp32, ONNX Runtime on the CPU"),
        (
            "fp16",
            {"avx2"},
            "a CPU with AMX",
            "fp32, OpenVINO on the CPU; a single picture in fp32, ONNX Runtime on the CPU; half precision needs a CPU "
            "with AMX",
        ),
        (
            "int8",
            {"avx512_vnni"},
            "",
            "int8, OpenVINO on the CPU; a single picture in int8, ONNX Runtime on the CPU",
        ),
        (
            "int8",
            {"avx2"},
            "",
            "int8, ONNX Runtime on the CPU; slower than FP32: 8 bits need a CPU with AVX-512 VNNI or AVX-VNNI or AMX "
            "INT8",
        ),
    ],
)
def test_info_says_what_runs_on_this_machine(
    psp: PspRun, monkeypatch: pytest.MonkeyPatch, stored: str, flags: set[str], bf16: str, expected: str
) -> None:
    """Beside what is stored; the session that opens agrees."""
    monkeypatch.delenv("PSP_CPU")
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)
    monkeypatch.setattr(precision, "has_openvino", lambda: True)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    for module in (precision, info):
        monkeypatch.setattr(module, "lacks_bf16", lambda: bf16)
    write_onnx(Path("engine.onnx"), precision=stored)
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in psp("info", "engine.onnx")[1].splitlines())
    assert facts["precision"] == stored and facts["runs here in"] == expected


def test_info_of_what_cannot_run_here(psp: PspRun, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)
    write_plan(here / "psp.trt")
    assert re.search(
        r"^runs here in +nothing: it needs an NVIDIA GPU with its driver$", psp("info", "psp.trt")[1], re.M
    )
    monkeypatch.setenv("PSP_CPU", "tpu")
    words = psp("info", "psp.onnx")[1]
    assert re.search(r"^runs here in +nothing: PSP_CPU=tpu: expected onnxruntime or openvino$", words, re.M)


def test_info_of_no_engine(psp: PspRun) -> None:
    assert "no engine at none.trt" in one_error(psp("info", "none.trt"))
    assert "image.png is not an engine" in one_error(psp("info", "image.png"))
