"""The two StyleGAN2 operators on a CPU: values by definition, gradients, and how they fit into torch."""

import subprocess
import sys
import warnings

import definitions
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import LAYOUTS, ROUNDING, activated_blur, error, random
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from psp_runtime.errors import PspError
from psp_runtime.kernels.launches import Resampling
from psp_train.ops import fused_bias_leaky_relu, resample, upfirdn2d


@pytest.mark.parametrize("up", [1, 2, 3, 4])
@pytest.mark.parametrize("down", [1, 2, 3, 4])
@pytest.mark.parametrize("pads", [(0, 0), (2, 1), (3, 3), (-1, 2), (-1, -2), (11, -3, -2, 12)])
def test_upfirdn2d_values(up, down, pads):
    x, fir = random((2, 3, 9, 7)), random((4, 3), seed=1)
    y = upfirdn2d(x, fir, up, down, pads, gain=1.5)
    assert error(y, definitions.upfirdn2d(x, fir, up, down, pads * (4 // len(pads)), gain=1.5)) < 1e-14


@pytest.mark.parametrize("fir_size", [(1, 1), (1, 12), (12, 1), (5, 2), (12, 12)])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_upfirdn2d_fir_sizes_and_dtypes(fir_size, dtype):
    x, fir = random((1, 2, 13, 16), dtype), random(fir_size, dtype, seed=1)
    y = upfirdn2d(x, fir, 2, 3, (2, 1))
    assert y.dtype == dtype
    assert error(y, definitions.upfirdn2d(x.double(), fir.double(), 2, 3, (2, 1, 2, 1))) < ROUNDING[dtype]


def test_flip_says_the_filter_is_already_flipped():
    x, fir = torch.randn(1, 1, 8, 8), torch.randn(3, 3)
    assert torch.equal(upfirdn2d(x, fir), resample(x, fir.flip(0, 1), Resampling(flip=True)))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 4), (2, 5, 3, 4), (2, 5, 3, 4, 2), (0, 5, 3, 4)])
def test_fused_bias_leaky_relu_values(dtype, shape):
    x, bias = random(shape, dtype), random(5, dtype, seed=1)
    y = fused_bias_leaky_relu(x, bias)
    assert y.dtype == dtype and y.shape == x.shape
    if len(y):
        assert error(y, definitions.fused_bias_leaky_relu(x.double(), bias.double())) < 2 * ROUNDING[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_and_the_memory_order_of_the_input(layout):
    x = random((2, 4, 12, 9)).to(memory_format=layout)
    fir, bias = random((4, 4), seed=1), random(4, seed=2)
    for view in (x, x[:, :, 1::2], x[:1].expand(3, -1, -1, -1), x.transpose(2, 3)):
        for y, expected in (
            (upfirdn2d(view, fir, pad=(1, 1)), definitions.upfirdn2d(view, fir, pads=(1, 1, 1, 1))),
            (fused_bias_leaky_relu(view, bias), definitions.fused_bias_leaky_relu(view, bias)),
        ):
            assert error(y, expected) < 1e-14
    for y in (upfirdn2d(x, fir, 2, pad=(2, 1)), fused_bias_leaky_relu(x, bias)):
        assert y.is_contiguous(memory_format=layout)


def test_empty_batch():
    x = torch.zeros(0, 3, 8, 8, requires_grad=True)
    y = fused_bias_leaky_relu(upfirdn2d(x, torch.ones(4, 4), up=2, pad=(2, 1)), torch.zeros(3))
    assert y.shape == (0, 3, 16, 16)
    y.sum().backward()
    assert x.grad.shape == x.shape


# ---- Gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", [(1, 1, (1,) * 4), (2, 1, (2, 1, 2, 1)), (1, 2, (1,) * 4), (3, 2, (-1, 4, 5, -2)), (2, 3, (3,) * 4)]
)
@pytest.mark.parametrize("flip", [False, True])
def test_upfirdn2d_gradients(case, flip):
    x, fir = random((1, 2, 4, 5)).requires_grad_(), random((4, 3), seed=1)

    def function(x):
        return resample(x, fir, Resampling(*case, flip, 1.5))

    assert gradcheck(function, x, fast_mode=True) and gradgradcheck(function, x, fast_mode=True)


def test_fused_bias_leaky_relu_gradients():
    x, bias = random((2, 3, 2, 2)).requires_grad_(), random(3, seed=1).requires_grad_()
    assert gradcheck(fused_bias_leaky_relu, (x, bias)) and gradgradcheck(fused_bias_leaky_relu, (x, bias))
    assert gradcheck(lambda x, b: fused_bias_leaky_relu(x, b, 0.0, 3.0), (x, bias))


factors, sizes, pad = st.integers(1, 4), st.integers(1, 9), st.integers(-3, 6)


@settings(max_examples=40, deadline=None)
@given(up=factors, down=factors, height=sizes, width=sizes, kh=sizes, kw=sizes, pads=st.tuples(pad, pad, pad, pad))
def test_the_adjoint_of_upfirdn2d_is_upfirdn2d(up, down, height, width, kh, kw, pads):
    """<upfirdn2d(x), y> = <x, upfirdn2d'(y)> with up and down exchanged and the FIR turned, by definition in NumPy."""
    x, fir = random((1, 2, height, width)).requires_grad_(), random((kh, kw), seed=1)
    padded = height * up + pads[0] + pads[1], width * up + pads[2] + pads[3]
    if padded[0] < kh or padded[1] < kw:
        with pytest.raises(PspError, match="smaller than the FIR"):
            upfirdn2d(x, fir, up, down, pads)
        return
    y = upfirdn2d(x, fir, up, down, pads)
    dy = random(y.shape, seed=2)
    adjoint = []
    for axis, size, kernel in ((0, height, kh), (1, width, kw)):
        before = kernel - 1 - pads[2 * axis]
        adjoint += [before, (size - 1) * up + kernel - before - dy.shape[2 + axis] * down]
    expected = definitions.upfirdn2d(dy, fir, down, up, adjoint, flip=True)
    (dx,) = torch.autograd.grad(y, x, dy)
    np.testing.assert_allclose(dx.numpy(), expected, atol=1e-12)
    assert (y * dy).sum().item() == pytest.approx((x * dx).sum().item(), abs=1e-9)


# ---- How they fit into torch ---------------------------------------------------------------------------------

OPERATORS = {
    "upfirdn2d": lambda x: (x, torch.ones(4, 3), [2, 1], [2, 1, 1, 1], False, 1.5),
    "fused_bias_leaky_relu": lambda x: (x, torch.zeros(3, requires_grad=True), 0.2, 1.4),
    "leaky_relu_gradient": lambda x: (x, x.detach(), 0.2, 1.4),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(name, layout):
    x = torch.randn(2, 3, 5, 6).to(memory_format=layout).requires_grad_()
    opcheck(getattr(torch.ops.psp, name).default, OPERATORS[name](x))


def test_compiled_without_a_break():
    """The graph, its backward pass included, holds the operators; no code is generated here."""
    compiled = torch.compile(activated_blur, backend="aot_eager", fullgraph=True)
    x, bias = torch.randn(2, 3, 6, 6), torch.randn(3)
    results = []
    for function in (activated_blur, compiled):
        leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
        y = function(*leaves)
        results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(eager, traced)


def test_autocast_keeps_the_dtype_of_the_input():
    """As FP32 skip connections and FP16 features meet in one model; the bias stays an FP32 parameter."""
    bias = torch.zeros(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            y = activated_blur(torch.randn(2, 3, 6, 6, dtype=dtype), bias)
            assert y.dtype == dtype
            assert torch.autograd.grad(y.sum(), bias)[0].dtype == torch.float32


def test_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.nn.parallel.DistributedDataParallel(Activated())
        model(torch.randn(2, 3, 6, 6)).sum().backward()
        assert model.module.bias.grad.abs().sum() > 0
    finally:
        torch.distributed.destroy_process_group()


class Activated(torch.nn.Module):
    """A bias to learn behind both operators."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return activated_blur(x, self.bias)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: upfirdn2d(x[0], torch.ones(4, 4)), r"expected \[B,C,H,W\]"),
        (lambda x: upfirdn2d(x, torch.ones(4)), r"expected \[B,C,H,W\] and \[kh,kw\]"),
        (lambda x: upfirdn2d(x, torch.ones(4, 4), up=0), "up 0, down 1; expected factors of 1 or more"),
        (lambda x: upfirdn2d(x, torch.ones(4, 4), pad=(1,)), r"pad \(1,\); expected 2 or 4 numbers"),
        (lambda x: upfirdn2d(x, torch.ones(4, 4), pad=(-3, 0)), "2x2 after padding, smaller than the FIR 4x4"),
        (lambda x: upfirdn2d(x, torch.ones(4, 4, requires_grad=True)), "the FIR is a constant"),
        (lambda x: upfirdn2d(x, torch.ones(4, 4, device="meta")), "x on cpu, FIR on meta"),
        (lambda x: fused_bias_leaky_relu(x, torch.zeros(3, device="meta")), "x on cpu, bias on meta"),
        (lambda x: fused_bias_leaky_relu(x, torch.zeros(4)), r"bias \[4\]; expected \[B,C,...\] and \[C\]"),
        (lambda x: fused_bias_leaky_relu(x, torch.zeros(3), gain=-1.0), "expected gain > 0"),
        (lambda x: fused_bias_leaky_relu(x, torch.zeros(3), slope=-0.1), "slope >= 0"),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(PspError, match=message):
        call(torch.zeros(1, 3, 5, 5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows a machine without a GPU")
def test_a_machine_without_a_gpu_is_told_so_and_not_warned():
    done = subprocess.run([sys.executable, "-m", "psp_train.ops"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["cpu: plain torch", "cuda: plain torch; this torch sees no NVIDIA GPU"]
    assert done.stderr == ""
