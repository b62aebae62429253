"""The latency benchmarks: work is counted right, ratios are, and the scripts run end to end on a small model."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from psp_export.engine import choose_flavour
from psp_runtime.errors import PspError
from psp_runtime.metadata import read_info

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import backends  # noqa: E402
import latency  # noqa: E402
import layers  # noqa: E402
import regression  # noqa: E402
import report  # noqa: E402
import roofline  # noqa: E402
import scaling  # noqa: E402
import table  # noqa: E402
import timing  # noqa: E402
import workloads  # noqa: E402
from reference_form import ReferenceForm  # noqa: E402
from workloads import Piece, Workload  # noqa: E402

SMALL = Workload(64, 1, small=True)
FULL, GENERATOR, ENCODER = workloads.FULL, workloads.GENERATOR, Piece("psp", "encoder")
PIECES = (FULL, GENERATOR, Piece("naive_wplus", "encoder"))  # without "w": exports take seconds


def test_reference_form_is_the_trained_model():
    model = tiny_model()
    image = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), np.uint8))
    picture, latents = ReferenceForm(model)(image)
    expected, codes = model(workloads_input(image))
    assert picture.dtype == torch.uint8 and picture.shape == (2, 64, 64, 3)
    torch.testing.assert_close(latents, codes)
    torch.testing.assert_close(ReferenceForm(model, "encoder")(image), codes)
    exact = ((expected + 1) / 2).clamp(0, 1).mul(255).permute(0, 2, 3, 1)
    for found in (picture, ReferenceForm(model, "generator")(codes)):
        assert (found.float() - exact.floor()).abs().max() <= 1
    assert exact.std() > 10


def workloads_input(image):
    return image.permute(0, 3, 1, 2).float() / 127.5 - 1


# Work and floors


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
    assert [side.form for side in (eager, onnx, ours)] == ["reference form", "reference form", "ours"]
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
    assert row["x_torch_reference"] == pytest.approx(10 / 1.5, abs=1e-3) and row["x_onnxruntime_reference"] == 2
    assert row["x_paper"] == pytest.approx(2 * 0.064 / 1.5, abs=1e-3)  # two pictures
    assert row["roofline"] == pytest.approx(2 * 200 / 400 / 1.5, abs=1e-3)
    assert ("naive W+", onnx.name) not in by_key and "x_onnxruntime_reference" not in by_key["naive W+", ours.name]
    inversion, frontalization = (by_key[name, ours.name] for name in ("pSp inversion", "pSp frontalization"))
    assert inversion["seconds"] == frontalization["seconds"] == {"median": 2, "p95": 4}
    assert inversion["x_torch_reference"] == 5 and inversion["roofline"] == 0.25
    assert frontalization["x_paper"] == pytest.approx(0.1)


def test_peers_are_timed_where_they_are_asked_for(monkeypatch):
    seen = []
    monkeypatch.setattr(latency, "time_piece", lambda piece, competitors, *_: seen.append(competitors) or {})
    monkeypatch.setattr(latency.roofline, "measure", lambda *_: roofline.Limits(1, 1))
    monkeypatch.setattr(latency.roofline, "work", lambda *_: roofline.Work(1, 1))
    monkeypatch.setattr(latency, "default_device", lambda: "cpu")
    for arguments in ([], ["--peers"], ["--backend", "openvino"]):
        latency.run(latency.parse(arguments))
    plain, peers, openvino = ([side.name for side in seen[i * len(report.PIECES)]] for i in range(3))
    assert plain == ["PyTorch eager, reference form", *(f"ONNX Runtime, {f}" for f in ("reference form", "ours"))] + [
        "OpenVINO, ours"
    ]
    assert set(peers) - set(plain) == {"OpenVINO, reference form", "torch.compile, reference form"}
    assert openvino == ["OpenVINO, reference form", "OpenVINO, ours"]


def test_torch_compile_without_a_compiler_is_a_note(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(PspError, match="install g"):
        backends.Side("torch.compile", backends.REFERENCE).prepared(SMALL, FULL)


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
    with pytest.raises(latency.DifferentPicture):
        opened(ours, latents=np.nan * good["latents"]).compare(opened(eager))


@pytest.mark.filterwarnings("ignore:You are using the legacy")
def test_the_reference_form_that_does_not_export():
    """What `NOT_EXPORTABLE` says is so: torch's exporter refuses it."""
    with pytest.raises(PspError, match="cannot be exported"):
        workloads.reference_engine(SMALL, Piece("naive_wplus", "encoder"))
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


def test_cache_forgets_what_earlier_sources_made(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ["a-000000000000", "a-111111111111", "a-b-000000000000"]
    for name in names:
        (workloads.cache_folder() / name).mkdir(parents=True)
    for name in (names[0], names[2]):
        os.utime(workloads.cache_folder() / name, (1, 1))
    made = workloads.cached("a", lambda folder: None)
    assert {folder.name for folder in workloads.cache_folder().iterdir()} == {*names[1:], made.name}


# End to end


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of latency.py over the small model: the folder with its results and the result."""
    folder = tmp_path_factory.mktemp("latency")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(roofline, "MATRICES", {"cpu": (256,)})
        patch.setattr(roofline, "COPIED_BYTES", {"cpu": 1 << 20})
        patch.setattr(latency, "default_device", lambda: "cpu")
        patch.setattr(scaling, "default_device", lambda: "cpu")
        patch.setattr(layers, "default_device", lambda: "cpu")
        patch.setattr(report, "PIECES", PIECES)
        patch.setattr(scaling, "GENERATOR", GENERATOR)
        options = ["--small", "--size", "64", "--seconds", "0.01", "--backend", "torch", "--backend", "onnxruntime"]
        result = latency.run(latency.parse(options))
        yield folder, result, options


def test_latency_measures_every_row(measured, capsys):
    folder, result, _ = measured
    latency.publish(result, latency.parse(["--json", str(folder), "--plot", str(folder / "latency.png")]))
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == result
    assert json.loads(next(folder.glob("latency_*_cpu*.json")).read_text()) == result
    assert Image.open(folder / "latency.png").size[0] > 1000
    text = "\n".join(lines)
    for row in report.ROWS:
        assert f"{row.name}: {row.paper} s in the paper" in text
    assert "timing of pSp inversion" in text and "not measured: naive_wplus encoder on ONNX Runtime, reference" in text
    entries = [entry for entry in result["rows"] if entry["row"] == report.HEADLINE]
    assert [entry["side"].split(", ")[1] for entry in entries] == ["reference form", "reference form", "ours"]
    for entry in result["rows"]:
        assert 0 < entry["seconds"]["median"] <= entry["seconds"]["p95"] and entry["roofline"] > 0
    assert result["gflop"]["psp full"] == pytest.approx(roofline.work(SMALL, FULL).gflop, abs=1e-3)


def test_engine_files_come_from_the_cache(measured, monkeypatch):
    monkeypatch.setattr(workloads, "export", None)
    ours = backends.Side("onnxruntime", backends.OURS)
    for piece in PIECES:
        info = read_info(ours.engine(SMALL, piece))
        assert (info.part, info.output_size) == (piece.part, 64)


@pytest.mark.skipif(choose_flavour() is None, reason="no TensorRT to build a plan with")
def test_a_plan_is_built_of_the_cached_engine(measured):
    plan = workloads.our_plan(SMALL, GENERATOR, "fp32")
    info = read_info(plan)
    assert (plan.suffix, info.part, info.backend) == (".trt", "generator", choose_flavour())
    if not backends.cuda_devices():
        with pytest.raises(PspError, match="needs an NVIDIA GPU"):
            backends.Side("tensorrt", backends.OURS, device="cuda").open(SMALL, GENERATOR)


def test_one_engine_file(measured, capsys):
    path = str(workloads.our_engine(SMALL, FULL, "fp32"))
    assert latency.main(["--engine", path, "--batch", "2", "--seconds", "0.01"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["batch"] == 2 and result["output_size"] == 64 and result["seconds"]["runs"] >= timing.LEAST
    part = str(workloads.our_engine(SMALL, ENCODER, "fp32"))
    assert latency.main(["--engine", part]) == 2
    assert "only the encoder, expected a full engine" in capsys.readouterr().err


def test_layers_of_an_engine(measured, capsys):
    assert layers.main(["--small", "--size", "64", "--runs", "1", "--top", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])["layers"]
    work = roofline.work(SMALL, FULL).gflop
    assert work <= sum(layer["gflop"] for layer in found) < 1.5 * work  # narrow layers are padded to a block
    assert {"encoder/stages.2", "generator/convs.1"} <= {layers.Layer(**layer).part for layer in found}


def test_scaling_has_both_sweeps(measured, tmp_path, capsys):
    options = ["--small", "--sizes", "64", "--batches", "1", "2", "--batch-size", "64", "--seconds", "0.01"]
    assert scaling.main([*options, "--plot", str(tmp_path / "scaling.svg"), "--json", str(tmp_path / "s.json")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "s.json").read_text()) == result
    assert [point["batch"] for point in result["batches"]] == [1, 2]
    assert result["batches"][1]["gflop"] == pytest.approx(2 * result["batches"][0]["gflop"], abs=2e-3)
    assert result["sizes"][0]["gflop"] == pytest.approx(roofline.work(SMALL, GENERATOR).gflop, abs=1e-3)
    svg = (tmp_path / "scaling.svg").read_text()
    assert svg.startswith("<?xml") and "</svg>" in svg


# What is made of results


def stored(folder, result, name="latency_2020-01-01_cpu2.json", date="2020-01-01T00:00", **changes):
    (folder / name).write_text(json.dumps(result | {"date": date} | changes))


def test_table_goes_between_the_markers(measured, tmp_path):
    _, result, _ = measured
    published = {"size": 1024, "batch": 1, "small": False}
    other = result["machine"] | {"kind": "another", "name": "Another machine"}
    stored(tmp_path, result, "latency_a.json", "2020-01-01T00:00", workload=published, command="the older run")
    stored(tmp_path, result, "latency_b.json", "2020-01-02T00:00", workload=published, command="the newer run")
    stored(tmp_path, result, "latency_c.json", "2020-01-03T00:00", command="a small model")
    stored(tmp_path, result, "latency_d.json", "2020-01-01T00:00", workload=published, machine=other)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    assert table.main(["--readme", str(readme), "--results", str(tmp_path)]) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{table.START}\n|") and text.endswith(f"{table.END}\nafter\n")
    assert "the newer run" in text and "Another machine" in text
    assert not any(words in text for words in ("old\n", "the older run", "a small model"))
    entry = next(e for e in result["rows"] if e["row"] == report.HEADLINE and e["ours"])
    cell = f"**{report.clock(entry['seconds']['median'])}** ({entry['x_torch_reference']:.1f}×"
    assert cell in next(line for line in text.splitlines() if line.startswith("| pSp inversion | 0.105 s |"))
    assert "| ALAE | 0.207 s | — | — | — |" in text


@pytest.mark.parametrize(
    "readme, results, message",
    [
        ("no markers", {}, "no result of the published model"),
        ("no markers", {"latency_x.json": "{}"}, "latency_x.json is no result of latency.py"),
        ("no markers", {"latency_x.json": None}, "put both where the tables shall be"),
    ],
)
def test_table_refuses_in_one_line(measured, tmp_path, capsys, readme, results, message):
    (tmp_path / "README.md").write_text(readme)
    for name, text in results.items():
        whole = measured[1] | {"workload": {"size": 1024, "batch": 1, "small": False}}
        (tmp_path / name).write_text(json.dumps(whole) if text is None else text)
    assert table.main(["--readme", str(tmp_path / "README.md"), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (tmp_path / "README.md").read_text() == readme


def test_regression_names_the_ratios_that_fell(measured, tmp_path, capsys):
    _, result, _ = measured
    (tmp_path / "now.json").write_text(json.dumps(result))
    arguments = [str(tmp_path / "now.json"), "--results", str(tmp_path)]
    assert regression.main(arguments) == 2  # nothing stored yet
    assert "make bench writes the first one" in capsys.readouterr().err

    stored(tmp_path, result)
    assert regression.main(arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["compared"] > 6

    faster = [
        entry | {"roofline": 1.3 * entry["roofline"]} for entry in result["rows"] if entry["row"] == report.HEADLINE
    ]
    stored(tmp_path, result, "latency_2020-01-02_cpu2.json", "2020-01-02T00:00", rows=faster)
    assert regression.main(arguments) == 1
    out = capsys.readouterr().out.splitlines()
    assert "1 of 3 ratios fell by more than 12 %:" in out
    assert [(c["row"], c["ratio"]) for c in json.loads(out[-1])["worse"]] == [(report.HEADLINE, "roofline")]
    assert regression.main([*arguments, "--tolerance", "0.5"]) == 0


def test_regression_does_not_measure_what_it_cannot_compare(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latency, "run", lambda options: pytest.fail("measured for minutes, for nothing"))
    assert regression.main(["--results", str(tmp_path)]) == 2
    assert "no stored result" in capsys.readouterr().err


def test_regression_compares_only_its_kind(measured, tmp_path, capsys):
    _, result, _ = measured
    (tmp_path / "now.json").write_text(json.dumps(result))
    stored(tmp_path, result, "latency_a.json", machine=result["machine"] | {"kind": "another"})
    stored(tmp_path, result, "latency_b.json", workload=result["workload"] | {"batch": 7})
    stored(tmp_path, result, "latency_c.json", date="2999-01-01T00:00")
    assert regression.main([str(tmp_path / "now.json"), "--results", str(tmp_path)]) == 2
    assert "no stored result" in capsys.readouterr().err
