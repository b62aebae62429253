"""The speed that README and docs/speed.md show, from the results in benchmarks/results.

    python benchmarks/table.py [--root .] [--results benchmarks/results]

Read are the newest results of the published model on every kind of machine (`latency.py --json benchmarks/results`).

- docs/speed.md: one table for each, between the markers `<!-- latency -->` and `<!-- /latency -->`, with another of
  pSp by precision where more than FP32 was measured, and notes below where networks of others were;
- README.md: what the newest of all says in multiples of eager torch, precision after precision, between
  `<!-- speed -->` and `<!-- /speed -->`;
- docs/relative_speed.png and docs/latency.png: the charts of the newest of all.

The rest of the pages stays as it is. Numbers are only ever copied from results, never typed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import charts
from measure.backends import OURS
from measure.report import HEADLINE, NO_ENGINE, ROWS, PaperRow, clock, gflop, has_all_rows, precision

from psp_runtime.disk import replacing
from psp_runtime.errors import PspError

ROOT = Path(__file__).parent.parent
#: What the other networks' cells are.
HOW = (
    'They run as torch exports them, constants folded, in the columns "baseline".\n'
    "  In brackets: how many times as fast as pSp on the same backend, our engine where there is one.\n"
    "  Their seconds on a P40 are not compared with."
)
#: Names of the markers that stand around what is written: `<!-- speed -->`, `<!-- /speed -->`.
TABLES, FACTORS = "latency", "speed"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with README.md and docs/")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    try:
        results = published(read_results(options.results))
        if not results:
            raise PspError(f"no result of the published model in {options.results}: make bench writes one")
        publish(results, options.root)
    except PspError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def publish(results: list[dict], root: Path) -> None:
    """Put results, oldest first, into README, docs/speed.md and their charts."""
    made = [(page, between_markers(page, marker, text)) for page, marker, text in texts(results, root)]
    for page, text in made:
        with replacing(page) as file:
            file.write(text.encode())
    charts.relative(results[-1], root / "docs" / "relative_speed.png")
    charts.latency(results[-1], root / "docs" / "latency.png")


def texts(results: list[dict], root: Path) -> list[tuple[Path, str, str]]:
    """What is to be written: page, name of its markers, text between them."""
    tables = "\n\n".join([*(table(result) for result in results), *notes(results)])
    return [(root / "README.md", FACTORS, factors(results[-1])), (root / "docs" / "speed.md", TABLES, tables)]


def read_results(folder: Path) -> list[dict]:
    """Every result of `latency.py` in a folder, oldest first. Raises `PspError` for a file that is none."""
    found = []
    for path in sorted(folder.glob("latency_*.json")):
        try:
            result = json.loads(path.read_text())
            found.append((result["date"], result["machine"]["kind"], result["workload"], result["rows"], result)[-1])
        except (ValueError, KeyError, TypeError) as error:
            raise PspError(f"{path} is no result of latency.py ({error!r}): remove it or measure again") from None
    return sorted(found, key=lambda result: result["date"])


def published(results: list[dict]) -> list[dict]:
    """The newest result of each kind of machine for the published model at 1024, batch 1, of all rows; oldest first."""
    wanted = {"size": 1024, "batch": 1, "small": False}
    whole = filter(has_all_rows, results)
    newest = {result["machine"]["kind"]: result for result in whole if result["workload"] == wanted}
    return sorted(newest.values(), key=lambda result: result["date"])


def factors(result: dict) -> str:
    """The chart of a result and what it says: how many times as fast as eager torch every side is."""
    machine = result["machine"]
    return (
        f"![Speed of pSp in multiples of eager PyTorch](docs/relative_speed.png)\n\n"
        f"*One picture at 1024² on {charts.place(result)} ({machine['name']}, {result['date'][:10]}).\n"
        f"{_factors(result)}*"
    )


def _factors(result: dict) -> str:
    """A line for the baseline and one for this toolkit, and one for each precision beside FP32."""
    exact, *others = charts.by_precision(result).values()
    lines = [f"Baseline, the network as its definition suggests: {_sides(exact, ours=False)}."]
    lines += [f"This toolkit: {_sides(exact, ours=True)}."]
    for group in others:
        words = [("baseline", _sides(group, ours=False)), ("this toolkit", _sides(group, ours=True))]
        lines.append(f"{_label(group[0])}: {'; '.join(f'{whose}, {sides}' for whose, sides in words if sides)}.")
    return "\n".join(lines)


def _sides(entries: list[dict], ours: bool) -> str:
    """The backends of some sides, with how many times as fast as eager torch they are."""
    return ", ".join(f"{_backend(entry)} {charts.times(entry)}" for entry in entries if entry["ours"] == ours)


def _backend(entry: dict) -> str:
    """The backend of a side, and who quantised for it: "OpenVINO with NNCF"."""
    backend, _, rest = entry["side"].partition(", ")
    quantiser = rest.partition(" by ")[2]
    return f"{backend} with {quantiser}" if quantiser else backend


def _label(entry: dict) -> str:
    """What readers call a precision: "bf16", "INT8"."""
    return precision(entry).replace("int", "INT").replace("fp", "FP")


def table(result: dict) -> str:
    """One Markdown table: rows of the paper, a column for each side, what it ran on below; INT8 is of pSp alone."""
    in_order = sorted(result["rows"], key=lambda entry: entry["row"] != HEADLINE)
    in_order = [entry for entry in in_order if precision(entry) != "int8"]
    sides = {entry["side"]: entry["ours"] for entry in in_order}
    names = [side.replace(OURS, "this toolkit") for side in sides]
    header = ["seconds per picture", "paper, Tesla P40", "work, GFLOP", *names]
    lines = [_row(header), _row(["---"] + ["---:"] * (len(header) - 1))]
    for row in ROWS:
        entries = {entry["side"]: entry for entry in result["rows"] if entry["row"] == row.name}
        work = gflop(result, row).removesuffix(" GFLOP") or "—"
        cells = ["no engine" if row.peer and sides[side] and entries else _cell(entries.get(side)) for side in sides]
        lines.append(_row([row.name, f"{row.paper} s", work, *cells]))
    return "\n".join([*lines, "", _caption(result), *_by_precision(result)])


def _by_precision(result: dict) -> Iterator[str]:
    """A table of pSp on every side, precision after precision; nothing where FP32 alone was measured."""
    groups = charts.by_precision(result)
    if len(groups) < 2:
        return
    yield "\n" + _row(
        ["pSp in", "baseline", "this toolkit", "computed in", "seconds", "times eager PyTorch", "dB to FP32"]
    )
    yield _row(["---"] * 4 + ["---:"] * 3)
    for entry in (entry for group in groups.values() for entry in group):
        whose = ["", _backend(entry)] if entry["ours"] else [_backend(entry), ""]
        cells = [entry.get("computed", precision(entry)), clock(entry["seconds"]["median"]), charts.times(entry)]
        yield _row([_label(entry), *whose, *cells, f"{entry['psnr']:.1f}" if "psnr" in entry else "—"])
    yield from _left_out(result)


def _left_out(result: dict) -> Iterator[str]:
    """Why sides of the pSp row are missing."""
    for reason, what in result["notes"].items():
        sides = [words.partition(" on ")[2] for words in what if words.startswith("psp full on ")]
        if sides:
            yield f"\n*Not measured: {', '.join(charts.spelled(side) for side in sides)} ({reason}).*"


def notes(results: list[dict]) -> Iterator[str]:
    """What the rows of networks of others are: one list for all tables, where any of them was measured."""
    measured = {entry["row"] for result in results for entry in result["rows"]}
    if any(row.peer and row.name in measured for row in ROWS):
        yield "\n".join([f"- {NO_ENGINE}. {HOW}", *(f"- {row.name}: {row.note}." for row in ROWS if _noted(row))])


def _noted(row: PaperRow) -> bool:
    return row.peer or row.name == HEADLINE


def _caption(result: dict) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['name']}, threads: {machine['threads']}; {versions}; {result['date'][:10]}"
    return (
        f"*{where}.\nMedian of warm runs at 1024², batch 1, uint8 array to uint8 array.\nIn brackets: times eager "
        f"PyTorch, and the share of the speed limit measured in the same run.\n`{result['command']}`*"
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(entry: dict | None) -> str:
    """The median; for our engines also the speed-up over eager torch and the share of the floor.

    For a peer, how many times as fast as pSp it is on the same backend.
    """
    if entry is None:
        return "—"
    words = clock(entry["seconds"]["median"])
    if "x_psp" in entry:
        return f"{words} ({entry['x_psp']:.1f}× pSp)"
    speedup = entry.get("x_torch_baseline")
    if not entry["ours"] or speedup is None:
        return words
    return f"**{words}** ({speedup:.1f}×, {100 * entry['roofline']:.0f} %)"


def between_markers(page: Path, name: str, text: str) -> str:
    """The page with a text between the markers of a name. Raises `PspError` where they are missing."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = (page.read_text() if page.is_file() else "").partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise PspError(f"{page} has no {start} followed by {end}: put both where the numbers shall be")
    return f"{before}{start}\n{text}\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
