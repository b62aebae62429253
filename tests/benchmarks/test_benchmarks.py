"""The latency benchmarks: sides take turns, ratios are right, and files come from a cache that can be trusted."""

import os
from pathlib import Path

import latency
import numpy as np
import pytest
import torch
from measure import (
    backends,
    machine,
    report,
    roofline,
    timing,
    workloads,
)
from measure.baseline import Baseline
from measure.workloads import Piece, Workload
from models import tiny_model
from torch import nn

from psp_runtime.errors import PspError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SMALL = Workload(64, 1, small=True)
EAGER, ONNX_BASELINE = "PyTorch eager, baseline", "ONNX Runtime, baseline"
OURS = ["ONNX Runtime, ours", "ONNX Runtime, ours, INT8"]
OPENVINO = ["OpenVINO, baseline", "OpenVINO, ours"]
QUANTISED = [
    "OpenVINO, baseline, INT8 by NNCF",
    "OpenVINO, ours, INT8",
    "ONNX Runtime, baseline, INT8 by quantize_static",
]
FULL, GENERATOR, ENCODER = workloads.FULL, workloads.GENERATOR, Piece("psp", "encoder")


CPUINFO = {
    "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n\n"
    "processor\t: 1\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n": "AMD EPYC (family 25, model 17)",
    "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n": "ARMv8 Processor rev 1 (v8l)",
}


@pytest.mark.parametrize("text", CPUINFO)
def test_generations_of_one_name_are_different_kinds_of_machine(text, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    facts = machine.describe("cpu")
    assert facts["name"] == f"{facts['cores']} x {CPUINFO[text]}" and facts["kind"].startswith(facts["name"])


def test_a_machine_without_cpuinfo_has_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "missing")
    assert len(machine.cpu_name()) > 0


def test_baseline_is_the_trained_model():
    model = tiny_model()
    image = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), np.uint8))
    picture, latents = Baseline(model)(image)
    expected, codes = model(workloads_input(image))
    assert picture.dtype == torch.uint8 and picture.shape == (2, 64, 64, 3)
    torch.testing.assert_close(latents, codes)
    torch.testing.assert_close(Baseline(model, "encoder")(image), codes)
    exact = ((expected + 1) / 2).clamp(0, 1).mul(255).permute(0, 2, 3, 1)
    for found in (picture, Baseline(model, "generator")(codes)):
        assert (found.float() - exact.floor()).abs().max() <= 1
    assert exact.std() > 10


def workloads_input(image):
    return image.permute(0, 3, 1, 2).float() / 127.5 - 1


# Turns and rows


def test_sides_take_turns_until_each_had_its_time(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def side(name, seconds, on_device=None):
        def run():
            order.append(name)
            now[0] += seconds

        return backends.Runner(run, lambda: on_device, lambda: None)

    slow, fast, instant = timing.Times(), timing.Times(host=[3.0]), timing.Times()
    timing.take_turns([side("slow", 4), side("fast", 2, on_device=1.5)], 9, [slow, fast])
    assert order == ["slow", "fast"] * 3 + ["fast", "fast"]
    assert slow.summary() == {"median": 4, "p95": 4, "min": 4, "max": 4, "runs": 3}
    assert fast.summary() == {"median": 2, "p95": 3, "min": 2, "max": 3, "runs": 6, "device": 1.5}
    timing.take_turns([side("instant", 0)], 9, [instant])
    assert instant.summary()["runs"] == timing.MOST


def test_p95_leaves_out_one_in_twenty():
    ninety_nine = timing.Times(host=[float(i) for i in range(1, 101)])
    assert ninety_nine.summary()["p95"] == 95
    assert timing.Times(host=[3.0, 1.0, 2.0]).summary()["p95"] == 3


def test_rows_are_sums_and_ratios_of_medians():
    eager, onnx, ours = backends.sides("cpu", ["torch", "onnxruntime"], ["fp32"])
    assert [side.form for side in (eager, onnx, ours)] == ["baseline", "baseline", "ours"]
    seconds = {
        FULL: {eager: 10, onnx: 3, ours: 2},
        ENCODER: {eager: 1},
        GENERATOR: {eager: 9, onnx: 2, ours: 1},
        Piece("w", "encoder"): {eager: 1, onnx: 1, ours: 0.5},
        Piece("naive_wplus", "encoder"): {eager: 1, ours: 0.5},
    }
    pieces = {
        p: {s.name: {"median": t, "p95": 2 * t, "runs": 3} for s, t in sides.items()} for p, sides in seconds.items()
    }
    work = {piece: roofline.Work(gflop=100, gweights=0.0) for piece in pieces}
    limits = {"fp32": roofline.Limits(gflops=400, copy_gb=1)}
    found = report.rows([eager, onnx, ours], pieces, work, limits, Workload(1024, batch=2))
    by_key = {(entry["row"], entry["side"]): entry for entry in found}

    row = by_key["W encoder", ours.name]
    assert row["seconds"] == {"median": 1.5, "p95": 3}
    assert row["x_torch_baseline"] == pytest.approx(10 / 1.5, abs=1e-3) and row["x_onnxruntime_baseline"] == 2
    assert row["x_paper"] == pytest.approx(2 * 0.064 / 1.5, abs=1e-3)  # two pictures
    assert row["roofline"] == pytest.approx(2 * 200 / 400 / 1.5, abs=1e-3)
    assert ("naive W+", onnx.name) not in by_key and "x_onnxruntime_baseline" not in by_key["naive W+", ours.name]
    inversion, frontalization = (by_key[name, ours.name] for name in ("pSp inversion", "pSp frontalization"))
    assert inversion["seconds"] == frontalization["seconds"] == {"median": 2, "p95": 4}
    assert inversion["x_torch_baseline"] == 5 and inversion["roofline"] == 0.25
    assert frontalization["x_paper"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], [EAGER, ONNX_BASELINE, *OURS, "OpenVINO, ours", "OpenVINO, ours, INT8"]),
        (["--peers"], [EAGER, ONNX_BASELINE, *OURS, *OPENVINO, *QUANTISED, "torch.compile, baseline"]),
        (["--backend", "openvino"], [*OPENVINO, *QUANTISED[:2]]),
        (["--peers", "--precision", "fp32"], [EAGER, ONNX_BASELINE, OURS[0], *OPENVINO, "torch.compile, baseline"]),
    ],
)
def test_peers_are_timed_where_they_are_asked_for(monkeypatch, arguments, names):
    timed = {}
    monkeypatch.setattr(latency, "time_piece", lambda piece, sides, *_: timed.update({piece: sides}) or {})
    monkeypatch.setattr(roofline, "measure", lambda *_: roofline.Limits(1, 1))
    monkeypatch.setattr(roofline, "work", lambda *_: roofline.Work(1, 1))
    monkeypatch.setattr(latency, "default_device", lambda: "cpu")
    monkeypatch.setattr(latency, "lacks_bf16", lambda: "a CPU with AMX")
    latency.run(latency.parse(arguments))
    assert timed.keys() == {piece for row in report.ROWS for piece in row.pieces}
    peers = [name.replace("ours", "baseline") for name in names if "compile" not in name and "INT8" not in name]
    for piece, sides in timed.items():
        assert [side.name for side in sides] == (list(dict.fromkeys(peers)) if piece.peer else names)


def test_rows_can_be_chosen(monkeypatch):
    timed = []
    monkeypatch.setattr(latency, "time_piece", lambda piece, *_: timed.append(piece) or {})
    monkeypatch.setattr(roofline, "measure", lambda *_: roofline.Limits(1, 1))
    monkeypatch.setattr(roofline, "work", lambda *_: roofline.Work(1, 1))
    monkeypatch.setattr(latency, "default_device", lambda: "cpu")
    latency.run(latency.parse(["--row", "IDInvert", "--row", "pSp frontalization"]))
    assert timed == [Piece("idinvert", "full"), FULL]


def test_a_gpu_runs_the_networks_of_others_in_tensorrt():
    found = [side.name for side in backends.peer_sides("cuda", list(backends.BACKENDS))]
    assert found == ["PyTorch eager, baseline", "ONNX Runtime, baseline", "TensorRT, baseline"]


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_torch_compile_without_a_compiler_is_a_note(monkeypatch, device, variable):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(PspError, match="no-such-compiler was not found"):
        backends.Side("torch.compile", backends.BASELINE, device=device).prepared(SMALL, FULL)


def test_a_side_that_torch_cannot_run_is_a_note(monkeypatch):
    def full(self, *arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nSee the documentation.")

    monkeypatch.setattr(Baseline, "forward", full)
    notes: latency.Notes = {}
    times = latency.time_piece(ENCODER, [backends.Side("torch", backends.BASELINE)], SMALL, 0.0, notes)
    side = "PyTorch eager, baseline"
    assert (times, notes) == ({}, {f"{side}: CUDA out of memory.": [f"psp encoder on {side}"]})


def test_other_pictures_are_not_timed(monkeypatch):
    monkeypatch.setattr(latency, "tidy", lambda: None)
    eager, _, ours = backends.sides("cpu", ["torch", "onnxruntime"], ["fp16"])
    rng = np.random.default_rng(0)
    good = {"output": rng.integers(0, 200, (1, 16, 16, 3), np.uint8), "latents": rng.normal(size=(1, 4, 8))}

    def opened(side, **changes):
        return latency.Opened(side, backends.Runner(lambda: good | changes, lambda: None, lambda: None))

    opened(ours).compare(opened(eager))
    opened(eager, latents=1.01 * good["latents"]).compare(opened(ours))  # the gate is that of FP16 either way
    with pytest.raises(latency.DifferentPicture, match="ONNX Runtime, ours, FP16 differs from PyTorch eager.*dB"):
        opened(ours, output=good["output"] + np.uint8(9)).compare(opened(eager))
    with pytest.raises(latency.DifferentPicture, match="in latents: a relative error of 1.0e-02"):
        opened(eager, latents=1.01 * good["latents"]).compare(opened(eager))
    in_int8 = backends.Side("onnxruntime", backends.OURS, "int8")
    opened(in_int8, output=good["output"] + np.uint8(20)).compare(opened(eager))
    with pytest.raises(PspError, match="INT8 differs from PyTorch eager.*: 18.0 dB"):  # a note, not an end
        opened(in_int8, output=good["output"] + np.uint8(32)).compare(opened(eager))
    with pytest.raises(latency.DifferentPicture):
        opened(ours, latents=np.nan * good["latents"]).compare(opened(eager))


@pytest.mark.filterwarnings("ignore:You are using the legacy")
def test_the_baseline_that_does_not_export():
    """What `NOT_EXPORTABLE` says is so: torch's exporter refuses it."""
    with pytest.raises(PspError, match="cannot be exported"):
        workloads.baseline_engine(SMALL, Piece("naive_wplus", "encoder"))
    with pytest.raises(torch.onnx.errors.SymbolicValueError, match="adaptive_avg_pool2d"):
        torch.onnx.export(nn.AdaptiveAvgPool2d(7), (torch.zeros(1, 1, 16, 16),), "unused.onnx", dynamo=False)


# The cache


def test_cache_holds_whole_folders_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(folder):
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        workloads.cached("a", fail)
    assert list(workloads.cache_folder().iterdir()) == []
    folder = workloads.cached("a", lambda folder: (folder / "whole").write_text("whole"))
    assert folder == workloads.cached("a", fail) and (folder / "whole").read_text() == "whole"
    with pytest.raises(OSError, match="disk full"):  # a plan of this TensorRT does not open in that one
        workloads.cached("a", fail, "TensorRT 10.13.2")


def test_cache_forgets_what_earlier_sources_made(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ["a-000000000000", "a-111111111111", "a-b-000000000000"]
    for name in names:
        (workloads.cache_folder() / name).mkdir(parents=True)
    for name in (names[0], names[2]):
        os.utime(workloads.cache_folder() / name, (1, 1))
    made = workloads.cached("a", lambda folder: None)
    assert {folder.name for folder in workloads.cache_folder().iterdir()} == {*names[1:], made.name}


def test_bf16_is_a_side_of_openvino_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The FP32 file in bf16; a CPU without it gives the reason, and is timed in FP32 alone."""
    monkeypatch.setattr(latency, "lacks_bf16", lambda: "")
    precisions = latency.default_precisions("cpu")
    found = [side for side in backends.sides("cpu", ["openvino"], precisions) if side.form == backends.OURS]
    assert [side.name for side in found] == ["OpenVINO, ours", "OpenVINO, ours, BF16", "OpenVINO, ours, INT8"]
    monkeypatch.setattr(backends, "lacks_bf16", lambda: "a CPU with AMX")
    assert found[1].obstacle(FULL) == "bf16 needs a CPU with AMX"
    monkeypatch.setattr(latency, "lacks_bf16", lambda: "a CPU with AMX")
    assert latency.default_precisions("cpu") == ["fp32", "int8"]
    assert latency.default_precisions("cuda") == ["fp32", "fp16", "int8"]


def test_a_gpu_runs_int8_in_tensorrt_alone():
    found = [side.name for side in backends.sides("cuda", ["onnxruntime", "tensorrt"], ["fp32", "int8"])]
    assert found == [ONNX_BASELINE, "ONNX Runtime, ours", "TensorRT, ours", "TensorRT, ours, INT8"]
