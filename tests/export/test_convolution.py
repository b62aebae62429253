"""Half-precision convolutions of the deployable form: values on any CPU, and the nodes they become."""

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from psp_export.deploy.convolution import Conv2d, conv2d, conv_transpose2d

pytestmark = pytest.mark.filterwarnings("ignore:You are using the legacy:DeprecationWarning")

#: One rounding of the exact result to FP16, and the FP32 sums before it.
ROUNDING = {"rtol": 2**-11 * 1.01, "atol": 1e-6}


def operands(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator).half() for shape in shapes]


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 1, 1), (2, 0, 1), (2, 1, 4), (1, 2, 8)])
@pytest.mark.parametrize("biased", [False, True])
def test_conv2d_is_the_exact_result_rounded_once(stride, padding, groups, biased):
    x, weight, bias = operands((2, 8, 9, 7), (16, 8 // groups, 3, 3), (16,))
    bias = bias if biased else None
    exact = F.conv2d(x.double(), weight.double(), bias.double() if biased else None, stride, padding, groups=groups)
    result = conv2d(x, weight, bias, stride, padding, groups)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.double(), exact, **ROUNDING)


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 0, 1), (2, 1, 8)])
def test_conv_transpose2d_is_the_exact_result_rounded_once(stride, padding, groups):
    x, weight = operands((2, 8, 5, 6), (8, 16 // groups, 4, 4))
    exact = F.conv_transpose2d(x.double(), weight.double(), stride=stride, padding=padding, groups=groups)
    result = conv_transpose2d(x, weight, stride, padding, groups)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.double(), exact, **ROUNDING)


class Chain(nn.Module):
    """One of each, as the encoder and the generator use them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Conv2d(3, 8, 3, 2, 1), Conv2d(8, 8, 3, 1, 1, groups=2, bias=False)
        self.up = nn.Parameter(torch.randn(8, 4, 3, 3) / 8)
        self.fir = nn.Parameter(torch.rand(3, 1, 4, 4) / 4)
        self.last = Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = conv_transpose2d(self.second(self.first(x)), self.up, stride=2)
        return conv_transpose2d(self.last(y), self.fir, stride=2, padding=1, groups=3)


def exported(module: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """The model with the shapes that ONNX infers from its nodes."""
    buffer = io.BytesIO()
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    torch.onnx.export(module, (x,), buffer, input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False)
    return onnx.shape_inference.infer_shapes(onnx.load_from_string(buffer.getvalue()), True, True)


def nodes(model: onnx.ModelProto) -> list[tuple]:
    return [
        (node.op_type, *((a.name, onnx.helper.get_attribute_value(a)) for a in node.attribute))
        for node in model.graph.node
    ]


def shapes(model: onnx.ModelProto) -> list[list[int | str]]:
    values = (*model.graph.value_info, *model.graph.output)
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]


@pytest.fixture(scope="module")
def chains() -> tuple[nn.Module, torch.Tensor, onnx.ModelProto, onnx.ModelProto]:
    """Module in FP16, input [1,3,11,8], exported in FP32 and in FP16."""
    torch.manual_seed(5)
    module, x = Chain().requires_grad_(False), torch.randn(1, 3, 11, 8)
    full = exported(module, x)
    return module.half(), x.half(), full, exported(module, x.half())


def test_nodes_and_shapes_are_those_of_torchs_own_exporter(chains):
    *_, full, half = chains
    assert nodes(half) == nodes(full)
    assert shapes(half) == shapes(full)
    assert {node.op_type for node in half.graph.node} == {"Conv", "ConvTranspose"}
    assert {tensor.data_type for tensor in half.graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_the_exported_chain_gives_the_same_values_at_another_batch_size(chains):
    module, x, _, half = chains
    x = torch.cat([x, x.flip(3), -x])
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(result, module(x).numpy(), rtol=0.01, atol=0.01)
