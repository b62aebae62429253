"""Plans beside the ONNX files: by the TensorRT that is here, and the builder paths of versions that are not."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from models import tiny_checkpoint, tiny_model

from psp_export.export import Options, check, deployable, engine_info, export
from psp_export.graphs.trace import to_onnx
from psp_export.plans import build
from psp_export.plans.build import BuildError, build_plan, check_timing_cache, choose_flavour
from psp_runtime import read_info
from psp_runtime.errors import EngineError, PspError

HAS_RTX = choose_flavour() is not None


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    if not HAS_RTX:
        pytest.skip("no TensorRT that builds here: pip install '.[rtx]'")
    folder = tmp_path_factory.mktemp("plan")
    options = Options(folder / "psp", "fp16", "auto", max_batch=4)
    export(tiny_checkpoint(), options)
    return folder / "psp.trt"


def test_plan_carries_its_metadata(plan):
    info = read_info(plan)
    source = read_info(plan.with_suffix(".onnx"))
    assert info.backend == choose_flavour()
    assert replace(info, backend="", backend_version="", device="") == replace(source, backend="", backend_version="")
    assert info.parity == source.parity


def test_a_graph_tensorrt_refuses_is_one_line(tmp_path):
    info = engine_info(tiny_checkpoint(), Options())
    model = to_onnx(deployable(tiny_model(), info), info)
    for node in model.graph.node:
        if node.op_type == "ConvTranspose":
            node.op_type, node.domain = "Unheard", "nowhere"
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BuildError) as caught:
        build_plan(path, tmp_path / "odd.trt", choose_flavour())
    assert "cannot parse" in str(caught.value)
    assert not (tmp_path / "odd.trt").exists()


@pytest.mark.skipif(not HAS_RTX, reason="no TensorRT that builds here")
def test_auto_keeps_the_onnx_file_where_tensorrt_does_not_start(tmp_path, monkeypatch):
    """With a driver that is too old its bindings raise a TypeError."""

    def null(logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(importlib.import_module(str(choose_flavour())), "Builder", null)
    with pytest.warns(UserWarning, match="no plan was written: .* does not start on this machine: pybind11"):
        export(tiny_checkpoint(), Options(tmp_path / "psp", verify=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["psp.mapping.onnx", "psp.onnx"]


def test_options_of_plans_are_not_ignored_in_silence(tmp_path):
    options = Options(tmp_path / "psp", backend="onnx", workspace=7, optimization_level=5, tune_batch=3)
    with pytest.warns(UserWarning, match="^ignoring --workspace, --optimization-level, --tune-batch: no plan"):
        check(options)


@pytest.mark.skipif(not HAS_RTX, reason="no TensorRT that builds here")
def test_auto_keeps_the_onnx_file_where_no_plan_can_be_built(tmp_path, monkeypatch):
    def refuse(*args, **how):
        raise BuildError("tensorrt cannot parse it")

    monkeypatch.setattr("psp_export.export.build_plan", refuse)
    with pytest.raises(BuildError):
        export(tiny_checkpoint(), Options(tmp_path / "psp", backend="tensorrt", verify=False))
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match="no plan was written: tensorrt cannot parse it"):
        export(tiny_checkpoint(), Options(tmp_path / "psp", backend="auto", verify=False))
    assert {p.name for p in tmp_path.iterdir()} == {"psp.onnx", "psp.mapping.onnx"}


def test_leftovers_of_an_earlier_export_are_named(tmp_path):
    (tmp_path / "psp.trt").write_bytes(b"earlier")
    with pytest.warns(UserWarning, match="left over from an earlier export: psp.trt"):
        export(tiny_checkpoint(), Options(tmp_path / "psp", backend="onnx", verify=False))


def test_no_tensorrt_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "importable", lambda module: False)
    with pytest.raises(PspError, match=r"no TensorRT to build a plan with: pip install '\.\[rtx\]'"):
        export(tiny_checkpoint(), Options(tmp_path / "psp", backend="tensorrt"))


def test_a_gpu_that_cannot_run_the_plan_does_not_cost_the_onnx_file(tmp_path, monkeypatch):
    """A GPU without pycuda, say: the plan is written, and the table says that it was not run."""
    if not HAS_RTX:
        pytest.skip("no TensorRT that builds here")
    monkeypatch.setattr("psp_export.export.plan_obstacle", lambda path, info: "the Python package pycuda")
    files = {f.path.name: f for f in export(tiny_checkpoint(), Options(tmp_path / "psp"))}
    assert "not run here: it needs the Python package pycuda" in files["psp.trt"].parity
    monkeypatch.setattr("psp_export.export.plan_obstacle", lambda path, info: "")

    def refuse(path, device):
        raise EngineError("this GPU cannot run it")

    monkeypatch.setattr("psp_export.export.open_session", refuse)
    (tmp_path / "psp.trt").unlink()
    with pytest.warns(UserWarning, match="no plan was written: this GPU cannot run it"):
        export(tiny_checkpoint(), Options(tmp_path / "psp"))
    assert {p.name for p in tmp_path.iterdir()} == {"psp.onnx", "psp.mapping.onnx"}


# ---- Builder paths of TensorRT versions that are not here ----------------------------------------------------


class FakeCacheConfig:
    """The timing cache calls of TensorRT's IBuilderConfig."""

    def __init__(self, accepts):
        self.accepts = accepts

    def create_timing_cache(self, data):
        return data

    def set_timing_cache(self, cache, ignore_mismatch):
        return self.accepts

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: b"grown")


def test_timing_cache_is_kept_and_a_foreign_one_refused(tmp_path):
    path, trt = tmp_path / "cache", SimpleNamespace(__version__="10.0")
    with build._timing_cache(trt, FakeCacheConfig(accepts=True), path):
        pass
    assert path.read_bytes() == b"grown"
    refused = build._timing_cache(trt, FakeCacheConfig(accepts=False), path)
    with pytest.raises(PspError, match="was not made by TensorRT 10.0"), refused:
        pass
    with pytest.raises(PspError, match="expected a file in an existing folder"):
        check_timing_cache(tmp_path / "nowhere" / "cache", "tensorrt")


class FakeLayer:
    """A layer of TensorRT 8.6's network: inputs and outputs by name, the outputs of one type."""

    def __init__(self, kind, inputs, outputs, dtype="f32"):
        self.type, self.inputs, self.outputs, self.dtype = kind, inputs, outputs, dtype
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision, self.types = None, {}

    def get_input(self, index):
        return SimpleNamespace(name=self.inputs[index])

    def get_output(self, index):
        return SimpleNamespace(name=self.outputs[index], dtype=self.dtype)

    def set_output_type(self, index, dtype):
        self.types[self.outputs[index]] = dtype


def test_tensorrt_8_6_layers_obey_the_types_of_the_graph():
    """A Gemm becomes two layers with a tensor ONNX does not know between them: it inherits FP32. A shape does not."""
    trt = SimpleNamespace(float32="f32", float16="f16", LayerType=SimpleNamespace(SHAPE="shape", CAST="cast"))
    layers = [
        FakeLayer("matmul", ["w"], ["(Unnamed Layer* 0)"]),
        FakeLayer("sum", ["(Unnamed Layer* 0)"], ["style"]),
        FakeLayer("cast", ["style"], ["style_half"], "f16"),
        FakeLayer("conv", ["style_half"], ["y"]),
        FakeLayer("compare", ["ids"], ["mask"], "bool"),
        FakeLayer("shape", ["y"], ["(Unnamed Layer* 5)"], "int32"),
        FakeLayer("concatenation", ["(Unnamed Layer* 5)"], ["(Unnamed Layer* 6)"], "int32"),
        FakeLayer("shuffle", ["y", "(Unnamed Layer* 6)"], ["(Unnamed Layer* 7)"]),
    ]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    float32, float16, boolean = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BOOL
    types = {"w": float32, "style": float32, "style_half": float16, "y": float16, "ids": float32, "mask": boolean}
    build._obey_types(trt, network, types)
    assert [layer.precision for layer in layers] == ["f32", "f32", None, "f16", None, None, None, "f16"]
    assert layers[0].types == {"(Unnamed Layer* 0)": "f32"}


def test_building_a_plan_imports_no_torch():
    code = "import sys, psp_export.plans.build; sys.exit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
