"""What an engine computes in on a CPU: chosen from what is asked for, the file, the CPU and the number of runs.

OpenVINO's list of what the CPU can is substituted, so that every machine tests every CPU.
"""

from pathlib import Path

import pytest
from tiny_engines import tiny_info, write_onnx

from psp_runtime.engines import devices, precision
from psp_runtime.engines.precision import ONNX_RUNTIME, OPENVINO, Choice, check_on_gpu, choose
from psp_runtime.engines.session import OnnxSession, open_session
from psp_runtime.errors import EngineError

PLAIN, BF16 = frozenset({"FP32", "INT8", "BIN"}), frozenset({"FP32", "BF16", "INT8", "BIN"})
ENGINE = Path("psp.onnx")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with OpenVINO and a CPU with bf16, no GPU, and nothing decided in the environment."""
    monkeypatch.delenv("PSP_CPU")
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)
    monkeypatch.setattr(precision, "has_openvino", lambda: True)
    monkeypatch.setattr(precision, "capabilities", lambda: BF16)
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx512_vnni"}))


@pytest.mark.parametrize(
    ("stored", "asked", "cpu", "expected"),
    [
        ("fp32", "auto", BF16, Choice(OPENVINO, "fp32")),
        ("fp32", "bf16", BF16, Choice(OPENVINO, "bf16")),
        ("fp16", "auto", BF16, Choice(OPENVINO, "bf16")),
        ("fp16", "fp32", BF16, Choice(OPENVINO, "fp32")),
        ("fp16", "bf16", BF16, Choice(OPENVINO, "bf16")),
        ("fp16", "auto", PLAIN, Choice(OPENVINO, "fp32")),
        ("int8", "auto", BF16, Choice(OPENVINO, "int8")),
        ("int8", "int8", PLAIN, Choice(OPENVINO, "int8")),
    ],
)
def test_the_precision_is_that_of_the_file_or_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, stored: str, asked: precision.Precision, cpu: frozenset[str], expected: Choice
) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: cpu)
    assert choose(ENGINE, tiny_info(precision=stored), asked) == expected


@pytest.mark.parametrize(
    ("mean", "worst", "expected"), [(50.0, 45.0, "bf16"), (49.9, 60.0, "fp32"), (60.0, 44.9, "fp32")]
)
def test_an_engine_that_bf16_does_not_suit_runs_in_fp32(mean: float, worst: float, expected: str) -> None:
    info = tiny_info(precision="fp16", parity={"psnr": 67.5, "bf16_mean": mean, "bf16_worst": worst})
    assert choose(ENGINE, info).precision == expected
    assert choose(ENGINE, info, "bf16").precision == "bf16"


@pytest.mark.parametrize(
    ("stored", "cpu", "runs"), [("fp32", BF16, 20), ("fp16", PLAIN, 20), ("fp16", BF16, 3), ("int8", PLAIN, 2)]
)
def test_openvino_opens_once_the_runs_make_up_for_its_start(
    monkeypatch: pytest.MonkeyPatch, stored: str, cpu: frozenset[str], runs: int
) -> None:
    """The numbers of docs/speed.md."""
    monkeypatch.setattr(precision, "capabilities", lambda: cpu)
    libraries = [choose(ENGINE, tiny_info(precision=stored), runs=one).library for one in range(1, 41)]
    assert libraries == [ONNX_RUNTIME] * (runs - 1) + [OPENVINO] * (41 - runs)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2"}, ONNX_RUNTIME), ({"avx2", "avx_vnni"}, OPENVINO), ({"amx_int8"}, OPENVINO), (set(), OPENVINO)],
)
def test_int8_is_computed_exactly_where_openvino_would_saturate(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: str
) -> None:
    """A CPU without VNNI adds products of 8 bits in 16; of another system's CPU nothing is known."""
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    assert choose(ENGINE, tiny_info(precision="int8")) == Choice(expected, "int8")
    assert choose(ENGINE, tiny_info(precision="fp32")).library == OPENVINO


@pytest.mark.parametrize("stored", ["fp32", "fp16", "int8"])
def test_custom_operations_are_left_to_onnx_runtime(stored: str) -> None:
    """OpenVINO opens none: by itself nothing fails, and bf16 is refused in a line."""
    info = tiny_info(precision=stored, custom_ops=True)
    assert choose(ENGINE, info).library == ONNX_RUNTIME
    words = r"^psp\.onnx cannot run in bf16: OpenVINO does not open its custom operations: export it without "
    if stored != "int8":
        with pytest.raises(EngineError, match=words):
            choose(ENGINE, info, "bf16")


def test_int8_that_does_not_pay_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2"}))
    engine = write_onnx(tmp_path / "psp.onnx", precision="int8")
    with pytest.warns(UserWarning, match="INT8 is slower than FP32 here, it needs a CPU with AVX-512 VNNI"):
        open_session(engine, "cpu").close()


def test_what_is_asked_for_is_not_a_matter_of_runs() -> None:
    assert choose(ENGINE, tiny_info(precision="fp16"), "bf16", runs=1) == Choice(OPENVINO, "bf16")


def test_openvino_is_not_asked_where_it_would_not_run_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes longer than a small engine."""
    monkeypatch.setattr(precision, "capabilities", lambda: pytest.fail("asked OpenVINO"))
    assert choose(ENGINE, tiny_info(precision="fp16"), runs=1) == Choice(ONNX_RUNTIME, "fp32")
    assert choose(ENGINE, tiny_info(precision="fp32")) == Choice(OPENVINO, "fp32")


@pytest.mark.parametrize(
    ("choice", "stored", "runs", "expected"),
    [
        ("onnxruntime", "fp16", None, Choice(ONNX_RUNTIME, "fp32")),
        ("onnxruntime", "int8", None, Choice(ONNX_RUNTIME, "int8")),
        ("openvino", "fp16", 1, Choice(OPENVINO, "bf16")),
        ("openvino", "fp32", 1, Choice(OPENVINO, "fp32")),
    ],
)
def test_the_environment_chooses_the_library(
    monkeypatch: pytest.MonkeyPatch, choice: str, stored: str, runs: int | None, expected: Choice
) -> None:
    monkeypatch.setenv("PSP_CPU", choice)
    assert choose(ENGINE, tiny_info(precision=stored), runs=runs) == expected


@pytest.mark.parametrize(
    ("stored", "asked", "words"),
    [
        ("fp16", "int8", "is an FP16 engine and has no INT8 form: make one with psp export --int8 --calibrate FOLDER"),
        ("int8", "fp32", "is an INT8 engine and cannot run in fp32: export the model without --int8"),
        ("int8", "bf16", "is an INT8 engine and cannot run in bf16: export the model without --int8"),
    ],
)
def test_what_the_file_does_not_allow_is_one_line(stored: str, asked: precision.Precision, words: str) -> None:
    for refuse in (choose, check_on_gpu):
        with pytest.raises(EngineError, match=rf"^psp\.onnx {words}$"):
            refuse(ENGINE, tiny_info(precision=stored), asked)


def test_a_cpu_without_bf16_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: PLAIN)
    words = r"^psp\.onnx cannot run in bf16: this machine lacks a CPU with AVX-512 BF16 or AMX BF16$"
    with pytest.raises(EngineError, match=words):
        choose(ENGINE, tiny_info(precision="fp16"), "bf16")
    monkeypatch.setattr(precision, "has_openvino", lambda: False)
    with pytest.raises(EngineError, match=r"lacks OpenVINO \(pip install '\.\[openvino\]'\)$"):
        choose(ENGINE, tiny_info(precision="fp16"), "bf16")


def test_bf16_contradicts_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_CPU", "onnxruntime")
    with pytest.raises(EngineError, match="PSP_CPU=onnxruntime computes in FP32: unset it, or set PSP_CPU=openvino"):
        choose(ENGINE, tiny_info(precision="fp16"), "bf16")


@pytest.mark.parametrize(
    ("stored", "asked", "words"),
    [
        ("fp16", "bf16", "bf16 is for CPUs: leave out --precision, or add --device cpu"),
        ("fp16", "fp32", "which a GPU runs in FP16: export it with --fp32, or add --device cpu"),
    ],
)
def test_a_gpu_computes_as_the_file_says(stored: str, asked: precision.Precision, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        check_on_gpu(ENGINE, tiny_info(precision=stored), asked)
    check_on_gpu(ENGINE, tiny_info(precision=stored), "auto")
    check_on_gpu(ENGINE, tiny_info(precision="fp32"), "fp32")


def test_onnx_runtime_computes_an_fp16_engine_in_fp32(tmp_path: Path) -> None:
    session = open_session(write_onnx(tmp_path / "psp.onnx", precision="fp16"), "cpu", runs=1)
    assert isinstance(session, OnnxSession) and session.precision == "fp32"
