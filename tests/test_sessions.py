import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_engines import MAX_BATCH, STYLE_DIM, STYLES, tiny_info, write_onnx, write_plan

from psp_runtime import plans, sessions
from psp_runtime.errors import DeviceError, EngineError
from psp_runtime.metadata import read_info
from psp_runtime.sessions import OnnxSession, cuda_devices, open_session

NO_GPU = cuda_devices() == 0
# FP32 stays FP32: TF32 would round products to 10 bits.
CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "cuda_devices", lambda: 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "cuda_devices", lambda: 1)


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

    def create(path: str, options: object, providers: list[str]) -> object:
        asked.append(providers)
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


class FakeCuda(types.ModuleType):
    """What of pycuda is called before a plan opens."""

    class Error(Exception):
        pass

    class Context:
        stack = 0

        @staticmethod
        def pop() -> None:
            FakeCuda.Context.stack -= 1

        def push(self) -> None:
            FakeCuda.Context.stack += 1

    class Device:
        def __init__(self, index: int) -> None:
            pass

        def name(self) -> str:
            return "NVIDIA T4"

        def retain_primary_context(self) -> "FakeCuda.Context":
            return FakeCuda.Context()

    def init(self) -> None:
        pass


@pytest.fixture
def refusing_tensorrt(monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    """A TensorRT that deserialises nothing, as with a plan of another version."""
    trt = types.ModuleType("tensorrt")

    class ILogger:
        class Severity:
            INTERNAL_ERROR, ERROR, WARNING = range(3)

    class Runtime:
        def __init__(self, logger: object) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> None:
            self.logger.log(ILogger.Severity.WARNING, "be careful")
            self.logger.log(ILogger.Severity.ERROR, "Version tag does not match")

    trt.__dict__.update(__version__="11.0.0", ILogger=ILogger, Runtime=Runtime)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "pycuda.driver", FakeCuda("pycuda.driver"))


def test_a_plan_of_another_version_names_both(tmp_path: Path, refusing_tensorrt: None) -> None:
    write_onnx(tmp_path / "psp.onnx")
    with pytest.raises(EngineError) as caught:
        open_session(write_plan(tmp_path / "psp.trt"))
    message = str(caught.value)
    for part in ("tensorrt 10.13.2 for sm_90", "tensorrt 11.0.0 on NVIDIA T4", "export it again", "[Version tag"):
        assert part in message
    assert FakeCuda.Context.stack == 0


def test_a_cuda_failure_is_an_engine_error(
    tmp_path: Path, refusing_tensorrt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FakeCuda) -> None:
        raise FakeCuda.Error("cuInit failed: unknown error")

    monkeypatch.setattr(FakeCuda, "init", fail)
    with pytest.raises(EngineError, match=r"psp\.trt failed on the GPU: cuInit failed"):
        open_session(write_plan(tmp_path / "psp.trt"))


@pytest.mark.skipif(not NO_GPU, reason="needs a machine without a GPU")
def test_no_gpu_is_no_gpu() -> None:
    assert cuda_devices() == 0


def build_plan(onnx_path: Path, plan_path: Path) -> Path:
    """A real plan of the tiny engine, by whichever TensorRT is installed."""
    name = next((name for name in plans.PLAN_MODULES.values() if sessions.importable(name)), None)
    if name is None:
        pytest.skip("needs tensorrt or tensorrt_rtx")
    trt = sys.modules[name]
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    wanted = [flag for flag in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(flags, flag)]
    network = builder.create_network(sum(1 << int(getattr(flags, flag)) for flag in wanted))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(onnx_path.read_bytes()), parser.get_error(0)
    network.name = tiny_info(backend=name, backend_version=trt.__version__).to_plan_name()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (1, *rest), (MAX_BATCH, *rest))
    config.add_optimization_profile(profile)
    plan_path.write_bytes(bytes(builder.build_serialized_network(network, config)))
    return plan_path


def test_a_real_plan_carries_its_metadata_and_falls_back(tmp_path: Path, no_gpu: None) -> None:
    plan = build_plan(write_onnx(tmp_path / "psp.onnx"), tmp_path / "psp.trt")
    with pytest.warns(UserWarning, match=r"running psp\.onnx on the CPU"):
        assert open_session(plan).run(inputs(2))["output"].shape == (2, 64, 64, 3)


@pytest.mark.skipif(not NO_GPU, reason="needs a machine without a GPU")
def test_a_plan_tensorrt_itself_refuses(
    tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real library, with a driver that is not there: what it logs ends up in the error and nowhere else."""
    plan = build_plan(write_onnx(tmp_path / "psp.onnx"), tmp_path / "psp.trt")
    monkeypatch.setitem(sys.modules, "pycuda.driver", FakeCuda("pycuda.driver"))
    capfd.readouterr()
    with pytest.raises(EngineError, match=r"psp\.trt was built by tensorrt\w* [\d.]+ .* cannot open it .* \[.+\]"):
        open_session(plan)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_a_plan_on_a_gpu_agrees_with_its_onnx(tmp_path: Path) -> None:
    onnx_path = write_onnx(tmp_path / "psp.onnx")
    session = open_session(build_plan(onnx_path, tmp_path / "psp.trt"), "cuda")
    assert session.device == "cuda" and session.max_batch == MAX_BATCH
    reference = OnnxSession(onnx_path, "cpu")
    for batch in (1, 3, 2):
        given = inputs(batch)
        given["image"] = np.random.default_rng(batch).integers(0, 256, given["image"].shape, np.uint8)
        given["alpha"][:] = 0.5
        ours, theirs = session.run(given), reference.run(given)
        np.testing.assert_allclose(ours["latents"], theirs["latents"], rtol=1e-4)
        assert np.abs(ours["output"].astype(int) - theirs["output"]).max() <= 1
    assert session.last_ms > 0
    session.close()


@pytest.mark.gpu
def test_a_plan_cut_in_half_on_a_gpu(tmp_path: Path) -> None:
    plan = build_plan(write_onnx(tmp_path / "psp.onnx"), tmp_path / "psp.trt")
    data = plan.read_bytes()
    end_of_metadata = data.index(b"psp:{") + len(read_info(plan).to_plan_name())
    assert end_of_metadata < len(data) * 0.9
    plan.write_bytes(data[: max(end_of_metadata, len(data) // 2)])
    with pytest.raises(EngineError, match="damaged"):
        open_session(plan, "cuda")


def test_opening_nothing_loads_no_inference_library() -> None:
    code = (
        "import sys, psp_runtime, psp_runtime.cli; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'pycuda'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
