"""`psp` and what its verbs have in common: help that fits a screen, a quick start, what an engine says about itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import Outcome, PspRun, runner
from tiny_engines import write_onnx, write_plan

from psp_runtime.cli import VERBS, help_page

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


def test_the_version(psp: PspRun) -> None:
    assert re.fullmatch(r"psp \d+\.\d+\.\d+\n", psp("--version")[1])


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


def test_info_of_no_engine(psp: PspRun) -> None:
    assert "no engine at none.trt" in one_error(psp("info", "none.trt"))
    assert "image.png is not an engine" in one_error(psp("info", "image.png"))
