"""The latency tables of the README, from the results in benchmarks/results.

    python benchmarks/table.py [--readme README.md] [--results benchmarks/results]

For every kind of machine, the newest result of the published model (`latency.py --json benchmarks/results`) becomes one
table between the markers `<!-- latency -->` and `<!-- /latency -->`, with notes below where networks of others were
measured; the rest of the file stays as it is. Numbers are only ever copied from results, never typed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from measure.backends import OURS
from measure.report import HEADLINE, NO_ENGINE, ROWS, PaperRow, clock, gflop, has_all_rows

from psp_runtime.disk import replacing
from psp_runtime.errors import PspError

ROOT = Path(__file__).parent.parent
#: What the other networks' cells are.
HOW = (
    'They run as torch exports them, constants folded, in the columns "baseline"; in brackets: how many times as fast '
    "as pSp on the same backend, our engine where there is one. Their seconds on a P40 are not compared with."
)
START, END = "<!-- latency -->", "<!-- /latency -->"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    try:
        results = published(read_results(options.results))
        if not results:
            raise PspError(f"no result of the published model in {options.results}: make bench writes one")
        update(options.readme, "\n\n".join([*(table(result) for result in results), *notes(results)]))
    except PspError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


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
    """The newest result of each kind of machine for the published model at 1024, batch 1, of all rows."""
    wanted = {"size": 1024, "batch": 1, "small": False}
    whole = filter(has_all_rows, results)
    newest = {result["machine"]["kind"]: result for result in whole if result["workload"] == wanted}
    return list(newest.values())


def table(result: dict) -> str:
    """One Markdown table: rows of the paper, a column for each side, what it ran on below."""
    in_order = sorted(result["rows"], key=lambda entry: entry["row"] != HEADLINE)
    sides = {entry["side"]: entry["ours"] for entry in in_order}
    names = [side.replace(OURS, "this toolkit") for side in sides]
    header = ["seconds per picture", "paper, Tesla P40", "work, GFLOP", *names]
    lines = [_row(header), _row(["---"] + ["---:"] * (len(header) - 1))]
    for row in ROWS:
        entries = {entry["side"]: entry for entry in result["rows"] if entry["row"] == row.name}
        work = gflop(result, row).removesuffix(" GFLOP") or "—"
        cells = ["no engine" if row.peer and sides[side] and entries else _cell(entries.get(side)) for side in sides]
        lines.append(_row([row.name, f"{row.paper} s", work, *cells]))
    return "\n".join([*lines, "", _caption(result)])


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
        f"*{where}. Median of warm runs at 1024², batch 1, uint8 array to uint8 array. In brackets: times eager "
        f"PyTorch, and the share of the speed limit measured in the same run. `{result['command']}`*"
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


def update(readme: Path, tables: str) -> None:
    """Put the tables between the markers. Raises `PspError` where they are missing."""
    text = readme.read_text() if readme.is_file() else ""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise PspError(f"{readme} has no {START} followed by {END}: put both where the tables shall be")
    with replacing(readme) as file:
        file.write(f"{before}{START}\n{tables}\n{END}{after}".encode())


if __name__ == "__main__":
    sys.exit(main())
