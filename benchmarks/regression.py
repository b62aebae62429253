"""Has anything become slower? The ratios of a run against those of the last stored one.

    python benchmarks/regression.py                   # measures first: latency.py
    python benchmarks/regression.py RESULT.json       # a result that is already there

Compared are ratios, never seconds: how much faster our engines are than the baseline in the same run (eager
torch, ONNX Runtime), and their share of the roofline measured in the same run. A slower or busier machine changes
seconds, and hits both sides of a ratio, if not alike: between a busy and an idle machine (2 cores, 1024) the ratios to
eager torch were seen to differ by 35 %, those to ONNX Runtime by 8, the shares of the roofline by 12. So compare idle
machines. The stored result is the newest in benchmarks/results of the same kind of machine (device, model of the CPU,
cores, threads) and workload. A ratio is worse when it fell by more than --tolerance, as a share of the stored one.

Exit code 1 when something got worse, 2 when there is nothing to compare with. The last line is JSON.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import latency
from measure.report import OUR_ROWS, has_all_rows
from table import ROOT, read_results

from psp_runtime.errors import PspError

TOLERANCE = 0.12
#: Ratios of a row, all of them the higher the better.
RATIOS = ("x_torch_baseline", "x_onnxruntime_baseline", "roofline")


class Change(NamedTuple):
    """One ratio of one side of a row, then and now."""

    row: str
    side: str
    ratio: str
    before: float
    after: float

    @property
    def share(self) -> float:
        """By how much it changed: -0.1 is a tenth worse."""
        return self.after / self.before - 1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("result", nargs="?", type=Path, help="JSON of latency.py; without it, it is run now")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    options = parser.parse_args(arguments)
    try:
        stored = read_results(options.results)
        result = read(options.result) if options.result else measure(stored)
        changes = compare(result, last_of_its_kind(result, stored))
    except (PspError, latency.DifferentPicture) as error:
        print(error, file=sys.stderr)
        return 2
    worse = [change for change in changes if change.share < -options.tolerance]
    show(changes, worse, options.tolerance)
    print(json.dumps({"benchmark": "regression", "compared": len(changes), "worse": [c._asdict() for c in worse]}))
    return 1 if worse else 0


def read(path: Path) -> dict:
    """A result file. Raises `PspError` for one that cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PspError(f"{path} cannot be read ({error}): expected the JSON of latency.py") from None


def measure(stored: list[dict]) -> dict:
    """`latency.py` on the rows of our networks.

    Raises `PspError` at once, not after minutes, where nothing stored compares.
    """
    options = latency.parse([word for row in OUR_ROWS for word in ("--row", row)])
    last_of_its_kind(latency.conditions(options), stored)
    return latency.run(options)


def last_of_its_kind(result: dict, stored: list[dict]) -> dict:
    """The newest stored result that can be compared. Raises `PspError` where there is none."""

    def kind(one: dict) -> tuple[str, dict]:
        return one["machine"]["kind"], one["workload"]

    alike = [one for one in filter(has_all_rows, stored) if kind(one) == kind(result) and one["date"] < result["date"]]
    if not alike:
        raise PspError(
            f"no stored result of {result['machine']['kind']} for {result['workload']}: make bench writes the first one"
        )
    return alike[-1]


def compare(after: dict, before: dict) -> list[Change]:
    """Every ratio of our engines that both results have."""
    entries = {(entry["row"], entry["side"]): entry for entry in before["rows"]}
    return [
        Change(new["row"], new["side"], ratio, old[ratio], new[ratio])
        for new in after["rows"]
        if new["ours"] and (old := entries.get((new["row"], new["side"])))
        for ratio in RATIOS
        if ratio in new and ratio in old
    ]


def show(changes: list[Change], worse: list[Change], tolerance: float) -> None:
    """All changes, then what got worse."""
    print(f"{'':54}{'before':>9}{'now':>9}{'change':>9}")
    for change in changes:
        words = f"{change.row}, {change.side}: {change.ratio}"
        print(f"{words:54.54}{change.before:9.3f}{change.after:9.3f}{100 * change.share:+8.1f}%")
    print(f"{len(worse)} of {len(changes)} ratios fell by more than {100 * tolerance:.0f} %" + (":" if worse else ""))
    for change in worse:
        print(f"  {change.row}, {change.side}: {change.ratio} {change.before:.3f} -> {change.after:.3f}")


if __name__ == "__main__":
    sys.exit(main())
