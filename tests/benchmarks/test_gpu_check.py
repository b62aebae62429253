"""The command that checks everything on a GPU, as far as it goes without one."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fake_tensorrt
import gpu_check
import gpu_checks
import gpu_measures
import latency
import models
import numpy as np
import pytest
import torch
from measure import report
from models import tiny_checkpoint, tiny_model
from tiny_engines import STYLE_DIM, STYLES, write_onnx, write_plan

from psp_export.export import Options, engine_info
from psp_export.plans.build import BuildSettings
from psp_export.verify.cases import reference_cases
from psp_export.verify.parity import GATES
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.session import OnnxSession

TOOLS = str(Path(__file__).parents[2] / "tools")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_check_ends_with_its_json_its_error_or_its_time() -> None:
    assert gpu_check.output_of(python("print('words'); print('{\"a\": 1}')"), 60) == {"a": 1}
    assert "exit 1: " in gpu_check.output_of(python("raise SystemExit('no kernel')"), 60)["failed"]
    assert "no kernel" in gpu_check.output_of(python("raise SystemExit('no kernel')"), 60)["failed"]
    assert "exit -6" in gpu_check.output_of(python("import os; os.abort()"), 60)["failed"]


def ends(pid: int, seconds: float = 10) -> bool:
    """Whether a killed process is gone, or waits for its parent only: that takes the system a moment."""
    status = Path(f"/proc/{pid}/status")
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        try:
            if "zombie" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_a_check_that_hangs_ends_with_what_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"import subprocess as s; p = s.Popen(['sleep', '60']); open({str(pid)!r}, 'w').write(str(p.pid)); p.wait()"
    start = time.perf_counter()
    assert gpu_check.output_of(python(code), 2) == {"failed": "took more than 2 s"}
    assert time.perf_counter() - start < 20
    assert ends(int(pid.read_text()))


def test_what_was_printed_before_the_time_was_up_is_kept(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text("import time\nprint('half of it')\ntime.sleep(60)")
    code = f"import gpu_checks; gpu_checks.script({str(script)!r}, work=None, size=64)"
    found = gpu_check.output_of(python(f"import sys; sys.path.append({TOOLS!r}); {code}"), 5)["failed"]
    assert found.splitlines() == ["half of it", "took more than 5 s"]


def test_a_script_gives_its_last_line_or_its_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('a table'); print('{\"ms\": 1}'); print()")
    assert gpu_checks.script(str(script), work=tmp_path, size=64) == {"ms": 1}
    script.write_text("print('41 passed')")
    assert gpu_checks.script(str(script), work=tmp_path, size=64) == {"last_line": "41 passed"}
    script.write_text("print('E  values differ'); print('1 failed'); raise SystemExit(1)")
    with pytest.raises(RuntimeError, match="exit 1: 1 failed"):
        gpu_checks.script(str(script), work=tmp_path, size=64)
    assert "a table" in capfd.readouterr().err


KERNEL_TESTS = """
import os, pytest

@pytest.mark.gpu
def test_quick():
    assert os.environ["PSP_REQUIRE_GPU"] == "1"

@pytest.mark.gpu
@pytest.mark.slow
def test_slow():
    assert False
"""


def test_only_files_with_gpu_tests_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file imports what is not there, which would stop pytest before the first test."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_page.py").write_text("import a_package_that_is_not_there")
    (tmp_path / "tests" / "test_kernels.py").write_text(KERNEL_TESTS)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-q'\nmarkers = ['gpu', 'slow']\n")
    monkeypatch.setattr(gpu_checks, "ROOT", tmp_path)
    monkeypatch.setenv("PSP_REQUIRE_GPU", "")
    (tmp_path / "tests" / "test_of_tests.py").write_text("import another\nTEXT = '    @pytest.mark.gpu'\n")
    found = gpu_checks.gpu_tests("gpu and not slow", work=tmp_path, size=64)["last_line"]
    assert found.startswith("1 passed, 1 deselected")


def test_gpu_tests_that_were_all_skipped_are_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "script", lambda *command, **_: {"last_line": "3 skipped, 40 deselected in 1.2s"})
    with pytest.raises(RuntimeError, match="nothing was tested: 3 skipped"):
        gpu_checks.gpu_tests("gpu and slow", work=tmp_path, size=64)


def test_the_gates_are_those_of_the_export() -> None:
    assert gpu_checks.GATES == GATES
    assert gpu_checks.agreeing({"psnr": 40.0}, "fp16") == {"psnr": 40.0}
    for psnr, precision in ((39.9, "fp16"), (47.9, "fp32"), (float("nan"), "fp16")):
        with pytest.raises(ArithmeticError, match="less than 4[08].0 dB"):
            gpu_checks.agreeing({"psnr": psnr}, precision)


@pytest.mark.parametrize(
    ("providers", "flavour", "backends"),
    [
        (["CPUExecutionProvider"], None, ["torch"]),
        (["CUDAExecutionProvider"], "tensorrt", ["torch", "onnxruntime", "tensorrt"]),
    ],
)
def test_latency_is_measured_of_what_can_use_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, providers: list[str], flavour: str | None, backends: list[str]
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    monkeypatch.setattr(gpu_checks, "choose_flavour", lambda: flavour)
    notes = {"the baseline of naive_wplus cannot be exported: …": ["naive_wplus encoder on ONNX Runtime"]}
    monkeypatch.setattr(gpu_checks, "script", lambda *command, **_: {"command": command, "notes": notes})
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    script, *words = gpu_checks.latency("fp16", gpu_checks.PEER_ROWS, tmp_path, 64)["command"]
    options = latency.parse(words)
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert (gpu_checks.ROOT / script).is_file() and options.backend == backends and options.size == 64
    assert options.precision == ["fp16"] and options.row == list(gpu_checks.PEER_ROWS)
    assert {*gpu_checks.OUR_ROWS, *gpu_checks.PEER_ROWS} == {row.name for row in report.ROWS}
    assert set(gpu_checks.OUR_ROWS) == set(report.OUR_ROWS)
    notes["psp.trt was built by another version"] = ["psp full on TensorRT, ours"]
    with pytest.raises(RuntimeError, match="not measured: {'psp.trt was built"):
        gpu_checks.latency("fp16", gpu_checks.PEER_ROWS, tmp_path, 64)


def test_an_overflow_is_not_the_largest_finite_number() -> None:
    for bad in (torch.inf, -torch.inf, torch.nan):
        assert gpu_checks.largest(torch.tensor([1.0, bad], dtype=torch.half)) == np.inf
    assert gpu_checks.largest(torch.tensor([1.0, -65504.0], dtype=torch.half)) == 65504


def test_only_what_failed_or_is_new_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def output_of(command: list[str], limit: int) -> dict[str, object]:
        ran.append(command[command.index("--inside") + 1])
        return {"failed": "out of memory"} if len(ran) == 1 else {"psnr": 50}

    monkeypatch.setattr(gpu_check, "output_of", output_of)
    versions = iter([("tensorrt", "8.6.1"), ("tensorrt", "8.6.1"), ("tensorrt", "10.13.2")])
    monkeypatch.setattr(gpu_checks, "tensorrt", lambda: next(versions))
    options = argparse.Namespace(work=tmp_path, size=64, again=False, out=tmp_path / "new" / "all.json")
    for name in ("half", "half", "half", "plan_fp16", "plan_fp16", "plan_fp16"):
        gpu_check.run_apart(name, options)
    assert ran == ["half", "half", "plan_fp16", "plan_fp16"]  # that of another TensorRT is another result
    gpu_check.report(options)
    printed = capsys.readouterr().out.splitlines()
    results = json.loads(printed[-1])["checks"]
    assert results["half"]["psnr"] == 50 and json.loads(options.out.read_text())["checks"] == results
    assert [line.split() for line in printed[:-1]] == [
        ["half", "ok"],
        ["plan_fp16.tensorrt.10.13.2", "ok"],
        ["plan_fp16.tensorrt.8.6.1", "ok"],
    ]


def test_a_plan_is_measured_with_and_without_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_measures, "BATCHES", (1, 2, 16))
    gpu = fake_tensorrt.install(monkeypatch, "10")
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 256, (2, 256, 256, 3), np.uint8),
        "style": rng.standard_normal((2, STYLES, STYLE_DIM), np.float32),
        "alpha": rng.random((2, STYLES), np.float32),
    }
    (tmp_path / "fp16").mkdir()
    expected = OnnxSession(write_onnx(tmp_path / "fp16" / "psp.onnx"), "cpu").run(inputs)["output"]
    gpu_measures.save_cases(tmp_path / "fp16", [(inputs, expected)])
    asked: list[BuildSettings] = []

    def build_plan(
        source: Path, target: Path, flavour: str, settings: BuildSettings, tell: Callable[[str], object]
    ) -> EngineInfo:
        tell("Timing tactics, 31 of 340")
        asked.append(settings)
        return read_info(write_plan(target))

    monkeypatch.setattr(gpu_checks, "tensorrt", lambda: ("tensorrt", "10.13.2"))
    monkeypatch.setattr(gpu_checks, "build_plan", build_plan)
    result = gpu_checks.plan("fp16", 5, 16, work=tmp_path, size=64)
    assert capsys.readouterr().err.endswith(" s Timing tactics, 31 of 340\n")
    assert asked == [BuildSettings(timing_cache=tmp_path / "tensorrt-10.13.2.timing", level=5, tuned_batch=16)]
    assert result["version"] == "10.13.2" and not result["timings_known"]
    for how in ("graphs", "plain"):
        found = result[how]
        assert found["psnr"] > 50 and found["batch_1"]["device"] == [1.5, 1.5, 1.5] and "batch_16" not in found
        assert 0 < found["batch_2"]["host"][0] <= found["batch_2"]["host"][2]
        assert found["batch_2"]["pictures_per_s"] > 0 and found["warnings"] == []
    assert gpu.count("replay") > gpu.count("recorded") > 0
    gpu.capturable = False
    with pytest.raises(RuntimeError, match="'graphs': .*CUDA graphs are not used"):
        gpu_checks.plan("fp16", 5, 16, work=tmp_path, size=64)
    gpu_measures.save_cases(tmp_path / "fp16", [(inputs, 255 - expected)])
    with pytest.raises(ArithmeticError, match=r"less than 48.0 dB"):
        gpu_checks.plan("fp16", 5, 16, work=tmp_path, size=64)


def test_psnr_is_of_the_worst_picture() -> None:
    pictures = np.full((2, 4, 4, 3), 100, np.uint8)
    other = pictures.copy()
    other[1] += 10
    assert gpu_measures.worst_psnr(pictures, pictures) == 99
    assert gpu_measures.worst_psnr(other, pictures) == pytest.approx(10 * np.log10(255**2 / 100), abs=0.01)


@pytest.fixture
def cuda_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)


def test_stressed_weights_hold_and_leave_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_is_the_cpu: None
) -> None:
    monkeypatch.setattr(models, "golden_model", lambda table, size: tiny_model())
    found = gpu_checks.stressed(tmp_path, 64)
    assert found["psnr"] > 40 and 0 < found["largest"] < 65504
    assert read_info(tmp_path / "stressed" / "psp.onnx").precision == "fp16"
    assert len(gpu_measures.load_cases(tmp_path / "stressed")) == 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_leaves_an_engine_and_pictures_it_agrees_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(gpu_checks, "published", lambda size: tiny_checkpoint())
    found = gpu_checks.export_model(precision, tmp_path, 64)
    assert found["megabytes"] > 0 and read_info(tmp_path / precision / "psp.onnx").max_batch == 16
    session = OnnxSession(tmp_path / precision / "psp.onnx", "cpu")
    for given, expected in gpu_measures.load_cases(tmp_path / precision):
        assert gpu_measures.worst_psnr(session.run(given)["output"], expected) > GATES[precision]


def test_plan_tests_that_were_skipped_are_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for last, fails in (("3 passed in 9s", False), ("3 skipped in 1s", True), ("2 passed, 1 skipped in 9s", True)):
        monkeypatch.setattr(gpu_checks, "script", lambda *command, last=last, **_: {"last_line": last})
        with pytest.raises(RuntimeError, match="no plan can run") if fails else contextlib.nullcontext():
            assert gpu_checks.plan_tests(tmp_path, 64) == {"last_line": last}


def test_half_precision_is_watched_in_every_module(monkeypatch: pytest.MonkeyPatch, cuda_is_the_cpu: None) -> None:
    checkpoint = tiny_checkpoint()
    cases = reference_cases(checkpoint.model, engine_info(checkpoint, Options(precision="fp16")))[:1]
    with torch.no_grad():
        found = gpu_checks.torch_half(checkpoint, cases)
        assert found["psnr"] > 40 and found["half_tensors"] > 50 and 0 < found["largest"] < 65504 / 8
        for parameter in checkpoint.model.encoder.input_layer.parameters():
            parameter *= 1e9
        monkeypatch.setattr("psp_export.export.balance_encoder", lambda encoder, images: None)
        with pytest.raises(ArithmeticError, match="not finite"):
            gpu_checks.torch_half(checkpoint, cases)


def test_every_check_is_listed_with_its_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--list"])
    gpu_check.main()
    limits = {line.split()[0]: int(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    assert limits.keys() == gpu_check.CHECKS.keys() and max(limits.values()) < 600
