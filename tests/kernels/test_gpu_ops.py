"""The CUDA kernels on a GPU, through torch and without it."""

import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from op_cases import LAYOUTS, ROUNDING, TYPES, error, layouts, random

from psp_train.ops import cuda, fused_bias_leaky_relu, upfirdn2d


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 4), (4, 3)])
def test_gpu_values_and_gradients_of_upfirdn2d(dtype, factors):
    """Against the definition in float64: values, gradients, and the gradients of those, over every layout."""
    assert cuda.obstacle(0) == ""
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
    torch.library.opcheck(torch.ops.psp.upfirdn2d.default, (wide, fir, [2, 1], [2, 1, 2, 1], False, 1.0))
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
sys.path.insert(0, "tests/support")
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
    pytest.importorskip("pycuda", reason="needs pycuda: pip install '.[tensorrt]'")
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
