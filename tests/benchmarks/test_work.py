"""Work is counted right: what a network costs by its layers, how fast a machine can be, what the profiler saw."""

import layers
import numpy as np
import pytest
import torch
from measure import roofline, workloads
from measure.workloads import Piece, Workload
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

SMALL = Workload(64, 1, small=True)
FULL, GENERATOR, ENCODER = workloads.FULL, workloads.GENERATOR, Piece("psp", "encoder")


def test_work_of_the_generator_is_the_sum_over_its_layers():
    """Transposed 3x3 convolutions at the lower size, 3x3 at the higher, 1x1 to RGB, 4x4 FIR on both branches."""
    widths = (512, 512, 512, 512, 512, 256, 128, 64, 32)
    macs = 4 * 4 * (9 * 512 * 512 + 3 * 512)
    for level, (i, o) in enumerate(zip(widths, widths[1:])):
        low, high = (4 * 2**level) ** 2, (8 * 2**level) ** 2
        macs += 9 * i * o * low + 9 * o * o * high + 3 * o * high + 16 * (o + 3) * high
    work = roofline.work(Workload(1024), GENERATOR)
    assert work.gflop == pytest.approx(2 * macs / 1e9, rel=1e-3)  # besides: the style affines
    assert 150 < work.gflop < 152


def test_work_of_the_encoder_is_that_of_its_convolutions():
    macs = []

    def count(module, inputs, output):
        macs.append(output.numel() * module.weight[0].numel())

    with FakeTensorMode():
        model = workloads.PSP(*workloads.configs(Workload(1024), "psp"))
        for module in model.encoder.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        model.encoder(torch.empty(1, 3, 256, 256))
    work = roofline.work(Workload(1024), ENCODER)
    assert work.gflop == pytest.approx(2 * sum(macs) / 1e9, rel=1e-3)
    assert 144 < work.gflop < 146
    assert work.gweights == pytest.approx(0.267, abs=1e-3)


def test_work_of_the_whole_is_the_sum_of_both():
    whole, parts = roofline.work(SMALL, FULL), [roofline.work(SMALL, piece) for piece in (ENCODER, GENERATOR)]
    assert whole == parts[0] + parts[1]


def test_floor_is_the_slower_of_arithmetic_and_memory():
    limits = roofline.Limits(gflops=100, copy_gb=10)
    assert limits.floor(roofline.Work(200, 0.1), 1, "fp32") == 2
    assert limits.floor(roofline.Work(200, 0.1), 3, "fp32") == 6
    assert limits.floor(roofline.Work(1, 10), 1, "fp32") == 4
    assert limits.floor(roofline.Work(1, 10), 1, "fp16") == 2
    assert limits.best(roofline.Limits(90, 20)) == roofline.Limits(100, 20)


@pytest.mark.parametrize(("by_torch", "by_onnx_runtime"), [(200, 430), (430, 200)])
def test_a_cpu_is_as_fast_as_its_faster_library(monkeypatch, by_torch, by_onnx_runtime):
    """The one behind torch reaches half of what ONNX Runtime does on some AMD processors."""
    monkeypatch.setattr(roofline, "_matmul", lambda side, dtype, device: by_torch)
    monkeypatch.setattr(roofline, "_onnx_matmul", lambda side, dtype: by_onnx_runtime)
    monkeypatch.setattr(roofline, "COPIED_BYTES", {"cpu": 1 << 20})
    assert roofline.measure("cpu", "fp16").gflops == 430
    assert roofline.measure("cpu", "int8").gflops == by_onnx_runtime


def test_onnx_runtime_multiplies_what_is_counted(monkeypatch):
    """Two seconds for a product of 64 x 64 matrices, timed by a clock of our own; and it really multiplies."""
    seen = []
    monkeypatch.setattr(roofline, "_fastest", lambda run, device: seen.append(run()) or 2.0)
    assert roofline._onnx_matmul(64) == 64**3 / 1e9
    matrix = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    np.testing.assert_allclose(seen[0][0], matrix.astype(np.float64) @ matrix, atol=1e-4)
    roofline._onnx_matmul(64, torch.int8)
    levels = np.random.default_rng(0).integers(0, 128, (64, 64))
    np.testing.assert_array_equal(seen[1][0], levels @ levels)


@pytest.mark.filterwarnings("ignore:You are using the legacy")
def test_layers_count_what_the_profiler_saw(tmp_path):
    """A convolution, a transposed one, a grouped one and a product, channels in multiples of ONNX Runtime's blocks."""
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(32, 64, 3, stride=2),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 48),
    )
    x = torch.randn(2, 16, 20, 24)
    with FlopCounterMode(display=False) as counter:
        model(x)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), str(file), input_names=["x"], dynamo=False)
    limits = roofline.Limits(gflops=1, copy_gb=1)
    found = layers.profile(file, {"x": x.numpy()}, "cpu", 2, limits)
    assert sum(layer.gflop for layer in found) * 1e9 == pytest.approx(counter.get_total_flops(), rel=1e-6)
    wide = next(layer for layer in found if layer.op == "ConvTranspose")
    moved = 4 * (32 * 64 * 9 + 2 * 32 * 10 * 12 + 2 * 64 * 21 * 25)
    assert wide.megabytes == pytest.approx((moved + 4 * 64) / 1e6)  # and the bias
    assert wide.floor_ms == pytest.approx(1e3 * wide.gflop) and wide.ms > 0
