"""The TensorRT plugins: their launches through the emulated kernels, and a real TensorRT-RTX plan that holds them."""

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import definitions
import emulator
import numpy as np
import onnx
import pytest
import torch
from emulator import needs_compiler
from models import inputs, tiny_checkpoint, tiny_model
from op_cases import ROUNDING, error, random
from tiny_plans import need_plans_that_run

from psp_export.deploy.custom_ops import use_custom_ops
from psp_export.deploy.generator import DeployedGenerator
from psp_export.deploy.precision import to_half
from psp_export.export import Options, engine_info
from psp_export.graphs.functions import add_bodies
from psp_export.graphs.trace import save, set_info, to_onnx
from psp_export.plans.build import build_plan, choose_flavour
from psp_export.plans.source import plan_source
from psp_runtime.engines.info import read_info
from psp_runtime.engines.session import open_session
from psp_runtime.engines.tensorrt import plugins
from psp_runtime.errors import DeviceError, EngineError
from psp_runtime.kernels import launches
from psp_runtime.run.info import describe

FLAVOUR = choose_flavour() or "tensorrt_rtx"
trt = pytest.importorskip(FLAVOUR, reason="no TensorRT: install psp-toolkit[rtx]")

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
    assert plugins.lacking(old) == "TensorRT 10.7 (this is 8.6.1)"
    with pytest.raises(EngineError, match="need TensorRT 10.7 or newer, this is 8.6.1"):
        plugins.register(old)


@pytest.mark.parametrize(("version", "ignored"), [("10.6.0.post1", True), ("10.7.0", False), ("10.13.2", False)])
def test_a_parser_that_prefers_function_bodies_gets_no_plugins(version, ignored):
    """It would say nothing, and the plan hold none."""
    trt = SimpleNamespace(__name__="tensorrt", __version__=version, IPluginV3=object)
    assert plugins.lacking(trt) == (f"TensorRT 10.7 (this is {version})" if ignored else "")


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
    assert plugins.lacking(rtx) == f"the library under its plain name: ln -s libtensorrt_rtx.so.1 {library}"
    assert asked == ["libtensorrt_rtx.so"]
    library.touch()
    assert plugins.lacking(rtx) == ""
    monkeypatch.setattr(plugins.sys, "platform", "win32")
    assert plugins.lacking(rtx).startswith("Linux")


# ---- Real plans ----------------------------------------------------------------------------------------------

BUILD = """
import importlib, sys
from pathlib import Path
from psp_export.plans.build import build_plan
from psp_runtime.engines.tensorrt import plugins
trt = importlib.import_module(sys.argv[2])
assert plugins.lacking(trt) == "", plugins.lacking(trt)
plugins.register(trt)
plugins.register(trt)
build_plan(Path(sys.argv[1]), Path(sys.argv[1]).with_suffix(".trt"), sys.argv[2])
assert "torch" not in sys.modules
"""

linux_rtx = pytest.mark.skipif(
    not sys.platform.startswith("linux") or FLAVOUR != "tensorrt_rtx",
    reason="needs Linux with TensorRT-RTX as the TensorRT that builds",
)


TWO_RUNTIMES = """
import importlib, sys
from psp_runtime.engines.tensorrt import plugins
from psp_runtime.engines.tensorrt.engine import the_logger
trt = importlib.import_module(sys.argv[1])
first, second = trt.Runtime(the_logger(trt)), trt.Runtime(the_logger(trt))
del first
plugins.register(trt)  # which is logged, to the logger of the first
print("registered")
"""


@linux_rtx
def test_the_engine_opened_first_may_be_closed_first():
    """TensorRT goes on using the first logger it was given: freed, it would end the process."""
    done = subprocess.run([sys.executable, "-c", TWO_RUNTIMES, FLAVOUR], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "registered\n"), done.stderr


@pytest.fixture
def source(tmp_path) -> Path:
    """The generator of the tiny model in FP16, with custom operations."""
    info = engine_info(tiny_checkpoint(), Options(precision="fp16", custom_ops=True))
    module = DeployedGenerator(tiny_model().decoder)
    use_custom_ops(module)
    model = to_onnx(to_half(module), replace(info, part="generator"))
    add_bodies(model)
    save(model, tmp_path / "psp.onnx")
    return tmp_path / "psp.onnx"


def build(source: Path) -> Path:
    """The plan, made in a process of its own, which finds RTX's library under its plain name on the loader's path."""
    rtx = importlib.util.find_spec("tensorrt_rtx_libs")
    if rtx is not None:
        library = Path(rtx.origin).with_name("libtensorrt_rtx.so.1")
        source.with_name("libtensorrt_rtx.so").symlink_to(library)
    command = [sys.executable, "-c", BUILD, str(source), FLAVOUR]
    # Before what is on that path already: where the driver is, on some machines.
    folders = [str(source.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(folders)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return source.with_suffix(".trt")


def plugin_layers(plan: bytes) -> list[int]:
    """How many layers of each kind a plan holds: each keeps its fields, the name of the first after its length."""
    names = [next(iter(operation.fields)).encode() for operation in plugins.OPERATIONS]
    return [plan.count((len(name) + 1).to_bytes(4, "little") + name + bytes(1)) for name in names]


@linux_rtx
def test_a_real_plan_with_the_plugins(source):
    plan = build(source)
    info = read_info(plan)
    assert info.custom_ops and info.backend == "tensorrt_rtx" and info.precision == "fp16"
    assert re.search(r"^custom ops +psp::PspUpFirDn2d", describe(plan, info), re.M)
    nodes = [node.op_type for node in onnx.load(source).graph.node if node.domain == "psp"]
    expected = [nodes.count(operation.name) for operation in plugins.OPERATIONS]
    assert plugin_layers(plan.read_bytes()) == expected == [8, 9]


@linux_rtx
@pytest.mark.skipif(plugins.lacking(trt) != "", reason="this TensorRT-RTX lacks its library under the plain name")
def test_plugins_in_this_process(source):
    with plan_source(source, FLAVOUR) as path:
        build_plan(path, source.with_suffix(".trt"), FLAVOUR)
    assert plugin_layers(source.with_suffix(".trt").read_bytes()) == [8, 9]


@linux_rtx
@pytest.mark.skipif(plugins.lacking(trt) == "", reason="this TensorRT-RTX has its library under the plain name")
def test_a_plan_without_the_library_is_built_without_plugins(source):
    """In this very process: no abort, a warning that says what to do, and a plan that needs no plugin."""
    plan = source.with_suffix(".trt")
    warned = pytest.warns(UserWarning, match=r"psp.trt is built without plugins, which need the library .*: ln -s")
    with warned, plan_source(source, FLAVOUR) as path:
        build_plan(path, plan, FLAVOUR)
    assert not read_info(plan).custom_ops and read_info(source).custom_ops
    assert plugin_layers(plan.read_bytes()) == [0, 0]
    assert {path.name for path in source.parent.iterdir()} == {"psp.onnx", "psp.trt"}


def test_the_plugins_are_registered_for_files_that_have_the_nodes(source, monkeypatch):
    registered: list[str] = []
    monkeypatch.setattr(plugins, "lacking", lambda trt: "")
    monkeypatch.setattr(plugins, "register", lambda trt: registered.append(trt.__name__))
    with plan_source(source, FLAVOUR) as path:
        assert path == source and registered == [FLAVOUR]
    model = onnx.load(source)
    set_info(model, replace(read_info(source), custom_ops=False))
    save(model, source)
    with plan_source(source, FLAVOUR) as path:
        assert path == source and registered == [FLAVOUR]


@pytest.mark.gpu
def test_gpu_plan_with_plugins_gives_the_pictures_of_the_decomposed_one(source):
    need_plans_that_run()
    latents = inputs("latents", (3, 10, 32)).numpy()
    pictures = []
    for path, device in ((build(source), "cuda"), (source, "cpu")):  # opening the plan must prepare the plugins
        session = open_session(path, device)
        assert session.info.custom_ops
        # Again and with another batch: a first run sets up, a second may record a CUDA graph.
        outputs = [session.run({"latents": latents[:batch]})["output"] for batch in (3, 3, 3, 1)]
        assert all((output == outputs[0][: len(output)]).all() for output in outputs[:3])
        pictures.append(outputs[0].astype(int))
        session.close()
    assert np.abs(pictures[0] - pictures[1]).max() <= 8


def test_ctypes_structures_have_the_size_of_the_sources():
    """Every field is 8 bytes or comes in pairs of 4, so that no compiler pads."""
    assert ctypes.sizeof(launches.Upfirdn2dParams) == 8 * (3 + 6 + 8 + 6 + 5 + 1)
    assert ctypes.sizeof(launches.BiasLeakyReLUParams) == 8 * 7
    assert ctypes.sizeof(launches.LeakyReLUGradientParams) == 8 * 5
