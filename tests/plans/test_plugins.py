"""The TensorRT plugins: their launches through the emulated kernels, and where they cannot be used."""

import ctypes
from types import SimpleNamespace

import definitions
import emulator
import numpy as np
import pytest
import torch
from emulator import needs_compiler
from op_cases import ROUNDING, error, random

from psp_export.plans.build import choose_flavour
from psp_runtime.engines.tensorrt import plugins
from psp_runtime.errors import DeviceError, EngineError
from psp_runtime.kernels import launches

FLAVOUR = choose_flavour() or "tensorrt_rtx"
trt = pytest.importorskip(FLAVOUR, reason="no TensorRT: pip install '.[rtx]'")

# What a parser hands to the creator, and a plan too: names with arrays.
UPFIRDN = {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": [8]}
BLUR = {"strides": [1, 1], "pads": [2, 2, 2, 2], "group": [8]}
ACTIVATION = {"slope": [0.2], "gain": [1.5]}


def create(name: str, values: dict[str, list], kind=np.int32):
    """A plugin as TensorRT makes it; parsers give integers in 32 bit."""
    creator = {creator.name: creator for creator in plugins._creators(trt)}[name]
    types = {np.int32: trt.PluginFieldType.INT32, np.float32: trt.PluginFieldType.FLOAT32}
    kinds = {key: np.float32 if isinstance(value[0], float) else kind for key, value in values.items()}
    arrays = {key: np.array(value, kinds[key]) for key, value in values.items()}
    fields = [trt.PluginField(key, array, types[kinds[key]]) for key, array in arrays.items()]
    return creator.create_plugin(name, trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)


def enqueue(plugin, *tensors: torch.Tensor) -> None:
    """Run a plugin on tensors, the last of which is its output."""
    names = {torch.float32: "FLOAT", torch.float16: "HALF"}
    descs = [SimpleNamespace(dims=tuple(t.shape), type=SimpleNamespace(name=names[t.dtype])) for t in tensors]
    addresses = [tensor.data_ptr() for tensor in tensors]
    assert plugin.enqueue(descs[:-1], descs[-1:], addresses[:-1], addresses[-1:], 0, 0) == 0


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> list:
    """Launches run on the CPU and are listed."""
    done: list = []
    monkeypatch.setattr(plugins.driver, "launch", lambda what, stream: (done.append(what), emulator.run(what)))
    return done


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("values", "up", "pads"), [(UPFIRDN, 2, (2, 1, 2, 1)), (BLUR, 1, (1, 1, 1, 1))])
def test_upfirdn2d_plugin(emulated, dtype, values, up, pads):
    """Also with another batch and at other addresses: the launch is planned anew."""
    plugin, fir = create("PspUpFirDn2d", values), random((4, 4), torch.float32, seed=1)
    for batch in (1, 3, 3):
        x = random((batch, 8, 9, 11), dtype, seed=batch)
        expected = definitions.upfirdn2d(x.double(), fir, up, pads=pads)
        y = torch.full(expected.shape, torch.nan, dtype=dtype)
        weight = fir.repeat(8, 1, 1, 1)
        enqueue(plugin, x, weight, y)
        assert error(y, expected) < ROUNDING[dtype]
    enqueue(plugin, x, weight, y)
    assert emulated[-1] is emulated[-2]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_activation_plugin(emulated, dtype):
    x, bias = random((2, 8, 5, 7), dtype), random((8, 1, 1), torch.float32, seed=1)
    y = torch.empty_like(x)
    enqueue(create("PspFusedBiasLeakyReLU", ACTIVATION).clone().attach_to_context(None), x, bias, y)
    assert error(y, definitions.fused_bias_leaky_relu(x.double(), bias.flatten(), gain=1.5)) < ROUNDING[dtype]


def test_formats():
    """NCHW of one floating type throughout; FIR and bias in FP32."""
    plugin = create("PspUpFirDn2d", UPFIRDN)
    linear, packed = trt.TensorFormat.LINEAR, trt.TensorFormat.CHW32

    def accepts(*tensors):
        descs = [SimpleNamespace(desc=SimpleNamespace(format=form, type=kind)) for form, kind in tensors]
        return all(plugin.supports_format_combination(i, descs, 2) for i in range(3))

    half, full = (linear, trt.float16), (linear, trt.float32)
    assert accepts(full, full, full) and accepts(half, full, half)
    assert (
        not accepts(half, half, half) and not accepts(half, full, full) and not accepts(half, full, (packed, half[1]))
    )
    assert not accepts((linear, trt.int8), full, (linear, trt.int8))


# ---- What is not there ---------------------------------------------------------------------------------------


def test_tensorrt_8_has_no_such_plugins():
    old = SimpleNamespace(__name__="tensorrt", __version__="8.6.1")
    assert plugins.obstacle(old) == "TensorRT 10.7 (this is 8.6.1)"
    with pytest.raises(EngineError, match="need TensorRT 10.7 or newer, this is 8.6.1"):
        plugins.register(old)


@pytest.mark.parametrize(("version", "ignored"), [("10.6.0.post1", True), ("10.7.0", False), ("10.13.2", False)])
def test_a_parser_that_prefers_function_bodies_gets_no_plugins(version, ignored):
    """It would say nothing, and the plan hold none."""
    trt = SimpleNamespace(__name__="tensorrt", __version__=version, IPluginV3=object)
    assert plugins.obstacle(trt) == (f"TensorRT 10.7 (this is {version})" if ignored else "")


def test_a_gpu_that_cannot_take_the_kernels_is_told_when_the_plan_opens(monkeypatch):
    def refuse(source, dtype):
        raise DeviceError(f"the driver refuses {source}.{dtype}.ptx")

    registered: list[str] = []
    monkeypatch.setattr(plugins, "register", lambda trt: registered.append(trt.__name__))
    monkeypatch.setattr(plugins.driver, "prepare", refuse)
    with pytest.raises(DeviceError, match="the driver refuses upfirdn2d.float32.ptx"):
        plugins.prepare(trt)
    assert registered == [FLAVOUR]


def test_rtx_needs_its_library_under_the_plain_name(tmp_path, monkeypatch):
    """Its parser ends the process otherwise: that is looked for first."""
    site = tmp_path / "site-packages"
    (site / "tensorrt_rtx_libs").mkdir(parents=True)
    rtx = SimpleNamespace(
        __name__="tensorrt_rtx",
        __version__="1.7",
        IPluginV3=object,
        __file__=str(site / "tensorrt_rtx" / "__init__.py"),
    )
    asked = []

    def missing(name):
        asked.append(name)
        raise OSError

    monkeypatch.setattr(plugins.ctypes, "CDLL", missing)
    monkeypatch.setattr(plugins.sys, "platform", "linux")
    library = site / "tensorrt_rtx_libs" / "libtensorrt_rtx.so"
    assert plugins.obstacle(rtx) == f"the library under its plain name: ln -s libtensorrt_rtx.so.1 {library}"
    assert asked == ["libtensorrt_rtx.so"]
    library.touch()
    assert plugins.obstacle(rtx) == ""
    monkeypatch.setattr(plugins.sys, "platform", "win32")
    assert plugins.obstacle(rtx).startswith("Linux")


def test_ctypes_structures_have_the_size_of_the_sources():
    """Every field is 8 bytes or comes in pairs of 4, so that no compiler pads."""
    assert ctypes.sizeof(launches.Upfirdn2dParams) == 8 * (3 + 6 + 8 + 6 + 5 + 1)
    assert ctypes.sizeof(launches.BiasLeakyReLUParams) == 8 * 7
    assert ctypes.sizeof(launches.LeakyReLUGradientParams) == 8 * 5
