"""The CUDA kernels on a CPU: which one is launched how, and what it computes in the emulator."""

import subprocess
import sys
from pathlib import Path

import definitions
import emulator
import guarded
import numpy as np
import pytest
import torch
from emulator import needs_compiler
from op_cases import LAYOUTS, ROUNDING, TYPES, activated_blur, error, layouts, planned, random

from psp_runtime.kernels import driver, launches
from psp_runtime.kernels.launches import Resampling
from psp_train.ops import cuda
from psp_train.ops.fused_bias_leaky_relu import _forward_cuda as activate_on_gpu
from psp_train.ops.fused_bias_leaky_relu import _gradient_cuda as gradient_on_gpu
from psp_train.ops.upfirdn2d import _upfirdn2d_cuda as upfirdn2d_on_gpu

# ---- Which kernel, which grid --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "channels", "factors", "fir", "kernel"),
    [
        ("planes", 8, (1, 1), 4, "planes_up1_down1"),
        ("planes", 3, (2, 1), 4, "planes_up2_down1"),
        ("one batch, expanded", 8, (1, 2), 4, "planes_up1_down2"),
        ("gaps", 8, (1, 2), 4, "general"),
        ("channels last", 8, (2, 1), 4, "channels_last_up2_down1"),
        ("channels last", 3, (2, 1), 4, "general"),
        ("misaligned channels last", 8, (1, 1), 4, "general"),
        ("planes", 8, (1, 1), 3, "general"),
        ("planes", 8, (2, 2), 4, "general"),
    ],
)
def test_the_launch_plan_chooses_the_kernel(layout, channels, factors, fir, kernel):
    x = layouts((2, channels, 8, 8), torch.float16)[layout]
    launch, _ = planned(x, torch.ones(fir, fir), Resampling(*factors, (2, 1, 2, 1)))
    assert launch.kernel == f"upfirdn2d_{kernel}" and launch.dtype == "float16"


def test_grids_cover_tensors_beyond_32_bit():
    """70000 x 70000: more elements than 32 bits count, and strides that would overflow them."""
    side = 70_000
    x = launches.Tensor(0, "float16", (1, 1, side, side), (side * side, side * side, side, 1))
    launch = launches.upfirdn2d(x, 0, (4, 4), x, Resampling(pads=(2, 1, 2, 1)))
    walks = -(-side // (launch.params.steps - 3))
    assert launch.grid == -(-(side // 8) * walks // 128) and launch.params.x_strides[0] == side**2
    launch = launches.upfirdn2d(x, 0, (3, 3), x, Resampling(pads=(1, 1, 1, 1)))
    assert launch.grid == -(-(side**2) // 128)
    launch = launches.bias_leaky_relu(x, 0, 0, 1, side**2, 0.2, 1.0)
    assert launch.grid == -(-(side**2) // (256 * 8)) and launch.params.count == side**2


def test_nothing_to_do_is_no_launch():
    empty = launches.Tensor(0, "float32", (0, 3, 4, 4), (48, 16, 4, 1))
    assert launches.upfirdn2d(empty, 0, (1, 1), empty, Resampling()) is None
    assert launches.bias_leaky_relu(empty, 0, 0, 3, 16, 0.2, 1.0) is None
    assert launches.leaky_relu_gradient(empty, 0, 0, 0.2, 1.0) is None
    driver.launch(None, 0)  # and needs no driver


# ---- The kernels themselves, emulated ------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("steps", [32, 8])
@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_upfirdn2d_kernels(factors, dtype, steps, monkeypatch):
    """Every kernel over sizes below and above a walk, even and odd phases, paddings and crops, FIRs of both kinds."""
    monkeypatch.setattr(launches, "_STEPS", (steps,))
    firs, kernels = (random((4, 4), torch.float32, seed=1), torch.outer(*random((2, 4), torch.float32))), set()
    for shape, pads in (((3, 8, 9, 7), (2, 1, 2, 1)), ((2, 8, 5, 135), (1, 2, -1, 3)), ((1, 8, 37, 4), (3, -2, 3, 4))):
        for name, x in layouts(shape, dtype).items():
            for fir in firs:
                launch, y = planned(x, fir, Resampling(*factors, pads, gain=1.5))
                emulator.run(launch)
                expected = definitions.upfirdn2d(x.double(), fir, *factors, pads, gain=1.5)
                assert error(y, expected) < ROUNDING[dtype], (launch.kernel, name, shape)
                kernels.add(launch.kernel)
    assert len(kernels) == (3 if factors != (3, 2) else 1)


@needs_compiler
@pytest.mark.parametrize("place", [(2, 2), (1, 2), (0, 3)])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-39, torch.inf, torch.nan])
def test_firs_that_only_look_separable(value, place):
    """One element is zero, tiny or no number, also the one columns are divided by: sums are by the definition."""
    x = random((1, 2, 9, 8), torch.float32)
    fir = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 2.0, 2.0, 1.0]))
    fir[place] = value  # (2, 2) is the element that columns are divided by, turned by 180 degrees
    launch, y = planned(x, fir, Resampling(pads=(2, 1, 2, 1)))
    emulator.run(launch)
    expected = definitions.upfirdn2d(x.double(), fir, pads=(2, 1, 2, 1))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="pages are forbidden through mprotect")
def test_kernels_touch_nothing_outside_of_their_tensors():
    """And a test that could not fail would be none: with tensors too short, the process dies."""
    command = [sys.executable, str(Path(guarded.__file__))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([*command, "short"], capture_output=True).returncode < 0


def test_pairs_are_read_of_tensors_made_of_pairs():
    """Half precision: neither an odd number of elements nor an odd address; in FP32 both are fine."""
    fir, how = torch.ones(4, 4), Resampling(pads=(2, 1, 2, 1))
    for dtype, form in ((torch.float16, "general"), (torch.float32, "planes_up1_down1")):
        for x in (random((1, 1, 5, 5), dtype), random((1, 1, 6, 6), dtype)[..., 1:, 1:]):
            assert planned(x, fir, how)[0].kernel == f"upfirdn2d_{form}"
    assert planned(random((1, 1, 6, 6), torch.float16)[..., 1:, :], fir, how)[0].kernel == "upfirdn2d_planes_up1_down1"


@needs_compiler
@pytest.mark.parametrize("fir_size", [(1, 1), (1, 12), (12, 3), (4, 4)])
@pytest.mark.parametrize("flip", [False, True])
def test_general_kernel_for_other_firs(fir_size, flip):
    x, fir = random((2, 3, 14, 9), torch.float32), random(fir_size, torch.float32, seed=1)
    for up, down, pads in ((1, 1, (0, 0, 4, 0)), (4, 3, (12, -2, 5, 7)), (2, 4, (-3, 9, 2, 0))):
        launch, y = planned(x, fir, Resampling(up, down, pads, flip, 0.5))
        emulator.run(launch)
        assert error(y, definitions.upfirdn2d(x, fir, up, down, pads, flip, 0.5)) < 1e-6


@needs_compiler
def test_few_blocks_do_the_work_of_many():
    """As where a grid would exceed what CUDA takes: blocks go on to further tiles."""
    fir = random((4, 4), torch.float32, seed=1)
    for name in ("planes", "channels last"):
        x = layouts((2, 4, 40, 150), torch.float32)[name]
        for part in (fir, fir[:3, :3].contiguous()):
            launch, y = planned(x, part, Resampling(pads=(1, 1, 1, 1)))
            emulator.run(launch._replace(grid=3))
            assert error(y, definitions.upfirdn2d(x, part, pads=(1, 1, 1, 1))) < 1e-6
    x, y, bias = random((3, 5, 700), torch.float32), torch.empty(3, 5, 700), random(5, torch.float32)
    launch = launches.bias_leaky_relu(cuda.describe(x), bias.data_ptr(), y.data_ptr(), 5, 700, 0.2, 2.0)
    emulator.run(launch._replace(grid=2))
    assert error(y, definitions.fused_bias_leaky_relu(x, bias, gain=2.0)) < 1e-6


@needs_compiler
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 8, 4), (3, 5, 3, 3), (2, 3, 5, 1), (4, 16, 1, 1), (1, 1, 1, 1)])
def test_fused_bias_leaky_relu_kernels(dtype, shape):
    """Planes of whole vectors, odd planes, channels-last, and addresses that are no multiple of 16."""
    bias = random(shape[1], torch.float32, seed=1)
    for layout in LAYOUTS:
        for shift in (0, 1):
            memory = torch.zeros(random(shape).numel() + shift, dtype=dtype)
            x = random(shape, dtype).to(memory_format=layout)
            x = memory[shift:].as_strided(shape, x.stride()).copy_(x)
            y, dx = torch.empty_like(x), torch.empty_like(x)
            channels, inner = shape[1], x.stride(1)
            slope_and_gain = (0.25, 1.5)
            given = cuda.describe(x)
            emulator.run(
                launches.bias_leaky_relu(given, bias.data_ptr(), y.data_ptr(), channels, inner, *slope_and_gain)
            )
            assert error(y, definitions.fused_bias_leaky_relu(x.double(), bias, *slope_and_gain)) < ROUNDING[dtype]
            emulator.run(launches.leaky_relu_gradient(given, y.data_ptr(), dx.data_ptr(), *slope_and_gain))
            expected = x.double().numpy() * np.where(y.double().numpy() > 0, 1.5, 1.5 * 0.25)
            assert error(dx, expected) < ROUNDING[dtype]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a GPU takes tensors of the CPU."""
    monkeypatch.setattr(cuda, "usable", lambda x: True)
    monkeypatch.setattr(cuda, "launch", lambda what, x: what and emulator.run(what))


@needs_compiler
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_operators_launch_the_kernels_right(emulated, dtype):
    """From torch tensors of any strides, half-precision parameters and an empty batch, to the result's layout."""
    fir, bias = random((4, 3), dtype, seed=1).t(), random(16, dtype, seed=2)[::2]
    for name, x in layouts((2, 8, 9, 6), dtype).items():
        y = upfirdn2d_on_gpu(x, fir, [1, 2], [2, 1, 1, 1], True, 1.5)
        expected = definitions.upfirdn2d(x.double(), fir.double(), 1, 2, (2, 1, 1, 1), True, 1.5)
        assert error(y, expected) < ROUNDING[dtype], name
        z = activate_on_gpu(x, bias, 0.2, 1.5)
        assert error(z, definitions.fused_bias_leaky_relu(x.double(), bias.double(), gain=1.5)) < ROUNDING[dtype], name
        for dz in (x, x.flip(3), x[:1, :1, :1, :1].expand(x.shape)):
            dx = gradient_on_gpu(dz, z, 0.2, 1.5)
            assert dx.stride() == z.stride()
            expected = dz.double().numpy() * np.where(z.double().numpy() > 0, 1.5, 0.3)
            assert error(dx, expected) < ROUNDING[dtype], name
    assert upfirdn2d_on_gpu(x[:0], fir, [1, 1], [2, 1, 1, 1], False, 1.0).shape == (0, 8, 10, 5)
    assert activate_on_gpu(x[:0], bias, 0.2, 1.5).shape == (0, 8, 9, 6)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_numbers_at_the_edges_of_a_type(dtype):
    """Subnormal, largest, overflowing, infinite and not a number: rounded as torch rounds."""
    limits = torch.finfo(dtype)
    values = [0.0, -0.0, 2 * limits.tiny, limits.tiny / 2, limits.smallest_normal / 8, limits.max, -limits.max]
    x = torch.tensor([*values, torch.inf, -torch.inf, torch.nan, 1 + limits.eps, 1 + 3 * limits.eps], dtype=dtype)
    bias = -torch.zeros(1)  # -0 + 0 would be 0
    for gain in (1.0, 1.5, 0.25):
        y = torch.empty_like(x)
        row = launches.Tensor(x.data_ptr(), cuda.dtype_name(dtype), x.shape, (1,))
        launch = launches.bias_leaky_relu(row, bias.data_ptr(), y.data_ptr(), 1, len(x), 1.0, gain)
        emulator.run(launch)
        torch.testing.assert_close(y, (x.float() * gain).to(dtype), rtol=0, atol=0, equal_nan=True)


def test_both_operators_in_one_graph():
    """What the compiled and captured graphs above hold, on a CPU."""
    x = torch.randn(2, 3, 6, 6)
    expected = definitions.fused_bias_leaky_relu(
        definitions.upfirdn2d(x, np.full((4, 4), 1 / 16), pads=(2, 1, 2, 1)), np.zeros(3)
    )
    assert error(activated_blur(x, torch.zeros(3)), expected) < 1e-6
