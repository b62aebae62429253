"""`psp-export --custom-ops`: the same pictures from a file with nodes of our own and their definitions inside."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models import inputs, relative_error, tiny_checkpoint, tiny_model
from typer.testing import CliRunner

from psp_export.cli import app
from psp_export.deploy import custom_ops
from psp_export.deploy.generator import DeployedGenerator
from psp_export.deploy.precision import to_half
from psp_export.export import Options, engine_info, export
from psp_export.graphs.functions import add_bodies
from psp_export.graphs.inspect import tensor_types
from psp_export.graphs.trace import OPSETS
from psp_export.output_files import Written
from psp_export.plans.source import inlined
from psp_export.verify.cases import pictures, reference_cases
from psp_export.verify.headroom import HEADROOM, fp16_peaks
from psp_runtime import load
from psp_runtime.engines.info import EngineInfo, read_info
from psp_train.ops import fused_bias_leaky_relu, upfirdn2d

NODES = {"PspUpFirDn2d", "PspFusedBiasLeakyReLU"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An FP16 export with the custom operations, verified, parts included."""
    folder = tmp_path_factory.mktemp("custom")
    options = Options(folder / "psp", "fp16", "onnx", parts=True, custom_ops=True)
    export(tiny_checkpoint(), options)
    return folder


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    """The first output, by ONNX Runtime with nothing registered."""
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]


class Picture(torch.nn.Module):
    """The generator of the tiny model up to its FP32 picture: rounding to uint8 would hide differences."""

    def __init__(self, precision: str, custom: bool) -> None:
        super().__init__()
        self.generator = DeployedGenerator(tiny_model().decoder)
        if custom:
            custom_ops.use_custom_ops(self)
        if precision == "fp16":
            to_half(self)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        layers, to_rgbs = self.generator.convs, self.generator.to_rgbs
        x = layers[0](self.generator.constant, w[:, 0])
        rgb = to_rgbs[0](x, w[:, 1])
        for i, to_rgb in enumerate(to_rgbs[1:]):
            x = layers[2 * i + 2](layers[2 * i + 1](x, w[:, 2 * i + 1]), w[:, 2 * i + 2])
            rgb = to_rgb(x, w[:, 2 * i + 3]) + to_rgb.upsample(rgb)
        return rgb


def traced(module: torch.nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """A module as an ONNX model with a dynamic batch, custom nodes with their bodies."""
    buffer = io.BytesIO()
    axes = {name: {0: "batch"} for name in ("x", "y")}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(module.eval(), (x,), buffer, opset_version=17, dynamo=False, **names)
    model = onnx.load_from_string(buffer.getvalue())
    add_bodies(model)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 2e-3)])
def test_custom_and_decomposed_graphs_agree(precision, most):
    w = inputs("w", (3, 10, 32)).numpy()
    custom, decomposed = (
        run(traced(Picture(precision, custom), torch.zeros(1, 10, 32)), x=w) for custom in (True, False)
    )
    assert relative_error(custom, decomposed) < most


def test_the_file_holds_the_nodes_and_their_bodies(exported):
    model = onnx.load(exported / "psp.onnx")
    custom = [node for node in model.graph.node if node.domain == "psp"]
    assert {node.op_type for node in custom} == NODES == {function.name for function in model.functions}
    ups, layers = 4, 9
    kinds = [node.op_type for node in custom]
    assert (kinds.count("PspUpFirDn2d"), kinds.count("PspFusedBiasLeakyReLU")) == (2 * ups, layers)
    for node in custom:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert values["plugin_namespace"] == b"psp" and values["plugin_version"] == b"1"
    types = tensor_types(model) | {t.name: t.data_type for t in model.graph.initializer}
    assert {types[node.input[1]] for node in custom} == {onnx.TensorProto.FLOAT}  # what the kernels take
    assert {types[node.output[0]] for node in custom} == {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    assert {node.op_type for function in model.functions for node in function.node} <= {
        *("CastLike", "ConvTranspose", "Add", "LeakyRelu", "Constant", "Mul")
    }


def test_verified_like_any_other_and_every_fp16_tensor_watched(exported):
    path = exported / "psp.onnx"
    info, types = read_info(path), tensor_types(onnx.load(path))
    assert info.custom_ops and info.parity["psnr"] >= 50 and info.parity["headroom"] >= HEADROOM
    half = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16}
    assert len({node.output[0] for node in onnx.load(path).graph.node if node.domain == "psp"} & half) == 4 + 9
    assert half <= set(fp16_peaks(path, [reference_cases(tiny_model(), info)[0].inputs]))


def test_only_what_has_the_nodes_says_so(exported):
    names = ("psp.onnx", "psp.generator.onnx", "psp.encoder.onnx", "psp.mapping.onnx")
    assert [read_info(exported / name).custom_ops for name in names] == [True, True, False, False]
    assert not onnx.load(exported / "psp.encoder.onnx").functions
    with load(exported / "psp.onnx") as pipeline:  # parts of the same export are used
        images = pictures("rgb", 0, 2, seed=1)[:1]
        assert pipeline.mix(images, pipeline.styles(2, seed=1)).shape == (1, 2, 64, 64, 3)


def test_metadata_of_earlier_files_reads_as_without():
    info = engine_info(tiny_checkpoint(), Options(custom_ops=True))
    text = info.to_json()
    assert EngineInfo.from_json(text, "file").custom_ops
    assert not EngineInfo.from_json(text.replace('"custom_ops":true,', ""), "file").custom_ops


def test_inlining_leaves_standard_operations(exported):
    """What TensorRT 8.6 gets."""
    model = onnx.load(exported / "psp.onnx")
    plain = inlined(model)
    assert not plain.functions and {node.domain for node in plain.graph.node} <= {""}
    feeds = {
        "image": pictures("rgb", 0, 2, seed=1),
        "style": np.zeros((2, 10, 32), np.float32),
        "alpha": np.zeros((2, 10), np.float32),
    }
    assert np.abs(run(model, **feeds).astype(int) - run(plain, **feeds)).max() <= 1


# ---- The nodes against the operators of psp_train -------------------------------------------------------------


class Both(torch.nn.Module):
    """An odd FIR, so that a turned one shows; both factors; bias and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.fir = torch.nn.Parameter(inputs("fir", (4, 4)), requires_grad=False)
        self.bias = torch.nn.Parameter(inputs("bias", (5,)), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fir = self.fir.expand(5, 1, 4, 4)
        y = custom_ops.upfirdn2d(custom_ops.upfirdn2d(x, fir, up=2, crop=1), fir, up=1, crop=2)
        return custom_ops.fused_bias_leaky_relu(y, self.bias[:, None, None], 0.3, 1.5)


def test_nodes_are_the_operators():
    module, x = Both(), inputs("x", (2, 5, 7, 6))
    y = upfirdn2d(upfirdn2d(x, module.fir, 2, pad=(2, 1)), module.fir, pad=(1, 1))
    expected = fused_bias_leaky_relu(y, module.bias, 0.3, 1.5)
    torch.testing.assert_close(module(x), expected)
    model = traced(module, torch.zeros(1, 5, 7, 6))
    assert relative_error(run(model, x=x.numpy()), expected.numpy()) < 1e-6


@pytest.mark.parametrize("opset", OPSETS)
def test_bodies_are_of_the_opset_of_the_file(opset):
    model = traced(Both(), torch.zeros(1, 5, 7, 6))
    del model.functions[:]
    model.opset_import[0].version = opset
    assert add_bodies(model)
    assert {f.opset_import[0].version for f in model.functions} == {opset}
    onnx.checker.check_model(model)


def test_a_model_without_nodes_gets_no_bodies():
    model = traced(torch.nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 4, 4))
    assert not add_bodies(model) and not model.functions


def test_the_option(monkeypatch, tmp_path):
    """`--custom-ops` arrives; without it the graph stays decomposed."""
    asked = []

    def listen(checkpoint, options, say):
        asked.append(options.custom_ops)
        (tmp_path / "psp.onnx").touch()
        return [Written(tmp_path / "psp.onnx", "full", "fp32", "")]

    monkeypatch.setattr("psp_export.export.export", listen)
    for flags in ([], ["--custom-ops"]):
        result = CliRunner().invoke(app, ["--output", str(tmp_path / "psp"), "--backend", "onnx", *flags])
        assert result.exit_code == 0, result.output
    assert asked == [False, True]
