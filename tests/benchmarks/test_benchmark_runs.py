"""The latency benchmarks, their table and the regression guard, end to end on a small model."""

import json
from pathlib import Path

import latency
import layers
import pytest
import regression
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
from measure.peers import shapes
from measure.workloads import Piece, Workload
from PIL import Image

from psp_export.plans.build import choose_flavour
from psp_runtime.engines.info import read_info
from psp_runtime.errors import PspError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SMALL = Workload(64, 1, small=True)
FULL, GENERATOR = workloads.FULL, workloads.GENERATOR
PIECES = (FULL, GENERATOR, Piece("naive_wplus", "encoder"))
ROWS = [row.name for row in report.ROWS if row.name != "W encoder"]  # exports take seconds
PEERS = [row for row in report.ROWS if row.peer]
SIDES = ["PyTorch eager, baseline", "ONNX Runtime, baseline", "ONNX Runtime, ours"]
INT8_SIDES = ["ONNX Runtime, ours, INT8", "ONNX Runtime, baseline, INT8 by quantize_static"]


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
        quantised.quantised_baseline(Workload(64, 2, small=True), FULL, "onnxruntime")


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
    readme, page = pages(tmp_path, "before\n<!-- {} -->\nold\n<!-- /{} -->\nafter\n")
    assert table.main(["--root", str(tmp_path), "--results", str(tmp_path)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- latency -->\n|") and text.endswith("<!-- /latency -->\nafter\n")
    assert "the newer run" in text and "Another machine" in text
    assert not any(words in text for words in ("old\n", "the older run", "a small model"))
    entry = next(e for e in result["rows"] if e["row"] == report.HEADLINE and e["ours"])
    cell = f"**{report.clock(entry['seconds']['median'])}** ({entry['x_torch_baseline']:.1f}×"
    assert cell in next(line for line in text.splitlines() if line.startswith("| pSp inversion | 0.105 s |"))
    peers = [e for e in result["rows"] if e["row"] == "ALAE"]
    eager, onnx = (f"{report.clock(e['seconds']['median'])} ({e['x_psp']:.1f}× pSp)" for e in peers)
    assert f"| ALAE | 0.207 s | {result['gflop']['alae full']:.3g} | {eager} | {onnx} | no engine |" in text
    assert text.count(report.NO_ENGINE) == 1 and f"- IDInvert: {report.IDINVERT_NOTE}." in text
    onnx = next(e for e in result["rows"] if e["row"] == report.HEADLINE and e["side"] == "ONNX Runtime, baseline")
    eager = next(e for e in result["rows"] if e["row"] == report.HEADLINE and e["side"].startswith("PyTorch"))
    factor = eager["seconds"]["median"] / onnx["seconds"]["median"]
    text = readme.read_text()
    assert "PyTorch eager 1×" in text and f"ONNX Runtime {factor:.2g}×" in text
    assert {Image.open(tmp_path / "docs" / name).format for name in ("relative_speed.png", "latency.png")} == {"PNG"}


def test_a_precision_is_a_group_from_the_baseline_to_ours(measured, tmp_path):
    """A line of the README, a table of the page, bars of the chart; not where FP32 alone was measured."""
    _, result, _ = measured
    published = {"size": 1024, "batch": 1, "small": False}
    exact = [entry for entry in result["rows"] if entry["precision"] == "fp32"]
    ours, others = (next(e for e in charts.headline(result) if e["side"] == side) for side in INT8_SIDES)
    texts = {}
    for name, rows in (("fp32", exact), ("int8", result["rows"])):
        folder = tmp_path / name
        folder.mkdir()
        stored(folder, result, workload=published, rows=rows)
        readme, page = pages(folder, "<!-- {} -->\n<!-- /{} -->\n")
        assert table.main(["--root", str(folder), "--results", str(folder)]) == 0
        texts[name] = readme.read_text() + page.read_text()
    line = f"INT8: baseline, ONNX Runtime with quantize_static {charts.times(others)}; this toolkit, ONNX Runtime"
    assert f"{line} {charts.times(ours)}.*" in texts["int8"] and "INT8" not in texts["fp32"]
    cells = ["INT8", "", "ONNX Runtime", "int8", report.clock(ours["seconds"]["median"]), charts.times(ours)]
    assert f"| {' | '.join(cells)} | {ours['psnr']:.1f} |" in texts["int8"] and "| pSp in |" not in texts["fp32"]
    groups = charts.by_precision(result)
    assert [len(group) for group in groups.values()] == [3, 2] and list(groups) == ["fp32", "int8"]
    sizes = [Image.open(tmp_path / name / "docs" / "relative_speed.png").height for name in texts]
    assert sizes[1] > sizes[0]


@pytest.mark.parametrize(
    ("side", "precision"),
    [("ONNX Runtime, ours", "fp32"), ("TensorRT, ours, FP16", "fp16"), ("OpenVINO, ours, BF16", "bf16")],
)
def test_older_results_have_the_precision_in_the_name(side, precision):
    assert report.precision({"side": side}) == precision


def pages(root, template):
    """README and docs/speed.md of a project, each with its marker in a template."""
    files = [(root / "README.md", "speed"), (root / "docs" / "speed.md", "latency")]
    (root / "docs").mkdir(exist_ok=True)
    for file, marker in files:
        file.write_text(template.format(marker, marker))
    return [file for file, _ in files]


def test_the_pages_say_what_the_stored_results_say():
    results = table.published(table.read_results(table.ROOT / "benchmarks" / "results"))
    for page, marker, text in table.texts(results, table.ROOT):
        assert table.between_markers(page, marker, text) == page.read_text(), f"python benchmarks/table.py makes {page}"


def test_a_result_without_the_others_still_makes_a_table(measured, tmp_path):
    """As `latency.py` wrote them before it measured networks of others."""
    _, result, _ = measured
    peers = [row.name for row in PEERS]
    rows = [entry for entry in result["rows"] if entry["row"] not in peers]
    gflop = {piece: work for piece, work in result["gflop"].items() if piece.split()[0] not in shapes.PEERS}
    published = {"size": 1024, "batch": 1, "small": False}
    stored(tmp_path, result, workload=published, rows=rows, gflop=gflop)
    _, page = pages(tmp_path, "<!-- {} -->\n<!-- /{} -->\n")
    assert table.main(["--root", str(tmp_path), "--results", str(tmp_path)]) == 0
    text = page.read_text()
    assert "| ALAE | 0.207 s | — | — | — | — |" in text and report.NO_ENGINE not in text
    charts.latency(result | {"rows": rows, "gflop": gflop}, tmp_path / "latency.svg")
    assert "Networks of others" not in (tmp_path / "latency.svg").read_text()


@pytest.mark.parametrize(
    "readme, results, message",
    [
        ("no markers", {}, "no result of the published model"),
        ("no markers", {"latency_x.json": "{}"}, "latency_x.json is no result of latency.py"),
        ("no markers", {"latency_x.json": None}, "put both where the numbers shall be"),
    ],
)
def test_table_refuses_in_one_line(measured, tmp_path, capsys, readme, results, message):
    (tmp_path / "README.md").write_text(readme)
    for name, text in results.items():
        whole = measured[1] | {"workload": {"size": 1024, "batch": 1, "small": False}}
        (tmp_path / name).write_text(json.dumps(whole) if text is None else text)
    assert table.main(["--root", str(tmp_path), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (tmp_path / "README.md").read_text() == readme


def test_regression_names_the_ratios_that_fell(measured, tmp_path, capsys):
    _, result, _ = measured
    result = result | {"rows": [entry for entry in result["rows"] if entry["precision"] == "fp32"]}
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
