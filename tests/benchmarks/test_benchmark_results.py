"""What is made of results: the table, the charts, the regression guard.

tests/golden/latency.json is what test_benchmark_runs.py measures again.
"""

import json
from pathlib import Path

import latency
import pytest
import regression
import table
from measure import charts, report
from measure.peers import shapes
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden" / "latency.json"
PEERS = [row for row in report.ROWS if row.peer]
INT8_SIDES = ["ONNX Runtime, ours, INT8", "ONNX Runtime, baseline, INT8 by quantize_static"]


@pytest.fixture
def result():
    """A stored result of latency.py over the small model."""
    return json.loads(GOLDEN.read_text())


def stored(folder, result, name="latency_2020-01-01_cpu2.json", date="2020-01-01T00:00", **changes):
    (folder / name).write_text(json.dumps(result | {"date": date} | changes))


def test_table_goes_between_the_markers(result, tmp_path):
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


def test_a_precision_is_a_group_from_the_baseline_to_ours(result, tmp_path):
    """A line of the README, a table of the page, bars of the chart; not where FP32 alone was measured."""
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


def test_a_result_without_the_others_still_makes_a_table(result, tmp_path):
    """As `latency.py` wrote them before it measured networks of others."""
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
def test_table_refuses_in_one_line(result, tmp_path, capsys, readme, results, message):
    (tmp_path / "README.md").write_text(readme)
    for name, text in results.items():
        whole = result | {"workload": {"size": 1024, "batch": 1, "small": False}}
        (tmp_path / name).write_text(json.dumps(whole) if text is None else text)
    assert table.main(["--root", str(tmp_path), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (tmp_path / "README.md").read_text() == readme


def test_regression_names_the_ratios_that_fell(result, tmp_path, capsys):
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


def test_regression_compares_only_its_kind(result, tmp_path, capsys):
    (tmp_path / "now.json").write_text(json.dumps(result))
    stored(tmp_path, result, "latency_a.json", machine=result["machine"] | {"kind": "another"})
    stored(tmp_path, result, "latency_b.json", workload=result["workload"] | {"batch": 7})
    stored(tmp_path, result, "latency_c.json", date="2999-01-01T00:00")
    assert regression.main([str(tmp_path / "now.json"), "--results", str(tmp_path)]) == 2
    assert "no stored result" in capsys.readouterr().err
