"""What the fields of an engine's metadata may hold: they are checked where they are read, since anybody can write them.

The ranges are wider than anything `psp-export` writes, and narrow enough that no field alone can exhaust memory.
"""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from psp_runtime.tasks import MOST_ITERATIONS, InputKind

#: The parts of an engine by their names in the metadata.
PARTS = ("full", "step", "encoder", "generator", "mapping")
#: Those that take a picture and give one: the file that is named after the model alone.
WHOLE = ("full", "step")
#: Characters of all fields together, as JSON; TensorRT keeps 4095.
MOST_TEXT = 1 << 16


class Rule(NamedTuple):
    """Whether a value fits a field, and what is expected, in words."""

    fits: Callable[[Any], bool]
    expected: str


def _whole(least: int, most: int) -> Rule:
    return Rule(lambda value: _is_whole(value) and least <= value <= most, f"a whole number {least} to {most}")


def _text(longest: int) -> Rule:
    """Allow text as it may stand on a terminal: no line breaks, no control characters."""
    return Rule(
        lambda value: isinstance(value, str) and len(value) <= longest and value.isprintable(),
        f"up to {longest} printable characters",
    )


def _one_of(*words: str) -> Rule:
    return Rule(lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _is_parity(value: Any) -> bool:
    """Allow None, or a few named numbers; PSNR is infinite where pictures are equal."""
    if value is None:
        return True
    if not isinstance(value, dict) or len(value) > 16:
        return False
    return all(_NAME.fits(name) and _is_number(one) and not math.isnan(one) for name, one in value.items())


def _is_calibration(value: Any) -> bool:
    """Allow None, or what `EngineInfo.calibration` holds."""
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != {"pictures", "sha256"}:
        return False
    return _PICTURES.fits(value["pictures"]) and isinstance(value["sha256"], str) and bool(_SHA256(value["sha256"]))


def _are_layers(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_STYLES and all(map(_is_whole, value))


def _are_rows(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)) and 0 <= value[0] < value[1]


MOST_STYLES = 64
_NAME = _text(64)
_PICTURES = _whole(1, 1 << 30)
_SHA256 = re.compile("[0-9a-f]{64}").fullmatch

#: Every field of `EngineInfo`. Of two sizes that are multiplied, the product stays far below memory.
RULES: Mapping[str, Rule] = {
    "task": _NAME,
    "encoder": _NAME,
    "input": _one_of(*get_args(InputKind)),
    "input_size": _whole(1, 2048),
    "classes": _whole(0, 256),
    "output_size": _whole(1, 8192),
    "styles": _whole(1, MOST_STYLES),
    "style_dim": _whole(1, 16384),
    "mix_layers": Rule(_are_layers, f"a list of at most {MOST_STYLES} layers"),
    "mix_alpha": Rule(lambda value: _is_number(value) and 0 <= value <= 1, "a number 0 to 1"),
    "max_batch": _whole(1, 1024),
    "precision": _NAME,
    "backend": _NAME,
    "backend_version": _NAME,
    "checkpoint": _text(256),
    "license": _text(8192),
    "part": _one_of(*PARTS),
    "device": _text(256),
    "parity": Rule(_is_parity, "null or numbers by their names"),
    "custom_ops": Rule(lambda value: isinstance(value, bool), "true or false"),
    "crop_scale": Rule(lambda value: _is_number(value) and 0.2 <= value <= 5, "a number 0.2 to 5"),
    "input_height": _whole(1, 2048),
    "rows": Rule(_are_rows, "null or the first row and the one behind the last"),
    "iterations": _whole(0, MOST_ITERATIONS),
    "processor": _one_of("", "cpu", "gpu"),
    "calibration": Rule(_is_calibration, 'null or {"pictures": 1 or more, "sha256": 64 hexadecimal digits}'),
    "format": _whole(1, 1 << 30),
}


def check_fields(values: Mapping[str, Any]) -> None:
    """Raise `ValueError`, which says what is wrong, unless each value fits its field and they fit each other."""
    for name, value in values.items():
        if not RULES[name].fits(value):
            raise ValueError(f"{name} {reprlib.repr(value)}, expected {RULES[name].expected}")
    beyond = [layer for layer in values["mix_layers"] if not 0 <= layer < values["styles"]]
    if beyond or len(set(values["mix_layers"])) < len(values["mix_layers"]):
        raise ValueError(f"mix_layers {reprlib.repr(values['mix_layers'])}, expected some of 0..{values['styles'] - 1}")
    if values.get("rows") and values["rows"][1] > values["output_size"]:
        raise ValueError(f"rows {values['rows']}, expected some of the {values['output_size']} of the pictures")
    if values.get("part", "full") == "step" and not values.get("iterations"):
        raise ValueError("iterations 0, expected 1 or more in an engine of steps")
    if values["input"] == "labels" and not values["classes"]:
        raise ValueError("classes 0, expected 1 to 256 in an engine that takes label maps")
