"""The latency benchmarks, end to end on a small model. What is made of results is in test_benchmark_results.py."""

import json
from functools import partial
from pathlib import Path

import latency
import layers
import pytest
import scaling
import table
from measure import (
    backends,
    charts,
    quantised,
    report,
    roofline,
    timing,
    workloads,
)
from measure.workloads import Piece, Workload
from onnxruntime import quantization
from PIL import Image

from psp_export.plans.build import choose_flavour
from psp_runtime.engines.info import read_info
from psp_runtime.errors import PspError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SMALL = Workload(64, 1, small=True)
FULL, GENERATOR = workloads.FULL, workloads.GENERATOR
PIECES = (FULL, GENERATOR, Piece("naive_wplus", "encoder"))
ROWS = [row.name for row in report.ROWS if row.name not in ("W encoder", "IDInvert")]  # exports take seconds
PEERS = [row for row in report.ROWS if row.peer and row.name in ROWS]
GOLDEN = Path(__file__).parents[1] / "golden" / "latency.json"
SIDES = ["PyTorch eager, baseline", "ONNX Runtime, baseline", "ONNX Runtime, ours"]
INT8_SIDES = ["ONNX Runtime, ours, INT8", "ONNX Runtime, baseline, INT8 by quantize_static"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of latency.py over the small model: the folder with its results and the result.

    quantize_static quantises the convolutions alone: it takes time as the square of what it quantises.
    """
    folder = tmp_path_factory.mktemp("latency")
    convolutions = partial(quantization.quantize_static, op_types_to_quantize=["Conv"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(quantization, "quantize_static", convolutions)
        patch.setattr(roofline, "MATRICES", {"cpu": (256,)})
        patch.setattr(roofline, "COPIED_BYTES", {"cpu": 1 << 20})
        patch.setattr(latency, "default_device", lambda: "cpu")
        patch.setattr(scaling, "default_device", lambda: "cpu")
        patch.setattr(layers, "default_device", lambda: "cpu")
        patch.setattr(scaling, "GENERATOR", GENERATOR)
        options = ["--small", "--size", "64", "--seconds", "0.01", "--backend", "torch", "--backend", "onnxruntime"]
        options += ["--precision", "fp32", "--precision", "int8"]
        options += [word for row in ROWS for word in ("--row", row)]
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
    assert "timing of pSp inversion" in text and "not measured: naive_wplus encoder on ONNX Runtime, baseline" in text
    entries = [entry for entry in result["rows"] if entry["row"] == report.HEADLINE]
    assert [entry["side"] for entry in entries] == [*SIDES, *INT8_SIDES]
    assert {entry["row"] for entry in result["rows"]} == set(ROWS)
    for entry in result["rows"]:
        assert 0 < entry["seconds"]["median"] <= entry["seconds"]["p95"] and entry["roofline"] > 0
    assert result["gflop"]["psp full"] == pytest.approx(roofline.work(SMALL, FULL).gflop, abs=1e-3)


def shape(value):
    """The keys of JSON at every level, and what kinds of values they have; lists by their kinds of entries."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return {json.dumps(shape(inner), sort_keys=True) for inner in value}
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_the_stored_result_is_like_a_new_one(measured):
    """test_benchmark_results.py reads the stored one in place of this."""
    new, stored = measured[1], json.loads(GOLDEN.read_text())
    stored["rows"] = [entry for entry in stored["rows"] if entry["row"] in ROWS]
    for part in ("gflop", "pieces"):
        stored[part] = {name: value for name, value in stored[part].items() if name in new[part]}
    assert [(entry["row"], entry["side"]) for entry in new["rows"]] == [
        (entry["row"], entry["side"]) for entry in stored["rows"]
    ]
    different = [part for part in new.keys() | stored.keys() if part not in ("machine", "notes")]
    assert {part: shape(new.get(part)) for part in different} == {part: shape(stored.get(part)) for part in different}


def test_networks_of_others_are_compared_with_psp_alone(measured, capsys):
    _, result, _ = measured
    psp = {e["side"]: e["seconds"]["median"] for e in result["rows"] if e["row"] == report.HEADLINE}
    bases = {"PyTorch eager, baseline": "PyTorch eager, baseline", "ONNX Runtime, baseline": "ONNX Runtime, ours"}
    for row in PEERS:
        entries = [entry for entry in result["rows"] if entry["row"] == row.name]
        assert [entry["side"] for entry in entries] == list(bases)
        for entry in entries:
            assert {key for key in entry if key.startswith("x_")} == {"x_psp"} and not entry["ours"]
            assert entry["x_psp"] == pytest.approx(psp[bases[entry["side"]]] / entry["seconds"]["median"], rel=1e-3)
    text = "\n".join(report.show(result))
    assert report.NO_ENGINE in text and all(row.note in text for row in PEERS)
    assert f"({result['gflop']['alae full']:.3g} GFLOP; " in text


def test_int8_is_a_side_of_its_own(measured, capsys):
    """Of the whole model alone, with what it computes in and how near it comes."""
    _, result, _ = measured
    entries = [entry for entry in result["rows"] if entry["precision"] == "int8"]
    assert {entry["row"] for entry in entries} == {"pSp inversion", "pSp frontalization"}
    assert [entry["side"] for entry in entries[:2]] == INT8_SIDES
    for entry in entries:
        assert entry["computed"] == "int8" and 20 < entry["psnr"] < 60 and entry["x_torch_baseline"] > 0
    ours, others = (int8_of(side).engine(SMALL, FULL) for side in (backends.OURS, backends.BASELINE))
    info = read_info(ours)
    assert (info.precision, info.processor, info.calibration["pictures"]) == ("int8", "cpu", quantised.BATCHES)
    assert read_info(others).precision == "int8"
    whole = workloads.our_engine(SMALL, FULL, "fp32").stat().st_size
    assert ours.stat().st_size < 0.4 * whole  # narrow layers, so more is left in FP32 than of the published widths
    assert any("each piece is calibrated" in reason for reason in result["notes"])
    text = "\n".join(report.show(result))
    assert f"computes in int8, {entries[0]['psnr']:.1f} dB" in text


def int8_of(form):
    return backends.Side("onnxruntime", form, "int8")


@pytest.mark.parametrize("form", [backends.OURS, backends.BASELINE])
def test_int8_in_openvino(measured, form):
    """What NNCF makes of the baseline, where it is installed; ours everywhere."""
    side = backends.Side("openvino", form, "int8")
    if obstacle := side.obstacle(FULL):
        assert form == backends.BASELINE
        pytest.skip(obstacle)
    runner = side.prepared(SMALL, FULL).open(SMALL, FULL)
    assert runner.computed == "int8" and runner.run()["output"].shape == (1, 64, 64, 3)
    runner.close()


def test_a_missing_quantiser_is_a_note(measured, monkeypatch):
    monkeypatch.setattr(quantised, "importable", lambda name: False)
    notes: latency.Notes = {}
    side = backends.Side("openvino", backends.BASELINE, "int8")
    assert latency.time_piece(FULL, [side], SMALL, 0.0, notes) == {}
    reason = "the Python package nncf is not installed: pip install nncf"
    assert notes == {reason: ["psp full on OpenVINO, baseline, INT8 by NNCF"]}
    lines = "\n".join(table._left_out(measured[1] | {"notes": notes}))
    assert lines == f"\n*Not measured: OpenVINO, baseline, INT8 by NNCF ({reason}).*"


def test_a_quantiser_that_fails_is_a_note(measured, monkeypatch):
    def fail(*arguments):
        raise ValueError("no such layer\nTraceback")

    monkeypatch.setattr(quantised, "_quantize_static", fail)
    with pytest.raises(PspError, match="^quantize_static refuses the baseline: no such layer$"):
        quantised.quantised_baseline(SMALL, GENERATOR, "onnxruntime")


def test_engine_files_come_from_the_cache(measured, monkeypatch):
    monkeypatch.setattr(workloads, "export", None)
    ours = backends.Side("onnxruntime", backends.OURS)
    for piece in PIECES:
        info = read_info(ours.engine(SMALL, piece))
        assert (info.part, info.output_size) == (piece.part, 64)


@pytest.mark.skipif(choose_flavour() is None, reason="no TensorRT to build a plan with")
@pytest.mark.parametrize("row", PEERS, ids=lambda row: row.name)
def test_a_plan_is_built_of_a_network_of_others(measured, row):
    (piece,) = row.pieces
    info = read_info(backends.Side("tensorrt", backends.BASELINE, device="cuda").engine(SMALL, piece))
    assert (info.encoder, info.part, info.backend) == (piece.kind, piece.part, choose_flavour())


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
    part = str(workloads.our_engine(SMALL, Piece("psp", "encoder"), "fp32"))
    assert latency.main(["--engine", part]) == 2
    assert "only the encoder, expected the full engine" in capsys.readouterr().err


def test_layers_of_an_engine(measured, capsys):
    assert layers.main(["--small", "--size", "64", "--runs", "1", "--top", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])["layers"]
    work = roofline.work(SMALL, FULL).gflop
    assert work <= sum(layer["gflop"] for layer in found) < 1.5 * work  # narrow layers are padded to a block
    assert {"encoder/stages.2", "generator/convs.1"} <= {layers.Layer(**layer).part for layer in found}


@pytest.mark.parametrize(
    ("form", "operators"), [("ours", {"QuantizeLinear", "DequantizeLinear"}), ("baseline", {"QLinearConv"})]
)
def test_layers_of_int8(measured, capsys, form, operators):
    """Ours as written, products in FP32; the baseline in 8-bit kernels. The work is that of FP32."""
    arguments = ["--small", "--size", "64", "--runs", "1", "--precision", "int8", "--form", form]
    assert layers.main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["precision"] == "int8" and operators <= {layer["op"] for layer in result["layers"]}
    work = roofline.work(SMALL, FULL).gflop
    assert 0.9 * work <= sum(layer["gflop"] for layer in result["layers"]) < 1.5 * work


def test_scaling_has_both_sweeps(measured, tmp_path, capsys):
    options = ["--small", "--sizes", "64", "--batches", "1", "2", "--batch-size", "64", "--seconds", "0.01"]
    options += ["--precision", "fp32", "--precision", "int8"]
    assert scaling.main([*options, "--plot", str(tmp_path / "scaling.svg"), "--json", str(tmp_path / "s.json")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "s.json").read_text()) == result
    points = [(point["precision"], point["computed"], point["batch"]) for point in result["batches"]]
    assert points == [(precision, precision, batch) for precision in ("fp32", "int8") for batch in (1, 2)]
    assert [point["precision"] for point in result["sizes"]] == ["fp32", "int8"]
    assert result["batches"][1]["gflop"] == pytest.approx(2 * result["batches"][0]["gflop"], abs=2e-3)
    assert result["sizes"][0]["gflop"] == pytest.approx(roofline.work(SMALL, GENERATOR).gflop, abs=1e-3)
    svg = (tmp_path / "scaling.svg").read_text()
    assert svg.startswith("<?xml") and "</svg>" in svg
    earlier = [{name: value for name, value in point.items() if name != "precision"} for point in result["batches"][:2]]
    charts.scaling(result | {"sizes": result["sizes"][:1], "batches": earlier}, tmp_path / "earlier.svg")
