"""ONNX engines in OpenVINO, and when it is chosen. ONNX Runtime is the reference."""

from pathlib import Path

import numpy as np
import pytest
from tiny_engines import write_onnx

from psp_runtime.engines import devices, optimised_graphs
from psp_runtime.engines.openvino import session as openvino_session
from psp_runtime.engines.session import OnnxSession, OpenVINOSession, open_session
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


@pytest.mark.parametrize(("runs", "expected"), [(None, OpenVINOSession), (1, OnnxSession)])
def test_openvino_is_for_many_runs(tmp_path: Path, runs: int | None, expected: type) -> None:
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


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that keeps engines of any size as OpenVINO reads them."""
    monkeypatch.setenv("PSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(optimised_graphs, "SMALLEST", 0)
    return tmp_path / "cache" / "openvino"


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    rest = {"style": np.zeros((2, 4, 8), np.float32), "alpha": np.zeros((2, 4), np.float32)}
    return {"image": rng.integers(0, 256, (2, 256, 256, 3), np.uint8), **rest}


def test_a_kept_form_gives_the_engine_s_own_pictures(tmp_path: Path, kept: Path) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    results = [OpenVINOSession(path).run(inputs()) for _ in range(2)]
    (entry,) = [one for one in kept.iterdir() if one.is_dir()]
    assert {one.name for one in entry.iterdir()} == {"model.xml", "weights.bin", "digests.json", "seen.json"}
    for name, array in OnnxSession(path, "cpu").run(inputs()).items():
        np.testing.assert_allclose(results[0][name], array, atol=1)
        np.testing.assert_array_equal(results[0][name], results[1][name])


def test_the_kept_form_is_read_instead_of_the_engine(tmp_path: Path, kept: Path, monkeypatch) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OpenVINOSession(path)
    monkeypatch.setattr(openvino_session, "_read", lambda *_: pytest.fail("read the engine"))
    OpenVINOSession(path)


@pytest.mark.parametrize("name", ["model.xml", "weights.bin", "digests.json"])
def test_a_damaged_form_is_made_anew(tmp_path: Path, kept: Path, name: str) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    expected = OpenVINOSession(path).run(inputs())["output"]
    (file,) = kept.glob(f"*/{name}")
    file.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"kept of psp\.onnx was damaged and is made anew$"):
        np.testing.assert_array_equal(OpenVINOSession(path).run(inputs())["output"], expected)
    assert file.read_bytes() != b"damaged"


def test_a_form_openvino_refuses_is_made_anew(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OpenVINOSession(path)
    (file,) = kept.glob("*/model.xml")
    file.write_bytes(b"damaged")
    monkeypatch.setattr(optimised_graphs, "_is_whole", lambda entry: True)
    with pytest.warns(UserWarning, match=r"kept of psp\.onnx was damaged"):
        assert OpenVINOSession(path).run(inputs())["output"].shape == (2, 64, 64, 3)
    assert not file.exists()
