"""The CUDA kernels: on a CPU through the emulator and the compiler, on a GPU through torch and without it."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import definitions
import emulator
import numpy as np
import pytest
import torch
from emulator import needs_compiler
from test_ops import LAYOUTS, ROUNDING, activated_blur, error, random

from psp_runtime.errors import DeviceError, PspError
from psp_runtime.kernels import driver, launches, ptx
from psp_runtime.kernels.launches import DTYPES, Launch, Resampling
from psp_train.ops import cuda, fused_bias_leaky_relu, upfirdn2d
from psp_train.ops.fused_bias_leaky_relu import _forward_cuda as activate_on_gpu
from psp_train.ops.fused_bias_leaky_relu import _gradient_cuda as gradient_on_gpu
from psp_train.ops.upfirdn2d import _result
from psp_train.ops.upfirdn2d import _upfirdn2d_cuda as upfirdn2d_on_gpu

TYPES = [getattr(torch, name) for name in DTYPES]
FILES = [(source, dtype) for source in ptx.SOURCES for dtype in ptx.ELEMENTS]
ARCHITECTURES = (75, 80, 90, 100, 120)


def planned(x: torch.Tensor, fir: torch.Tensor, how: Resampling) -> tuple[Launch, torch.Tensor]:
    """The launch for these tensors, and its result, empty as yet."""
    y = _result(x, fir, how.up, how.down, how.pads).fill_(torch.nan)
    return launches.upfirdn2d(cuda.describe(x), fir.data_ptr(), tuple(fir.shape), cuda.describe(y), how), y


def layouts(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One shape in memory orders that need different kernels."""
    batch, channels, height, width = shape
    x = random(shape, dtype)
    wide = random((batch, channels, width + 3, height * 2), dtype)
    return {
        "planes": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "gaps": wide.transpose(2, 3)[:, :, ::2, 1:-2],
        "misaligned channels last": random((batch, height, width, channels + 1), dtype)[..., 1:].permute(0, 3, 1, 2),
        "one batch, expanded": x[:1].expand(batch, -1, -1, -1),
    }


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
@pytest.mark.parametrize("value", [0.0, 1e-30, torch.inf, torch.nan])
def test_firs_that_only_look_separable(value):
    """The pivot of the column is zero, tiny or no number: sums are as the definition has them."""
    x = random((1, 2, 9, 8), torch.float32)
    fir = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 2.0, 2.0, 1.0]))
    fir[2, 2] = value  # turned by 180 degrees, the element that columns are divided by
    launch, y = planned(x, fir, Resampling(pads=(2, 1, 2, 1)))
    emulator.run(launch)
    expected = definitions.upfirdn2d(x.double(), fir, pads=(2, 1, 2, 1))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="pages are forbidden through mprotect")
def test_kernels_touch_nothing_outside_of_their_tensors():
    """And a test that could not fail would be none: with tensors too short, the process dies."""
    command = [sys.executable, str(Path(__file__).with_name("guarded.py"))]
    assert subprocess.run(command, capture_output=True).returncode == 0
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
        y = upfirdn2d_on_gpu(x, fir, 1, 2, [2, 1, 1, 1], True, 1.5)
        expected = definitions.upfirdn2d(x.double(), fir.double(), 1, 2, (2, 1, 1, 1), True, 1.5)
        assert error(y, expected) < ROUNDING[dtype], name
        z = activate_on_gpu(x, bias, 0.2, 1.5)
        assert error(z, definitions.fused_bias_leaky_relu(x.double(), bias.double(), gain=1.5)) < ROUNDING[dtype], name
        for dz in (x, x.flip(3), x[:1, :1, :1, :1].expand(x.shape)):
            dx = gradient_on_gpu(dz, z, 0.2, 1.5)
            assert dx.stride() == z.stride()
            expected = dz.double().numpy() * np.where(z.double().numpy() > 0, 1.5, 0.3)
            assert error(dx, expected) < ROUNDING[dtype], name
    assert upfirdn2d_on_gpu(x[:0], fir, 1, 1, [2, 1, 1, 1], False, 1.0).shape == (0, 8, 10, 5)
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
        row = launches.Tensor(x.data_ptr(), cuda.name(dtype), x.shape, (1,))
        launch = launches.bias_leaky_relu(row, bias.data_ptr(), y.data_ptr(), 1, len(x), 1.0, gain)
        emulator.run(launch)
        torch.testing.assert_close(y, (x.float() * gain).to(dtype), rtol=0, atol=0, equal_nan=True)


# ---- The compiled files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "dtype"), FILES)
def test_compiled_files_are_fresh_and_old_drivers_read_them(source, dtype):
    text = ptx.path(source, dtype).read_text()
    assert text.splitlines()[0] == ptx.first_line(source, dtype), "the sources changed: make ptx"
    assert re.findall(r"^\.version (.*)$", text, re.M) == [ptx.ISA]
    assert re.findall(r"^\.target (.*)$", text, re.M) == ["sm_75"]


def test_a_changed_source_is_noticed(tmp_path, monkeypatch):
    for file in (ptx.HEADER, "upfirdn2d.cu"):
        shutil.copy(ptx.FOLDER / file, tmp_path)
    before = ptx.first_line("upfirdn2d", "float32")
    monkeypatch.setattr(ptx, "FOLDER", tmp_path)
    assert ptx.first_line("upfirdn2d", "float32") == before
    for file in (ptx.HEADER, "upfirdn2d.cu"):
        with (tmp_path / file).open("a") as end:
            end.write(" ")
        assert ptx.first_line("upfirdn2d", "float32") != before
        before = ptx.first_line("upfirdn2d", "float32")


def ptxas() -> str:
    """The assembler of the CUDA toolkit, beside nvcc."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    found = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")
    if found is None:
        pytest.skip(f"no CUDA toolkit to assemble the kernels with (looked for ptxas beside {nvcc})")
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_for_every_architecture_without_spills(architecture):
    """What drivers do with the shipped files. All element types on one, half precision on the others."""
    files = [(source, dtype) for source, dtype in FILES if architecture == 75 or dtype == "float16"]
    for source, dtype in files:
        command = [ptxas(), "-v", f"-arch=sm_{architecture}", "-o", "/dev/null", str(ptx.path(source, dtype))]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
        assert len(spills) == (7 if source == "upfirdn2d" else 2) and set(spills) == {("0", "0")}, done.stderr


# ---- Without a GPU -------------------------------------------------------------------------------------------


def test_no_driver_is_one_line(monkeypatch):
    def nothing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", nothing)
    driver._driver.cache_clear()
    with pytest.raises(DeviceError, match="need an NVIDIA GPU and its driver: none was found"):
        driver.prepare("upfirdn2d", "float32")
    driver._driver.cache_clear()
    with pytest.raises(DeviceError, match="there is no NVRTC to compile them with"):
        ptx.find_nvrtc()
    assert "none was found" in cuda.why_plain(0)
    driver._driver.cache_clear()


def test_a_driver_that_refuses_the_kernels_leaves_plain_torch_with_one_warning(monkeypatch):
    monkeypatch.setattr(cuda, "why_plain", lambda index: "the driver refuses upfirdn2d.float32.ptx")
    cuda._usable.cache_clear()
    with pytest.warns(UserWarning, match="run in plain torch: the driver refuses upfirdn2d.float32.ptx"):
        assert not cuda.usable(torch.zeros(1))
    assert not cuda.usable(torch.zeros(1))
    cuda._usable.cache_clear()


def test_the_switch(monkeypatch):
    monkeypatch.setenv(cuda.SWITCH, "0")
    assert cuda.why_plain(0) == "PSP_CUDA_OPS=0"


class FakeDriver:
    """The driver calls of loading and launching, as they answer on some machine."""

    def __init__(self, codes: list[int], cards: int = 75) -> None:
        self.codes, self.cards, self.images = codes, cards, []

    def cuModuleLoadData(self, module, image):
        self.images.append(image)
        return self.codes.pop(0)

    def cuCtxGetDevice(self, device):
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: self.cards // 10, 76: self.cards % 10}[attribute]
        return 0

    def cuGetErrorString(self, code, text):
        text._obj.value = b"the provided PTX was compiled with an unsupported toolchain"
        return 0


def test_nvrtc_compiles_for_the_card_where_the_driver_refuses_the_file(monkeypatch):
    compiled = []
    monkeypatch.setattr(ptx, "find_nvrtc", lambda: "nvrtc")
    monkeypatch.setattr(ptx, "compile_source", lambda *given: compiled.append(given) or b"cubin")
    for codes in ([0], [222, 0]):
        fake = FakeDriver(codes)
        monkeypatch.setattr(driver, "_driver", lambda fake=fake: fake)
        driver._load("upfirdn2d", "float16")
    assert fake.images[1] == b"cubin" and compiled == [("upfirdn2d", "float16", "sm_75", "nvrtc")]
    assert fake.images[0].startswith(b"// psp-toolkit upfirdn2d.cu")
    monkeypatch.undo()
    monkeypatch.setattr(driver, "_driver", lambda: FakeDriver([222]))

    def missing():
        raise DeviceError("there is no NVRTC")

    monkeypatch.setattr(ptx, "find_nvrtc", missing)
    with pytest.raises(PspError, match=r"refuses upfirdn2d.float16.ptx \(CUDA error 222.*there is no NVRTC; update"):
        driver._load("upfirdn2d", "float16")


# ---- On a GPU ------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 4), (4, 3)])
def test_gpu_values_and_gradients_of_upfirdn2d(dtype, factors):
    """Against the definition in float64: values, gradients, and the gradients of those, over every layout."""
    assert cuda.why_plain(0) == ""
    for size, pads in ((4, (2, 1, 2, 1)), (4, (1, 2, -1, 3)), (3, (12, -2, 5, 7)), (12, (6, 6, 6, 6))):
        fir = random((size, size), torch.float32, seed=1)
        for name, x in layouts((2, 8, 33, 65), dtype).items():
            results = []
            for device, kind, leaf in (("cuda", dtype, _moved(x)), ("cpu", torch.float64, x.double())):
                leaf.requires_grad_()
                y = upfirdn2d(leaf, fir.to(device), *factors, pads)
                dy = random(y.shape, dtype, seed=2).to(device, kind).requires_grad_()
                (dx,) = torch.autograd.grad(y, leaf, dy, create_graph=True)
                (ddy,) = torch.autograd.grad(dx, dy, random(dx.shape, dtype, seed=3).to(device, kind))
                results.append([y, dx, ddy])
            for on_gpu, expected in zip(*results, strict=True):
                assert on_gpu.dtype == dtype
                assert error(on_gpu.cpu(), expected.detach().numpy()) < 2 * ROUNDING[dtype], name


def _moved(x: torch.Tensor) -> torch.Tensor:
    """On the GPU with the same strides and offset, what lies between the elements included."""
    storage = torch.as_strided(x, (x.untyped_storage().nbytes() // x.element_size(),), (1,), 0).cuda()
    return storage.as_strided(x.shape, x.stride(), x.storage_offset())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 512), (2, 8, 64, 64), (3, 5, 7, 9), (2, 3, 1, 1), (0, 4, 8, 8)])
def test_gpu_values_and_gradients_of_fused_bias_leaky_relu(dtype, shape):
    for layout in LAYOUTS if len(shape) == 4 else LAYOUTS[:1]:
        results = []
        for device, kind in (("cuda", dtype), ("cpu", torch.float64)):
            x = random(shape, dtype).to(device, kind).to(memory_format=layout).requires_grad_()
            bias = random(shape[1], dtype, seed=1).to(device, kind).requires_grad_()
            y = fused_bias_leaky_relu(x, bias)
            dy = random(shape, dtype, seed=2).to(device, kind).requires_grad_()
            dx, db = torch.autograd.grad(y, (x, bias), dy, create_graph=True)
            (ddy,) = torch.autograd.grad(dx, dy, random(shape, dtype, seed=3).to(device, kind))
            results.append([y, dx, db, ddy])
        if 0 in shape:
            continue
        for on_gpu, expected in zip(*results, strict=True):
            assert on_gpu.dtype == dtype
            assert error(on_gpu.cpu(), expected.detach().numpy()) < 2 * ROUNDING[dtype]


@pytest.mark.gpu
def test_gpu_float64_is_plain_torch_and_differentiable_twice():
    x, fir = random((1, 2, 5, 6)).cuda().requires_grad_(), random((4, 4), seed=1).cuda()
    bias = random(2).cuda().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, b: fused_bias_leaky_relu(upfirdn2d(x, fir, 2), b), (x, bias))


@pytest.mark.gpu
def test_gpu_streams_threads_graphs_and_compilation():
    """The stream that is current, a thread that has never seen CUDA, a captured graph, and compiled code."""
    x, bias = random((2, 3, 64, 64), torch.float16).cuda(), torch.zeros(3, device="cuda")

    def step(x):
        blurred = upfirdn2d(x, torch.ones(4, 4, device=x.device) / 16, pad=(2, 1))
        return fused_bias_leaky_relu(blurred, bias)

    expected = step(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        late = step(x * 1)
    side.synchronize()
    assert torch.equal(late, expected)
    results: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: results.append(step(x)))
    thread.start()
    thread.join()
    assert torch.equal(results[0], expected)
    fir, graph, static = torch.ones(4, 4, device="cuda") / 16, torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        captured = fused_bias_leaky_relu(upfirdn2d(static, fir, pad=(2, 1)), bias)
    static.copy_(x)
    graph.replay()
    assert torch.equal(captured, expected)
    assert torch.equal(torch.compile(step, fullgraph=True)(x), expected)


@pytest.mark.gpu
def test_gpu_autocast_and_opcheck():
    bias = torch.zeros(3, device="cuda", requires_grad=True)
    x = torch.randn(2, 3, 8, 8, device="cuda", dtype=torch.float16)
    with torch.autocast("cuda", torch.float16):
        y = fused_bias_leaky_relu(x, bias)
    assert y.dtype == torch.float16 and torch.autograd.grad(y.sum(), bias)[0].dtype == torch.float32
    wide = x.float().requires_grad_()
    fir = torch.ones(4, 4, device="cuda")
    torch.library.opcheck(torch.ops.psp.upfirdn2d.default, (wide, fir, 2, 1, [2, 1, 2, 1], False, 1.0))
    torch.library.opcheck(torch.ops.psp.fused_bias_leaky_relu.default, (wide, bias, 0.2, 1.4))


@pytest.mark.gpu
def test_gpu_more_elements_than_32_bits_count():
    """Above 2^32 elements; the last rows tell whether an index wrapped around."""
    free, _ = torch.cuda.mem_get_info()
    if free < 40 << 30:
        pytest.skip(f"needs 40 GiB of free GPU memory, {free >> 30} are there")
    x = torch.zeros(1, 1, 2**16 + 8, 2**16 + 8, dtype=torch.float16, device="cuda")
    x[..., -1, -1] = 1
    y = upfirdn2d(x, torch.arange(16.0, device="cuda").view(4, 4), pad=(2, 1))
    z = fused_bias_leaky_relu(x, torch.ones(1, device="cuda"), gain=1.0)
    assert y[0, 0, -2:, -2:].tolist() == [[0, 1], [4, 5]] and y[..., :-2, :].abs().max() == 0
    assert (z[0, 0, -1, -1].item(), z[0, 0, 0, 0].item()) == (2, 1)


SANITIZED = """
import torch
from psp_train.ops import fused_bias_leaky_relu, upfirdn2d
for layout in (torch.contiguous_format, torch.channels_last):
    for size, up, down, pad in ((4, 1, 1, (1, 1)), (4, 2, 1, (2, 1)), (4, 1, 2, (1, 1)), (3, 3, 2, (-1, 4))):
        x = torch.randn(2, 8, 37, 135, device="cuda", dtype=torch.float16).to(memory_format=layout).requires_grad_()
        y = upfirdn2d(x, torch.ones(size, size, device="cuda"), up, down, pad)
        fused_bias_leaky_relu(y, torch.zeros(8, device="cuda")).sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_gpu_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer: it comes with the CUDA toolkit")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    # Without torch's pool, so that what lies behind a tensor is not another tensor's memory.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


WITHOUT_TORCH = """
import sys
import numpy as np
import pycuda.driver as cu
sys.path.insert(0, "tests")
import definitions
from psp_runtime.kernels import driver, launches, ptx
cu.init()
context = cu.Device(0).retain_primary_context()
context.push()
rng = np.random.default_rng(0)
x, fir = rng.standard_normal((2, 3, 40, 70), np.float32), rng.standard_normal((4, 4), np.float32)
y = np.full((2, 3, 80, 140), np.nan, np.float32)
on_gpu = [cu.mem_alloc(a.nbytes) for a in (x, fir, y)]
for array, memory in zip((x, fir, y), on_gpu):
    cu.memcpy_htod(memory, array)
def tensor(array, memory):
    return launches.Tensor(int(memory), "float32", array.shape, [s // 4 for s in array.strides])
how = launches.Resampling(2, 1, (2, 1, 2, 1))
launch = launches.upfirdn2d(tensor(x, on_gpu[0]), int(on_gpu[1]), (4, 4), tensor(y, on_gpu[2]), how)
def by_pycuda():
    module = cu.module_from_buffer(ptx.path(launch.source, launch.dtype).read_bytes() + bytes(1))
    function = module.get_function(launch.kernel)
    data = bytes(launch.params)
    function.prepare([f"{len(data)}s"]).prepared_call((launch.grid, 1), (launch.block, 1, 1), data)
for run in (by_pycuda, lambda: driver.launch(launch, 0)):
    cu.memset_d8(on_gpu[2], 255, y.nbytes)
    run()
    cu.memcpy_dtoh(y, on_gpu[2])
    expected = definitions.upfirdn2d(x, fir, 2, 1, (2, 1, 2, 1))
    assert np.abs(y - expected).max() < 1e-5, np.abs(y - expected).max()
assert "torch" not in sys.modules
cu.Context.pop()
"""


@pytest.mark.gpu
def test_gpu_without_torch():
    """The same files through pycuda alone, and through our loader in pycuda's context."""
    pytest.importorskip("pycuda", reason="needs pycuda: pip install 'psp-toolkit[tensorrt]'")
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_both_operators_in_one_graph():
    """What the compiled and captured graphs above hold, on a CPU."""
    x = torch.randn(2, 3, 6, 6)
    expected = definitions.fused_bias_leaky_relu(
        definitions.upfirdn2d(x, np.full((4, 4), 1 / 16), pads=(2, 1, 2, 1)), np.zeros(3)
    )
    assert error(activated_blur(x, torch.zeros(3)), expected) < 1e-6
