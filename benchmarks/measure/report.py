"""From measured pieces to the rows of the paper's runtime column, and the tables and charts of them.

A result is what `latency.py` writes as JSON: `pieces` has the times of every piece on every side, `rows` one entry for
each row of the paper and side, with the ratios. Ratios are of medians of the same run: above 1 is faster.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from measure.backends import BASELINE, OURS, Side
from measure.roofline import Limits, Work
from measure.workloads import FULL, GENERATOR, Piece, Workload

#: Times of a piece: side name -> `timing.Times.summary`.
Pieces = dict[Piece, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's runtime column: seconds per picture on a Tesla P40, and the pieces that are its like here.

    Without pieces the architecture is not ours, and only the paper's number is shown. `note` says how it was timed.
    """

    name: str
    paper: float
    pieces: tuple[Piece, ...] = ()
    note: str = ""


ROWS = (
    PaperRow("ALAE", 0.207),
    PaperRow("IDInvert", 0.032),
    PaperRow("W encoder", 0.064, (Piece("w", "encoder"), GENERATOR), "encoder + the shared generator"),
    PaperRow("naive W+", 0.064, (Piece("naive_wplus", "encoder"), GENERATOR), "encoder + the shared generator"),
    PaperRow("pSp inversion", 0.105, (FULL,)),
    PaperRow("Rotate-and-Render", 1.5),
    PaperRow("pSp frontalization", 0.1, (FULL,), "the same architecture: timing of pSp inversion"),
)
#: Every piece that a row needs, once: the generator is the same under every encoder.
PIECES = tuple(dict.fromkeys(piece for row in ROWS for piece in row.pieces))
HEADLINE = "pSp inversion"
#: Ratios of an entry, and what tables call them.
RATIOS = {
    "x_paper": "x paper",
    "x_torch_baseline": "x eager",
    "x_onnxruntime_baseline": "x ONNX",
    "x_openvino_baseline": "x OpenVINO",
    "roofline": "of floor",
}


def piece_name(piece: Piece) -> str:
    """What results call a piece: "psp full", "w encoder"."""
    return f"{piece.kind} {piece.part}"


def rows(
    sides: list[Side], pieces: Pieces, work: dict[Piece, Work], limits: dict[str, Limits], workload: Workload
) -> list[dict]:
    """One entry for every row of the paper and every side that ran all its pieces, ratios included."""
    found = []
    for row in (row for row in ROWS if row.pieces and set(row.pieces) <= pieces.keys()):
        ran = {side: _times(pieces, row, side) for side in sides}
        times = {side: values for side, values in ran.items() if values}
        bases = _bases({side: values["median"] for side, values in times.items()})
        needed = sum((work[piece] for piece in row.pieces[1:]), work[row.pieces[0]])
        for side, values in times.items():
            floor = limits[side.precision].floor(needed, workload.batch, side.precision)
            found.append(
                {"row": row.name, "side": side.name, "ours": side.form == OURS, "seconds": values}
                | {"x_paper": _ratio(row.paper * workload.batch, values["median"])}
                | {name: _ratio(base, values["median"]) for name, base in bases.items()}
                | {"roofline": round(floor / values["median"], 4)}
            )
    return found


def _times(pieces: Pieces, row: PaperRow, side: Side) -> dict[str, float] | None:
    """The times of a row, summed over its pieces; None where one did not run. The sum of p95 is an upper bound."""
    parts = [pieces[piece].get(side.name) for piece in row.pieces]
    if not all(parts):
        return None
    names = [name for name in ("median", "p95", "device") if all(name in part for part in parts)]
    return {name: round(sum(part[name] for part in parts), 6) for name in names}


def _bases(medians: dict[Side, float]) -> dict[str, float]:
    """What is compared with: the baseline on each backend and peer that ran it."""
    return {f"x_{side.backend}_baseline": t for side, t in medians.items() if side.form == BASELINE}


def _ratio(base: float, seconds: float) -> float:
    return round(base / seconds, 4)


def show(result: dict) -> Iterator[str]:
    """The lines of the table."""
    machine, workload = result["machine"], result["workload"]
    yield f"{machine['name']}, threads: {machine['threads']}; {_versions(machine)}"
    limits = ", ".join(
        f"{name} {limit['gflops']:.0f} GFLOP/s, copy {limit['copy_gb']:.1f} GB/s"
        for name, limit in result["limits"].items()
    )
    yield f"{workload['size']} px, batch {workload['batch']}; measured limits: {limits}\n"
    ratios = {key: words for key, words in RATIOS.items() if any(key in entry for entry in result["rows"])}
    yield f"{'':34}{'median':>10}{'p95':>10}{'device':>10}" + "".join(f"{words:>12}" for words in ratios.values())
    for row in ROWS:
        yield f"{row.name}: {row.paper} s in the paper" + (f" ({row.note})" if row.note else "")
        yield from (_line(entry, list(ratios)) for entry in result["rows"] if entry["row"] == row.name)
    yield "alone:"
    for piece, times in result["pieces"].items():
        yield f"  {piece}: " + "; ".join(f"{side} {clock(t['median'])}" for side, t in times.items())
    for reason, what in result["notes"].items():
        yield f"not measured: {'; '.join(what)} ({reason})"


def _line(entry: dict, ratios: list[str]) -> str:
    seconds = entry["seconds"]
    times = "".join(f"{clock(seconds[name]) if name in seconds else '':>10}" for name in ("median", "p95", "device"))
    words = "".join(f"{f'{entry[ratio]:.2f}x' if ratio in entry else '':>12}" for ratio in ratios)
    return f"  {entry['side']:32}{times}{words}".rstrip()


def clock(seconds: float) -> str:
    """Seconds, or milliseconds below a tenth."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"


def _versions(machine: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
