"""Real plans by the TensorRT that is installed: refused where there is no GPU, exported and run on a real one."""

import sys
from pathlib import Path
from types import SimpleNamespace

import fake_gpu
import numpy as np
import pytest
from fake_gpu import FakeGpu
from models import tiny_checkpoint
from plan_inputs import inputs
from tiny_engines import MAX_BATCH, tiny_info, write_onnx
from tiny_plans import need_plans_that_run, tiny_plan

from psp_export.export import Options, export
from psp_export.plans import build
from psp_export.plans.build import RTX, BuildSettings, build_plan
from psp_export.verify.parity import GATES, psnr
from psp_runtime.engines import devices
from psp_runtime.engines.devices import cuda_devices
from psp_runtime.engines.info import read_info
from psp_runtime.engines.session import OnnxSession, open_session
from psp_runtime.engines.tensorrt.session import TensorRTSession
from psp_runtime.errors import EngineError


def test_a_real_plan_carries_its_metadata_and_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: 0)
    plan = tiny_plan(tmp_path)
    with pytest.warns(UserWarning, match=r"running psp\.onnx on the CPU"):
        assert open_session(plan).run(inputs(2))["output"].shape == (2, 64, 64, 3)


@pytest.mark.skipif(cuda_devices() > 0, reason="needs a machine without a GPU")
def test_a_plan_tensorrt_itself_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real library, with a driver that is not there: what it logs ends up in the error and nowhere else."""
    plan = tiny_plan(tmp_path)
    monkeypatch.setattr(devices, "cuda_devices", lambda: 1)
    fake = FakeGpu()
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake_gpu.Cuda(fake))
    capfd.readouterr()
    with pytest.raises(EngineError, match=r"psp\.trt was built by tensorrt\w* [\d.]+ .* cannot open it .* \[.+\]"):
        open_session(plan)
    assert capfd.readouterr() == ("", "") and fake.released_with == [0]


class BuilderConfig:
    """`IBuilderConfig` of TensorRT 8.6, as far as a build goes."""

    def __init__(self) -> None:
        self.previewed: dict[str, bool] = {}

    def set_preview_feature(self, feature: str, on: bool) -> None:
        self.previewed[feature] = on

    def clear_flag(self, flag: str) -> None:
        assert flag == "TF32"


def test_plans_of_8_6_let_execution_contexts_share_their_profile() -> None:
    names = SimpleNamespace(STRONGLY_TYPED=1)
    trt = SimpleNamespace(BuilderFlag=SimpleNamespace(TF32="TF32"), NetworkDefinitionCreationFlag=names)
    builder = SimpleNamespace(create_builder_config=BuilderConfig)
    assert build._config(trt, builder, None, tiny_info(), Path()).previewed == {}
    trt.PreviewFeature = SimpleNamespace(PROFILE_SHARING_0806="sharing")
    assert build._config(trt, builder, None, tiny_info(), Path()).previewed == {"sharing": True}


def test_a_plan_is_built_for_a_batch_and_with_an_effort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    shapes, levels = [], []
    real = trt.Builder.build_serialized_network

    def observed(builder: object, network: object, config: object) -> object:
        levels.append(config.builder_optimization_level)
        return real(builder, network, config)

    class Profile:
        def set_shape(self, name: str, *shape: tuple[int, ...]) -> None:
            shapes.append((name, *(one[0] for one in shape)))

    monkeypatch.setattr(trt.Builder, "build_serialized_network", observed)
    source = write_onnx(tmp_path / "psp.onnx")
    build_plan(source, tmp_path / "psp.trt", RTX, BuildSettings(level=5, tuned_batch=2))
    assert levels == [5] and read_info(tmp_path / "psp.trt").max_batch == MAX_BATCH
    image = SimpleNamespace(name="image", shape=(-1, 256, 256, 3))
    network = SimpleNamespace(num_inputs=1, get_input=lambda index: image)
    for tuned in (2, 99):
        build._profile(SimpleNamespace(create_optimization_profile=Profile), network, tuned, MAX_BATCH)
    assert shapes == [("image", 1, 2, MAX_BATCH), ("image", 1, MAX_BATCH, MAX_BATCH)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exported_model_runs_on_a_gpu_as_its_onnx_does(tmp_path: Path, precision: str) -> None:
    """The same architecture as the published one, exported for real; its plan in every way a batch can take."""
    need_plans_that_run()
    export(tiny_checkpoint(), Options(tmp_path / "psp", precision, "tensorrt", max_batch=4))
    session, onnx = TensorRTSession(tmp_path / "psp.trt"), OnnxSession(tmp_path / "psp.onnx", "cpu")
    shape, rng = (onnx.info.styles, onnx.info.style_dim), np.random.default_rng(0)
    given = [
        {
            "image": rng.integers(0, 256, (batch, 256, 256, 3), np.uint8),
            "style": rng.standard_normal((batch, *shape), np.float32),
            "alpha": np.full((batch, shape[0]), 0.5, np.float32),
        }
        for batch in (1, 4, 1, 4, 1, 4, 2)
    ]
    for one, result in zip(given, session.run_many(given), strict=True):
        difference = result["output"].astype(np.float64) - onnx.run(one)["output"]
        assert psnr(difference) > GATES[precision]
    session.close()
