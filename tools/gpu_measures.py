"""What `gpu_check.py` measures of an engine: agreement with the reference, milliseconds, pictures per second."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

WARM, RUNS, STREAMED = 10, 50, 20
BATCHES = (1, 16)
Result = dict[str, Any]
Inputs = dict[str, np.ndarray]
#: Inputs of a batch, and the pictures PyTorch FP32 makes of them.
Cases = list[tuple[Inputs, np.ndarray]]


def measure(open_session: Callable[[], Any], cases: Cases) -> Result:
    """Parity and times of an engine."""
    start = time.perf_counter()
    session = open_session()
    result: Result = {"open_s": seconds_since(start)}
    start = time.perf_counter()
    session.run(repeated(cases, 1))
    result["first_run_s"] = seconds_since(start)
    # Three times: set up, recorded, replayed.
    outputs = [(session.run(inputs)["output"], expected) for inputs, expected in 3 * cases]
    result["psnr"] = min(worst_psnr(output, expected) for output, expected in outputs)
    for batch in (batch for batch in BATCHES if batch <= session.max_batch):
        result[f"batch_{batch}"] = timed(session, repeated(cases, batch))
    session.close()
    return result


def timed(session: Any, inputs: Inputs) -> Result:
    """Milliseconds of one run, host to host and on the device, and pictures per second of many."""
    host, device = [], []
    for _ in range(WARM + RUNS):
        start = time.perf_counter()
        session.run(inputs)
        host.append(1e3 * (time.perf_counter() - start))
        device.append(getattr(session, "last_ms", 0.0))
    result = {"host": quartiles(host[WARM:])} | ({"device": quartiles(device[WARM:])} if any(device) else {})
    many = session.run_many if hasattr(session, "run_many") else partial(map, session.run)
    for _ in many([inputs] * WARM):  # a plan sets up its second stream only now
        pass
    start = time.perf_counter()
    for _ in many([inputs] * STREAMED):
        pass
    return result | {"pictures_per_s": round(STREAMED * len(inputs["image"]) / (time.perf_counter() - start), 1)}


def quartiles(times: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return [round(value, 3) for value in statistics.quantiles(times, n=4)]


def worst_psnr(output: np.ndarray, expected: np.ndarray) -> float:
    """Of the worst picture, in dB; 99 for no difference at all."""
    mse = np.square(output.astype(np.float64) - expected).mean((1, 2, 3)).max()
    return round(min(99.0, float(10 * np.log10(255**2 / max(mse, 1e-9)))), 2)


def repeated(cases: list, batch: int) -> Inputs:
    """The first picture of the first case, `batch` times."""
    return {name: np.repeat(array[:1], batch, axis=0) for name, array in cases[0][0].items()}


def save_cases(folder: Path, cases: Cases) -> None:
    """Inputs and expected pictures beside the engine files."""
    arrays = {f"{i}.{name}": array for i, (inputs, _) in enumerate(cases) for name, array in inputs.items()}
    np.savez(folder / "cases.npz", **arrays, **{f"{i}.expected": expected for i, (_, expected) in enumerate(cases)})


def load_cases(folder: Path) -> Cases:
    """What `save_cases` saved."""
    with np.load(folder / "cases.npz") as file:
        found: dict[str, Inputs] = {}
        for key in file.files:
            number, name = key.split(".")
            found.setdefault(number, {})[name] = file[key]
    return [(inputs, inputs.pop("expected")) for inputs in found.values()]


def seconds_since(start: float) -> float:
    """Elapsed, rounded for a table."""
    return round(time.perf_counter() - start, 2)
