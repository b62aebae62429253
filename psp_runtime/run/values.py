"""How the values of some options are written: layers, strengths, classes."""

import math
import re

from psp_runtime.alignment.photos import Choice
from psp_runtime.errors import PspError

#: Pictures made of one input at most: they are in memory together.
MOST = 1000


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """Zero-based layers such as 8-13, 4,6,8-9, or 8- for all from there on, of an engine with `count` of them."""
    layers: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            start, end = int(first), int(last or (count - 1 if dash else first))
            if not 0 <= start <= end < count:
                raise ValueError
            layers.update(range(start, end + 1))
    except ValueError:
        raise PspError(
            f"--layers {text}: expected layers such as 8-{count - 1}, 4,6,8-9 or 8-, this engine has 0..{count - 1}"
        ) from None
    return tuple(sorted(layers))


def parse_strengths(text: str) -> tuple[float, ...]:
    """Read one strength, several with commas, or FROM:TO:STEPS."""
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        first, last, count = text.split(":")
        start, end, steps = float(first), float(last), int(count)
        if not (2 <= steps <= MOST and math.isfinite(start) and math.isfinite(end)):
            raise ValueError
        return tuple(start + (end - start) * index / (steps - 1) for index in range(steps))
    except ValueError:
        expected = f"a number, several as in -1,0,2, or FROM:TO:STEPS as in -3:3:7, 2 to {MOST} steps"
        raise PspError(f"--strength {text}: expected {expected}") from None


def parse_classes(text: str, classes: int) -> dict[int, int]:
    """Class ids OLD=NEW, several with commas."""
    swapped: dict[int, int] = {}
    try:
        for part in text.split(","):
            old, new = map(int, part.split("="))
            if swapped.setdefault(old, new) != new:
                raise ValueError
    except ValueError:
        raise PspError(f"--classes {text}: expected class ids OLD=NEW, such as 13=0 or 4=5,5=4, each once") from None
    for label in (*swapped, *swapped.values()):
        if not 0 <= label < classes:
            raise PspError(f"--classes {text}: there is no class {label}, this engine knows 0..{classes - 1}")
    return swapped


def parse_faces(text: str) -> Choice:
    """Read which faces of a photo: largest, all, a number of them, or one by its size as in 2nd."""
    if text in ("largest", "all"):
        return Choice(0, 1 if text == "largest" else None)
    match = re.fullmatch(r"([1-9]\d{0,3})(st|nd|rd|th)?", text)
    if not match:
        raise PspError(f"--faces {text}: expected largest, all, a number of the largest ones, or one of them as in 2nd")
    number = int(match[1])
    return Choice(number - 1 if match[2] else 0, number)
