"""ONNX engines in OpenVINO, and when it is chosen. ONNX Runtime is the reference."""

from pathlib import Path

import numpy as np
import pytest
from tiny_engines import write_onnx

from psp_runtime.engines import devices
from psp_runtime.engines.session import OPENVINO_FROM_RUNS, OnnxSession, OpenVINOSession, open_session
from psp_runtime.errors import EngineError
from psp_runtime.pipeline import Pipeline

pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def free_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PSP_CPU")
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)


@pytest.mark.parametrize("kind", ["rgb", "sketch", "labels"])
def test_pictures_and_codes_are_onnx_runtime_s(tmp_path: Path, kind: str) -> None:
    path = write_onnx(tmp_path / "psp.onnx", kind)
    rng = np.random.default_rng(0)
    shape = {"rgb": (256, 256, 3), "sketch": (256, 256, 1), "labels": (256, 256)}[kind]
    inputs = {
        "image": rng.integers(0, 19, (3, *shape), dtype=np.uint8),
        "style": rng.standard_normal((3, 4, 8), np.float32),
        "alpha": rng.random((3, 4), np.float32),
    }
    expected, session = OnnxSession(path, "cpu").run(inputs), OpenVINOSession(path)
    for _ in range(2):
        found = session.run(inputs)
        np.testing.assert_allclose(found["latents"], expected["latents"], rtol=1e-5, atol=1e-6)
        assert np.abs(found["output"].astype(int) - expected["output"]).max() <= 1
    (again,) = session.run_many([inputs])
    np.testing.assert_array_equal(again["output"], found["output"])


def test_results_stay_when_the_next_picture_comes(tmp_path: Path) -> None:
    session = OpenVINOSession(write_onnx(tmp_path / "psp.onnx"))
    rest = {"style": np.zeros((1, 4, 8), np.float32), "alpha": np.zeros((1, 4), np.float32)}
    first = session.run({"image": np.full((1, 256, 256, 3), 200, np.uint8), **rest})
    kept = {name: array.copy() for name, array in first.items()}
    session.run({"image": np.zeros((1, 256, 256, 3), np.uint8), **rest})
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    ("choice", "runs", "expected"),
    [
        ("", None, OpenVINOSession),
        ("", OPENVINO_FROM_RUNS, OpenVINOSession),
        ("", OPENVINO_FROM_RUNS - 1, OnnxSession),
        ("", 1, OnnxSession),
        ("onnxruntime", None, OnnxSession),
        ("openvino", 1, OpenVINOSession),
    ],
)
def test_openvino_is_for_many_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, runs: int | None, expected: type
) -> None:
    monkeypatch.setenv("PSP_CPU", choice)
    assert isinstance(open_session(write_onnx(tmp_path / "psp.onnx"), "auto", runs), expected)


def test_without_openvino_onnx_runtime_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(open_session(write_onnx(tmp_path / "psp.onnx")), OnnxSession)


def test_a_wrong_choice_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_CPU", "fastest")
    with pytest.raises(EngineError, match="PSP_CPU=fastest: expected onnxruntime or openvino"):
        open_session(write_onnx(tmp_path / "psp.onnx"))


def test_a_graph_openvino_refuses_is_one_line(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    path.write_bytes(path.read_bytes().replace(b"ReduceMean", b"ReduceNone"))
    with pytest.raises(EngineError, match=r"^OpenVINO cannot open [^\n]*; PSP_CPU=onnxruntime opens it$"):
        OpenVINOSession(path)


def test_a_pipeline_runs_in_it(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    pictures = np.random.default_rng(1).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    with Pipeline(open_session(path)) as fast, Pipeline(OnnxSession(path, "cpu")) as plain:
        assert fast.device == "cpu" and fast.batch == 1
        difference = fast.translate(pictures).output.astype(int) - plain.translate(pictures).output
    assert np.abs(difference).max() <= 1
