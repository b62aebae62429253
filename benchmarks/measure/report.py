"""From measured pieces to the rows of the paper's runtime column, and the tables and charts of them.

A result is what `latency.py` writes as JSON: `pieces` has the times of every piece on every side, `rows` one entry for
each row of the paper and side, with the ratios. Ratios are of medians of the same run: above 1 is faster.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from measure.backends import BASELINE, OURS, Side
from measure.roofline import Limits, Work
from measure.workloads import FULL, GENERATOR, Piece, Workload

#: Times of a piece: side name -> `timing.Times.summary`, and what the side computes in and how near it comes.
Pieces = dict[Piece, dict[str, dict[str, float | str]]]


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's runtime column: seconds per picture on a Tesla P40, and the pieces that are its like here.

    `note` says what is timed, or how the paper's number was. A peer, a network of others, gets no ratio to it.
    """

    name: str
    paper: float
    pieces: tuple[Piece, ...]
    note: str = ""

    @property
    def peer(self) -> bool:
        """Whether there is no engine of ours for it."""
        return any(piece.peer for piece in self.pieces)


ALAE_NOTE = (
    "published at 1024²; the paper's time is about five times what its arithmetic and memory need on a P40, and how it "
    "was timed is not published"
)
IDINVERT_NOTE = "published at 256², a sixteenth of the pixels of 1024²; encoder and generator alone"
ROTATE_NOTE = (
    "published at 256²; the generator alone; the paper's time has a face detector, landmarks, a 3D fit and three "
    "renderings too"
)
INVERSION_NOTE = "the released timing does not wait for the GPU"
ROWS = (
    PaperRow("ALAE", 0.207, (Piece("alae", "full"),), ALAE_NOTE),
    PaperRow("IDInvert", 0.032, (Piece("idinvert", "full"),), IDINVERT_NOTE),
    PaperRow("W encoder", 0.064, (Piece("w", "encoder"), GENERATOR), "encoder + the shared generator"),
    PaperRow("naive W+", 0.064, (Piece("naive_wplus", "encoder"), GENERATOR), "encoder + the shared generator"),
    PaperRow("pSp inversion", 0.105, (FULL,), INVERSION_NOTE),
    PaperRow("Rotate-and-Render", 1.5, (Piece("rotatespade", "generator"),), ROTATE_NOTE),
    PaperRow("pSp frontalization", 0.1, (FULL,), "the same architecture: timing of pSp inversion"),
)
HEADLINE = "pSp inversion"
#: The rows of networks that this toolkit has.
OUR_ROWS = tuple(row.name for row in ROWS if not row.peer)

NO_ENGINE = "ALAE, IDInvert and Rotate-and-Render are other networks: this toolkit has no engine for them"
#: Ratios of an entry, and what tables call them.
RATIOS = {
    "x_paper": "x paper",
    "x_torch_baseline": "x eager",
    "x_onnxruntime_baseline": "x ONNX",
    "x_openvino_baseline": "x OpenVINO",
    "x_psp": "x pSp",
    "roofline": "of floor",
}


def has_all_rows(result: dict) -> bool:
    """Tell whether a result of latency.py was asked for all rows, not for some with --row."""
    return "--row" not in result.get("command", "")


def pieces_of(names: Collection[str]) -> list[Piece]:
    """Every piece that some rows need, once: the generator is the same under every encoder."""
    return list(dict.fromkeys(piece for row in ROWS if row.name in names for piece in row.pieces))


def piece_name(piece: Piece) -> str:
    """What results call a piece: "psp full", "w encoder"."""
    return f"{piece.kind} {piece.part}"


def rows(
    sides: list[Side], pieces: Pieces, work: dict[Piece, Work], limits: dict[str, Limits], workload: Workload
) -> list[dict]:
    """One entry for every row of the paper and every side that ran all its pieces, ratios included."""
    found = []
    ran = {row: _times(pieces, row, sides) for row in ROWS if set(row.pieces) <= pieces.keys()}
    psp = next((times for row, times in ran.items() if row.name == HEADLINE), {})
    for row, times in ran.items():
        needed = sum((work[piece] for piece in row.pieces[1:]), work[row.pieces[0]])
        for side, values in times.items():
            floor = limits[side.precision].floor(needed, workload.batch, side.precision)
            bases = _bases_of_peer(side, psp) if row.peer else _bases(row, times, workload)
            found.append(
                {"row": row.name, "side": side.name, "ours": side.form == OURS, "precision": side.precision}
                | {"seconds": values}
                | _facts(pieces[row.pieces[0]][side.name] if len(row.pieces) == 1 else {})
                | {name: _ratio(base, values["median"]) for name, base in bases.items()}
                | {"roofline": round(floor / values["median"], 4)}
            )
    return found


def _facts(piece: dict[str, float | str]) -> dict[str, float | str]:
    """What the side of a row with one piece computes in, and the PSNR of its picture to that of our first side."""
    return {name: piece[name] for name in ("computed", "psnr") if name in piece}


#: From exact to fast.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def precision(entry: dict) -> str:
    """What a side of a result computes in; results of before November 29, 2026 have it in the side's name alone."""
    named = (name for name in ("fp16", "bf16") if entry["side"].endswith(f", {name.upper()}"))
    return entry.get("precision") or next(named, "fp32")


def _times(pieces: Pieces, row: PaperRow, sides: list[Side]) -> dict[Side, dict[str, float]]:
    """The times of a row on every side that ran all its pieces, their sums. That of p95 is an upper bound."""
    found = {}
    for side in sides:
        parts = [pieces[piece].get(side.name) for piece in row.pieces]
        if all(parts):
            names = [name for name in ("median", "p95", "device") if all(name in part for part in parts)]
            found[side] = {name: round(sum(part[name] for part in parts), 6) for name in names}
    return found


def _bases(row: PaperRow, times: dict[Side, dict[str, float]], workload: Workload) -> dict[str, float]:
    """What is compared with: the paper, and the baseline in FP32 on each backend that ran it."""
    exact = {
        side.backend: t["median"] for side, t in times.items() if (side.form, side.precision) == (BASELINE, "fp32")
    }
    baselines = {f"x_{backend}_baseline": median for backend, median in exact.items()}
    return {"x_paper": row.paper * workload.batch} | baselines


def _bases_of_peer(side: Side, psp: dict[Side, dict[str, float]]) -> dict[str, float]:
    """pSp on the same backend in the same run: our engine, or in eager torch the baseline."""
    alike = [one for one in psp if (one.backend, one.precision) == (side.backend, side.precision)]
    return {"x_psp": psp[max(alike, key=lambda one: one.form == OURS)]["median"]} if alike else {}


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
    yield f"{'':50}{'median':>10}{'p95':>10}{'device':>10}" + "".join(f"{words:>12}" for words in ratios.values())
    for row in ROWS:
        words = "; ".join(filter(None, [gflop(result, row), row.note]))
        yield f"{row.name}: {row.paper} s in the paper" + (f" ({words})" if words else "")
        yield from (_line(entry, list(ratios)) for entry in result["rows"] if entry["row"] == row.name)
    yield f"{NO_ENGINE}; x pSp is pSp's time on the same backend over theirs"
    yield "alone:"
    for piece, times in result["pieces"].items():
        yield f"  {piece}: " + "; ".join(f"{side} {clock(t['median'])}" for side, t in times.items())
    for reason, what in result["notes"].items():
        yield f"not measured: {'; '.join(what)} ({reason})"


def gflop(result: dict, row: PaperRow) -> str:
    """The work of a row for one picture, such as "296 GFLOP"; empty where the run did not count all its pieces."""
    parts = [result["gflop"].get(piece_name(piece)) for piece in row.pieces]
    return f"{sum(parts):.3g} GFLOP" if all(parts) else ""


def _line(entry: dict, ratios: list[str]) -> str:
    seconds = entry["seconds"]
    times = "".join(f"{clock(seconds[name]) if name in seconds else '':>10}" for name in ("median", "p95", "device"))
    words = "".join(f"{f'{entry[ratio]:.2f}x' if ratio in entry else '':>12}" for ratio in ratios)
    return f"  {entry['side']:48}{times}{words}{_how(entry)}".rstrip()


def _how(entry: dict) -> str:
    """What a side that is not FP32 really computes in, and how near it comes to our first side."""
    if precision(entry) == "fp32" or "computed" not in entry:
        return ""
    return f"  computes in {entry['computed']}" + (f", {entry['psnr']:.1f} dB" if "psnr" in entry else "")


def clock(seconds: float) -> str:
    """Seconds, or milliseconds below a tenth."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.2f} ms"


def _versions(machine: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
