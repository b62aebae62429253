import contextlib
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_engines import MAX_BATCH, STYLE_DIM, STYLES, tiny_info, write_onnx, write_plan

from psp_runtime.engines import devices
from psp_runtime.engines.devices import cuda_devices
from psp_runtime.engines.session import OnnxSession, open_session
from psp_runtime.errors import DeviceError, EngineError

NO_GPU = cuda_devices() == 0
# FP32 stays FP32: TF32 would round products to 10 bits.
CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: 1)


def inputs(batch: int) -> dict[str, np.ndarray]:
    return {
        "image": np.full((batch, 256, 256, 3), 100, np.uint8),
        "style": np.ones((batch, STYLES, STYLE_DIM), np.float32),
        "alpha": np.zeros((batch, STYLES), np.float32),
    }


def test_onnx_session_runs_any_batch_and_keeps_the_contract(tmp_path: Path) -> None:
    session = open_session(write_onnx(tmp_path / "psp.onnx"), "cpu")
    assert session.device == "cpu" and session.max_batch == MAX_BATCH and session.info == tiny_info()
    for batch in (1, 2, 3):
        outputs = session.run(inputs(batch))
        assert set(outputs) == {"output", "latents"}
        assert outputs["output"].shape == (batch, 64, 64, 3) and outputs["output"].dtype == np.uint8
        assert outputs["latents"].shape == (batch, STYLES, STYLE_DIM) and outputs["latents"].dtype == np.float32
    session.close()


def test_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="'tpu': choose one of auto, cuda, cpu"):
        open_session(write_onnx(tmp_path / "psp.onnx"), "tpu")


def test_cuda_asked_for_without_a_gpu(tmp_path: Path, no_gpu: None) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    with pytest.raises(DeviceError, match="no NVIDIA GPU"):
        open_session(path, "cuda")
    assert open_session(path, "auto").device == "cpu"


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="needs the CPU build")
def test_cuda_asked_for_with_the_cpu_build(tmp_path: Path, gpu: None) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    with pytest.raises(DeviceError, match="pip install onnxruntime-gpu"):
        open_session(path, "cuda")
    assert open_session(path, "auto").device == "cpu"


@pytest.fixture
def skipped_provider(monkeypatch: pytest.MonkeyPatch, gpu: None) -> list[list[str]]:
    """ONNX Runtime as it is with onnxruntime-gpu on a machine where the CUDA libraries do not load."""
    asked: list[list[str]] = []
    severities: list[int] = []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", severities.append)
    real = onnxruntime.InferenceSession

    def create(path: str, options: object, providers: list[str], enable_fallback: bool) -> object:
        asked.append(providers)
        assert enable_fallback == (CUDA in providers)
        assert severities[-1:] == ([4] if CUDA in providers else [])
        print("EP Error: libcudnn.so.9 not found")
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    return asked


def test_a_cuda_provider_that_does_not_load_is_noticed(
    tmp_path: Path, skipped_provider: list[list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    assert open_session(path, "auto").device == "cpu"
    assert skipped_provider == [[CUDA, "CPUExecutionProvider"]]
    with pytest.raises(DeviceError, match="could not load its CUDA provider"):
        open_session(path, "cuda")
    assert capfd.readouterr() == ("", "")


def test_cpu_never_asks_for_cuda(tmp_path: Path, skipped_provider: list[list[str]]) -> None:
    open_session(write_onnx(tmp_path / "psp.onnx"), "cpu")
    assert skipped_provider == [["CPUExecutionProvider"]]


def test_a_graph_onnx_runtime_refuses_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    path.write_bytes(path.read_bytes().replace(b"ReduceMean", b"ReduceLean"))
    with pytest.raises(EngineError, match=r"refuses .*psp\.onnx.*export it again") as caught:
        open_session(path)
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_a_failing_run_is_an_engine_error(tmp_path: Path) -> None:
    session = OnnxSession(write_onnx(tmp_path / "psp.onnx"))
    with pytest.raises(EngineError, match=r"psp\.onnx failed on cpu"):
        session.run(inputs(1) | {"image": np.zeros((1, 99, 256, 3), np.uint8)})


def test_without_onnx_runtime_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="pip install onnxruntime"):
        open_session(write_onnx(tmp_path / "psp.onnx"))


def test_a_plan_without_a_gpu_runs_the_onnx_beside_it(tmp_path: Path, no_gpu: None) -> None:
    write_onnx(tmp_path / "psp.onnx")
    with pytest.warns(UserWarning) as caught:
        session = open_session(write_plan(tmp_path / "psp.trt"))
    assert session.device == "cpu" and session.info.backend == "onnx"
    assert [str(warning.message) for warning in caught] == [
        "psp.trt needs an NVIDIA GPU with its driver: running psp.onnx on the CPU instead"
    ]


@pytest.mark.parametrize("suffix", [".plan", ".engine"])
def test_plans_by_other_names(tmp_path: Path, no_gpu: None, suffix: str) -> None:
    write_onnx(tmp_path / "psp.onnx")
    with pytest.warns(UserWarning, match=r"running psp\.onnx"):
        open_session(write_plan(tmp_path / f"psp{suffix}"))


def test_a_plan_on_the_cpu_runs_the_onnx_even_with_a_gpu(tmp_path: Path, gpu: None) -> None:
    write_onnx(tmp_path / "psp.onnx")
    with pytest.warns(UserWarning, match=r"psp\.trt runs on NVIDIA GPUs only: running psp\.onnx on the CPU"):
        assert open_session(write_plan(tmp_path / "psp.trt"), "cpu").device == "cpu"


def test_a_plan_on_cuda_never_falls_back(tmp_path: Path, no_gpu: None) -> None:
    write_onnx(tmp_path / "psp.onnx")
    with pytest.raises(DeviceError, match="needs an NVIDIA GPU with its driver, which this machine lacks"):
        open_session(write_plan(tmp_path / "psp.trt"), "cuda")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_plan_alone_without_a_gpu(tmp_path: Path, no_gpu: None, device: str) -> None:
    with pytest.raises(DeviceError, match=r"no psp\.onnx beside it"):
        open_session(write_plan(tmp_path / "psp.trt"), device)


@pytest.mark.parametrize(("field", "value"), [("checkpoint", "cd" * 32), ("task", "toonify"), ("part", "encoder")])
def test_another_engine_beside_the_plan_is_not_taken(tmp_path: Path, no_gpu: None, field: str, value: str) -> None:
    write_onnx(tmp_path / "psp.onnx", **{field: value})
    with pytest.raises(EngineError, match=f"another engine: {field} {value}, not"):
        open_session(write_plan(tmp_path / "psp.trt"))


def test_a_damaged_onnx_beside_the_plan_says_so(tmp_path: Path, no_gpu: None) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EngineError, match=r"psp\.onnx is truncated"):
        open_session(write_plan(tmp_path / "psp.trt"))


def test_missing_packages_are_named_with_what_is_here(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan(tmp_path / "psp.trt")
    for module in ("tensorrt", "tensorrt_rtx", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DeviceError, match="needs the Python package tensorrt 10.13.2, which"):
        open_session(plan, "cuda")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", types.ModuleType("tensorrt_rtx"))
    with pytest.raises(DeviceError, match=r"tensorrt 10\.13\.2 \(here: tensorrt_rtx\)"):
        open_session(plan, "cuda")
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(DeviceError, match="needs the Python package pycuda"):
        open_session(plan, "cuda")


def test_a_plan_marked_as_onnx_is_refused(tmp_path: Path, gpu: None) -> None:
    with pytest.raises(EngineError, match="marked as onnx, expected a plan of tensorrt or tensorrt_rtx"):
        open_session(write_plan(tmp_path / "psp.trt", backend="onnx"))


@pytest.mark.skipif(not NO_GPU, reason="needs a machine without a GPU")
def test_no_gpu_is_no_gpu() -> None:
    assert cuda_devices() == 0


def test_opening_nothing_loads_no_inference_library() -> None:
    code = (
        "import sys, psp_runtime, psp_runtime.cli; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'pycuda'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("asked", "expected"), [("", 0), ("0", 0), ("1", 1), ("2", 2)])
def test_psp_threads_limits_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, expected: int
) -> None:
    """ONNX Runtime is asked for that many threads, itself included; 0 is all cores."""
    monkeypatch.setenv("PSP_THREADS", asked) if asked else monkeypatch.delenv("PSP_THREADS", raising=False)
    session = OnnxSession(write_onnx(tmp_path / "psp.onnx"), "cpu")
    assert session._session.get_session_options().intra_op_num_threads == expected


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
def test_one_thread_is_no_further_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OnnxSession(path, "cpu").close()  # what the library starts for itself
    counts = {}
    for threads in (1, 3):
        monkeypatch.setenv("PSP_THREADS", str(threads))
        before = len(list(Path("/proc/self/task").iterdir()))
        session = OnnxSession(path, "cpu")
        counts[threads] = len(list(Path("/proc/self/task").iterdir())) - before
        session.close()
    assert counts == {1: 0, 3: 2}


@pytest.mark.parametrize("asked", ["many", "99999999999", "-1"])
def test_a_wrong_number_of_threads_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("PSP_THREADS", asked)
    with pytest.raises(EngineError, match=f"^PSP_THREADS={asked}: expected 0, for all cores, to 1024 threads$"):
        OnnxSession(write_onnx(tmp_path / "psp.onnx"), "cpu")


def test_an_ending_in_capitals(tmp_path: Path) -> None:
    with contextlib.closing(open_session(write_onnx(tmp_path / "psp.onnx").rename(tmp_path / "P.ONNX"))) as session:
        assert session.info.part == "full"
