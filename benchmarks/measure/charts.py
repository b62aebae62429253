"""Charts of results: bars of `latency.py`, in seconds and in multiples of eager torch, lines of `scaling.py`."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from measure import report
from measure.backends import BASELINE, OURS
from psp_runtime.disk import replacing
from psp_runtime.errors import PspError

INK, FAINT, GREY, ACCENT, PAPER = "#1d2733", "#5b6673", "#b4bcc6", "#0b6fd3", "#d1495b"
FORMATS = ("png", "svg", "pdf")
#: Bars that differ more than this need a logarithmic axis to be seen.
LOG_BEYOND = 20
#: Lines of time, by precision.
LINES = {"fp32": "o-", "fp16": "^-", "bf16": "D-", "int8": "v-"}
#: Between two precisions, in bars.
GAP = 0.5


def latency(result: dict, path: Path) -> None:
    """Bars of the pSp row, one for each side, slowest first, with the paper's number as a line.

    Below them, where they were measured, bars of the networks of others, without the paper's number.

    Raises `PspError` when no side ran it, and for a picture format it does not know.
    """
    entries = headline(result)[::-1]
    if not entries:
        raise PspError("no side ran the pSp row: there is nothing to draw")
    others = [entry for entry in result["rows"] if "x_psp" in entry]
    paper = next(row.paper for row in report.ROWS if row.name == report.HEADLINE)
    heights = [1.9 + 0.5 * len(entries)] + ([1.2 + 0.5 * len(others)] if others else [])
    figure = Figure(figsize=(10 if others else 9, sum(heights)), layout="constrained")
    axes, *below = figure.subplots(len(heights), squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    _bars(axes, [entry["side"] for entry in entries], entries)
    _paper_line(axes, paper)
    _scale(axes, [paper, *_ends(entries)])
    for panel in below:
        _others(panel, result, others)
    workload, machine = result["workload"], result["machine"]
    figure.suptitle(
        f"pSp at {workload['size']} × {workload['size']}, batch {workload['batch']}: seconds from picture to picture",
        x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK,
    )  # fmt: skip
    words = f"{machine['name']}, threads: {machine['threads']}, {result['date'][:10]}; × is against PyTorch eager"
    axes.set_title(words, loc="left", fontsize=9, color=FAINT, pad=22)
    _save(figure, path)


def _others(axes: Axes, result: dict, entries: list[dict]) -> None:
    """Bars of the networks of others in the order of the table, the first on top."""
    backends = [entry["side"].removesuffix(f", {BASELINE}") for entry in entries]
    names = [f"{entry['row']}, {backend}" for entry, backend in zip(entries, backends)]
    _bars(axes, names[::-1], entries[::-1])
    _scale(axes, _ends(entries))
    rows = [row for row in report.ROWS if row.peer and report.gflop(result, row)]
    work = ", ".join(f"{row.name} {report.gflop(result, row)}" for row in rows)
    words = f"Networks of others: {work}\n× is against pSp on the same backend, ours where there is one"
    axes.set_title(words, loc="left", fontsize=9, color=FAINT)


def _bars(axes: Axes, names: list[str], entries: list[dict]) -> None:
    medians = [entry["seconds"]["median"] for entry in entries]
    late = [entry["seconds"]["p95"] - entry["seconds"]["median"] for entry in entries]
    names = [spelled(name) for name in names]
    colours = [ACCENT if entry["ours"] else GREY for entry in entries]
    bars = axes.barh(names, medians, xerr=[[0.0] * len(late), late], color=colours, ecolor=FAINT, height=0.62)
    for bar, entry, extra in zip(bars, entries, late):
        seconds = entry["seconds"]["median"]
        speedup = entry.get("x_psp", entry.get("x_torch_baseline", 1))
        axes.annotate(
            report.clock(seconds) + (f"   {speedup:.1f}×" if speedup != 1 else ""),
            (seconds + extra, bar.get_y() + bar.get_height() / 2),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontweight="bold" if entry["ours"] else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},  # over the paper's line
        )


def _paper_line(axes: Axes, paper: float) -> None:
    axes.axvline(paper, color=PAPER, linewidth=1.4, linestyle=(0, (5, 3)), zorder=0)
    axes.annotate(
        f"paper, Tesla P40: {paper} s",
        (paper, 1),
        (0, 2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9,
        color=PAPER,
    )


def _ends(entries: list[dict]) -> list[float]:
    """Where bars end, and where their words begin: the late runs of some are far behind the median."""
    return [entry["seconds"][which] for entry in entries for which in ("median", "p95")]


def _scale(axes: Axes, seconds: list[float]) -> None:
    """Room for the words behind the bars; logarithmic where the bars differ too much."""
    if max(seconds) > LOG_BEYOND * min(seconds):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(min(seconds) / 2, max(seconds) * (max(seconds) / min(seconds)) ** 0.35)
    else:
        axes.set_xlim(0, 1.35 * max(seconds))
    logarithmic = axes.get_xscale() == "log"
    axes.set_xlabel("seconds (logarithmic)" if logarithmic else "seconds", color=INK)
    axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)


def relative(result: dict, path: Path) -> None:
    """Bars of how many times as fast as eager torch every side runs pSp: no seconds, no other machine.

    Precision after precision, in each the slowest first: from the baseline to this toolkit.
    Raises `PspError` when eager torch was not measured, and for a picture format it does not know.
    """
    groups = by_precision(result)
    if not groups:
        raise PspError("eager torch did not run the pSp row: there is nothing to compare with")
    entries = [entry for group in groups.values() for entry in group]
    figure = Figure(figsize=(9, 0.9 + 0.42 * len(entries) + 0.25 * (len(groups) - 1)), layout="constrained")
    axes = figure.subplots()
    gaps = [GAP * number for number, group in enumerate(groups.values()) for _ in group]
    places = [index + gap for index, gap in enumerate(gaps)]
    factors = [entry["x_torch_baseline"] for entry in entries]
    bars = axes.barh(places, factors, color=[ACCENT if entry["ours"] else GREY for entry in entries], height=0.66)
    axes.set_yticks(places, [spelled(entry["side"]) for entry in entries])
    axes.bar_label(bars, [times(entry) for entry in entries], padding=6, color=INK, fontweight="bold", fontsize=11)
    axes.set_xlim(0, 1.1 * max(factors))
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=11, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Speed of pSp on {place(result)}", loc="left", fontsize=13, fontweight="bold", color=INK)
    _save(figure, path)


def headline(result: dict) -> list[dict]:
    """The entries of the pSp row, slowest first."""
    entries = [entry for entry in result["rows"] if entry["row"] == report.HEADLINE]
    return sorted(entries, key=lambda entry: -entry["seconds"]["median"])


def by_precision(result: dict) -> dict[str, list[dict]]:
    """The entries of the pSp row that are compared with eager torch: precision -> entries, slowest first."""
    entries = [entry for entry in headline(result) if "x_torch_baseline" in entry]
    groups = {name: [one for one in entries if report.precision(one) == name] for name in report.PRECISIONS}
    return {name: group for name, group in groups.items() if group}


def spelled(side: str) -> str:
    """What readers call a side: "ONNX Runtime, this toolkit"."""
    return side.replace(f", {OURS}", ", this toolkit")


def times(entry: dict) -> str:
    """How many times as fast as eager torch a side is: "1×", "2.8×"."""
    return f"{entry['x_torch_baseline']:.2g}×"


def place(result: dict) -> str:
    """Where a result was measured: "the same 2 CPU cores", "the same GPU"."""
    machine = result["machine"]
    return f"the same {machine['threads']} CPU cores" if machine["device"] == "cpu" else "the same GPU"


def scaling(result: dict, path: Path) -> None:
    """Two panels: time and work against the size of the picture, and against the batch."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    by_size, by_batch = figure.subplots(1, 2)
    _time_and_work(by_size, result["sizes"], "size", "side of the picture in pixels")
    by_size.set_xscale("log", base=2)
    sizes = sorted({point["size"] for point in result["sizes"]})
    by_size.set_xticks(sizes, list(map(str, sizes)))
    by_size.set_title("generator, batch 1", loc="left", fontsize=11, color=INK)
    _time_and_work(by_batch, result["batches"], "batch", "pictures in a batch")
    by_batch.set_xticks([point["batch"] for point in result["batches"]])
    by_batch.set_title(f"whole model at {result['batch_size']} pixels", loc="left", fontsize=11, color=INK)
    figure.suptitle(
        f"Cost grows with the work: {result['engine']}, {result['machine']['name']}",
        x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK,
    )  # fmt: skip
    _save(figure, path)


def _time_and_work(axes: Axes, points: list[dict], key: str, label: str) -> None:
    """Milliseconds on the left, a line for each precision, and GFLOP on the right.

    They are scaled so that equal speed makes the lines of the first precision meet at the end.
    """
    groups = {name: [point for point in points if point.get("precision", "fp32") == name] for name in LINES}
    groups = {name: group for name, group in groups.items() if group}
    first = next(iter(groups.values()))
    x, last = [point[key] for point in first], first[-1]
    work = axes.twinx()
    lines = []
    for name, group in groups.items():
        label = "time" if len(groups) == 1 else f"time, {name.upper()}"
        lines += axes.plot(x, [point["ms"] for point in group], LINES[name], color=ACCENT, label=label)
    lines += work.plot(x, [point["gflop"] for point in first], "s--", color=FAINT, label="work")
    top = 1.12 * max(point["ms"] for point in points)
    axes.set_ylim(0, top)
    work.set_ylim(0, top * last["gflop"] / last["ms"])
    axes.set_xlabel(label, color=INK)
    axes.set_ylabel("milliseconds", color=ACCENT)
    work.set_ylabel("GFLOP (2 × multiply-accumulate)", color=FAINT)
    axes.legend(handles=lines, frameon=False, loc="upper left")
    for side in (axes, work):
        side.spines["top"].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise PspError(f"--plot {path}: expected a name that ends in one of {', '.join(FORMATS)}")
    with replacing(path) as file:
        figure.savefig(file, format=kind, dpi=150)
