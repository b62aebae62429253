"""Real TensorRT-RTX plans with the plugins in them, and without where they cannot be used."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import inputs, tiny_checkpoint, tiny_model
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
from psp_runtime.run.info import describe

FLAVOUR = choose_flavour() or "tensorrt_rtx"
trt = pytest.importorskip(FLAVOUR, reason="no TensorRT: pip install '.[rtx]'")

BUILD = """
import importlib, sys
from pathlib import Path
from psp_export.plans.build import build_plan
from psp_runtime.engines.tensorrt import plugins
trt = importlib.import_module(sys.argv[2])
assert plugins.obstacle(trt) == "", plugins.obstacle(trt)
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
@pytest.mark.skipif(plugins.obstacle(trt) != "", reason="this TensorRT-RTX lacks its library under the plain name")
def test_plugins_in_this_process(source):
    with plan_source(source, FLAVOUR) as path:
        build_plan(path, source.with_suffix(".trt"), FLAVOUR)
    assert plugin_layers(source.with_suffix(".trt").read_bytes()) == [8, 9]


@linux_rtx
@pytest.mark.skipif(plugins.obstacle(trt) == "", reason="this TensorRT-RTX has its library under the plain name")
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
    monkeypatch.setattr(plugins, "obstacle", lambda trt: "")
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
