"""What a single run costs: the benchmark's figures are the kernel's, and `one_run` gives memory back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import startup
from onnx import TensorProto, helper
from PIL import Image
from tiny_engines import tiny_info, write_onnx

from psp_runtime.engines.info import ONNX_KEY

LINUX = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads memory as Linux shows it")
#: psp-run, and at its end what Linux says of its memory: "VmHWM: 12345 kB".
HIGH_WATER = """
import atexit, pathlib, runpy
atexit.register(lambda: print(next(l for l in pathlib.Path("/proc/self/status").open() if l.startswith("VmHWM"))))
runpy.run_module("psp_runtime", run_name="__main__")
"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (256, 256), "red").save(path)
    return path


@LINUX
def test_a_process_costs_what_the_kernel_says(tmp_path: Path, picture: Path) -> None:
    """Its own peak, whatever its parent holds."""
    engine, held = write_onnx(tmp_path / "psp.onnx"), np.ones(400 << 20, np.uint8)
    cost = startup.run_process(engine, picture, "off")
    command = [str(picture), "--engine", str(engine), "--device", "cpu", "--out", str(tmp_path / "other.png")]
    expected = subprocess.run([sys.executable, "-c", HIGH_WATER, *command], capture_output=True, check=True).stdout
    assert cost.peak == pytest.approx(int(expected.split()[-2]) * 1024, rel=0.1)
    assert cost.peak < held.nbytes and 0.05 < cost.seconds < 60
    assert (tmp_path / "result.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_a_failed_process_is_no_measurement(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(RuntimeError, match="psp-run ended with 2"):
        startup.run_process(tmp_path / "none.onnx", picture, "off")


def test_processes_take_turns_after_one_that_nobody_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[str] = []

    def run(engine: Path, picture: Path, cache: str) -> startup.Cost:
        assert picture.is_file()
        caches.append(cache)
        return startup.Cost(len(caches), 10)

    monkeypatch.setattr(startup, "run_process", run)
    costs = startup.run_processes(Path("psp.onnx"), tmp_path, 2)
    kept = str(tmp_path / "cache")
    assert caches == ["off", kept, kept, "off", kept, "off"]
    seconds = {name: [cost.seconds for cost in found] for name, found in costs.items()}
    assert seconds == {"first": [2], "kept": [3, 5], "nothing kept": [4, 6]}


def test_the_script_prints_medians_and_the_share_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "psp.onnx"
    engine.write_bytes(bytes(1_000_000))
    runs = [startup.Cost(1.0, 1_500_000), startup.Cost(9.0, 2_000_000), startup.Cost(2.0, 1_000_000)]
    monkeypatch.setattr(sys, "argv", ["startup.py", "--size", "64", "--small", "--repeats", "3"])
    monkeypatch.setattr(startup, "our_engine", lambda *_: engine)
    monkeypatch.setattr(startup, "run_processes", lambda *_: {"kept": runs})
    monkeypatch.setattr(startup, "warm_seconds", lambda *_: [0.5, 0.25, 4.0])
    startup.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["kept", "2.00", "(1.00", "to", "9.00)", "0.00", "GB", "2.00x"]
    result = json.loads(lines[-1])
    assert result["rows"] == {"kept": {"seconds": 2.0, "peak_gb": 0.002, "of_file": 2.0}}
    assert (result["warm_seconds"], result["size"], result["precision"]) == (0.5, 64, "fp32")


def test_warm_runs_are_counted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = inputs()
    monkeypatch.setattr(startup, "inputs", lambda *_: arrays)
    seconds = startup.warm_seconds(write_onnx(tmp_path / "psp.onnx"), startup.Workload(64, 1, True), 3)
    assert len(seconds) == 3 and all(0 < one < 5 for one in seconds)


# ---- one_run --------------------------------------------------------------------------------------------------

#: The tensor that `write_greedy` makes, in values: 96 MiB of FP32.
GREEDY = 96 << 18


def inputs() -> dict[str, np.ndarray]:
    info = tiny_info()
    return {
        "image": np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8),
        "style": np.zeros((1, info.styles, info.style_dim), np.float32),
        "alpha": np.zeros((1, info.styles), np.float32),
    }


def write_greedy(path: Path) -> Path:
    """The tiny engine, whose latents are first added to GREEDY values each time it runs, and averaged again."""
    model = onnx.load(write_onnx(path))
    model.graph.initializer.append(helper.make_tensor("wide", TensorProto.INT64, [2], [1, GREEDY]))
    model.graph.initializer.append(helper.make_tensor("single", TensorProto.INT64, [2], [1, 1]))
    nodes = [
        helper.make_node("Reshape", ["mean", "single"], ["mean2"]),
        helper.make_node("Expand", ["mean2", "wide"], ["many"]),
        helper.make_node("ReduceMax", ["many"], ["again"], axes=[1], keepdims=0),
    ]
    reader = next(node for node in model.graph.node if "mean" in node.input)
    reader.input[list(reader.input).index("mean")] = "again"
    position = list(model.graph.node).index(reader)
    for node in reversed(nodes):
        model.graph.node.insert(position, node)
    helper.set_model_props(model, {ONNX_KEY: tiny_info().to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


#: One run of an engine in a process of its own, where nothing freed earlier is lying about: by how many bytes it grew.
ONE_RUN = """
import os, sys
from pathlib import Path
import numpy as np
from psp_runtime.engines import optimised_graphs
from psp_runtime.engines.onnx_session import OnnxSession

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

optimised_graphs.SMALLEST = 0
folder, one_run = Path(sys.argv[1]), sys.argv[2] == "True"
session = OnnxSession(folder / "psp.onnx", "cpu", one_run)
inputs = dict(np.load(folder / "inputs.npz"))
before = resident()
outputs = session.run(inputs)
print(resident() - before)
np.savez(folder / f"{one_run}.npz", **outputs)
"""


@LINUX
def test_one_run_gives_its_memory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_CACHE", str(tmp_path / "cache"))
    write_greedy(tmp_path / "psp.onnx")
    np.savez(tmp_path / "inputs.npz", **inputs())
    grown = {}
    for one_run in (False, True):
        command = [sys.executable, "-c", ONE_RUN, str(tmp_path), str(one_run)]
        grown[one_run] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown[False] > 4 * GREEDY > 2 * grown[True]
    with np.load(tmp_path / "True.npz") as once, np.load(tmp_path / "False.npz") as kept:
        for name in ("output", "latents"):
            np.testing.assert_array_equal(once[name], kept[name])
