"""What a visitor of the page can choose, as the options of a verb of `psp`, and the command that says the same."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from psp_runtime.alignment.pasting import MASKS
from psp_runtime.console import Device
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.precision import Precision
from psp_runtime.errors import PspError
from psp_runtime.pictures.label_classes import IDS
from psp_runtime.run.applications import TRIANGLE
from psp_runtime.run.options import Options, flag
from psp_runtime.run.verbs import Edit, Mix, Morph, Swap, Transfer, Translate, Verb


class Make(NamedTuple):
    """What can be made of a picture: the verb of `psp`, the options of it that the page has, and what it is."""

    verb: type[Verb]
    options: tuple[str, ...]
    words: str


MAKES = {
    "Translate": Make(Translate, (), "The one face that the model makes of the picture."),
    "Variations": Make(
        Mix, ("count", "seed", "psi", "layers", "alpha"), "Several faces of one picture: random styles are mixed in."
    ),
    "Interpolate": Make(Morph, ("to", "steps", "gif"), "The pictures on the way to another picture."),
    "Style transfer": Make(
        Transfer, ("style_of", "layers", "alpha"), "The shape of this picture with the colours of another one."
    ),
    "Edit": Make(
        Edit, ("direction", "component", "strength", "gif"), "The same face with more and less of a property."
    ),
    "Label swap": Make(Swap, ("classes",), "The face before and after one class of its label map is another."),
}
#: Options that change the input; a page has that of its engine's task.
CHANGES = ("downsample", "mask")
#: Options of whole photos, which mean nothing without the first of them.
PHOTOS = ("align", "faces", "paste_back")
#: That of an engine which makes its pictures in steps, whatever is made.
STEPS = ("iterations",)
#: Values of the page, where sliders give any kind of number, as the verbs have them.
_AS: dict[str, Callable[[Any], Any]] = {
    "count": int, "seed": int, "steps": int, "iterations": int, "downsample": int, "psi": float, "alpha": float,
    "layers": str, "to": Path, "style_of": Path, "mask": lambda _: TRIANGLE, "direction": Path, "component": str,
    "strength": str, "classes": str, "gif": Path, "align": bool, "faces": str, "paste_back": lambda _: MASKS[0],
}  # fmt: skip


def makes_of(info: EngineInfo) -> list[str]:
    """List what can be made with an engine: label swap needs label maps."""
    return [name for name, make in MAKES.items() if make.verb is not Swap or info.input == "labels"]


def obstacle(values: Mapping[str, Any]) -> str:
    """Say what is still missing for what `make` says, in words; empty when all is there."""
    make = values["make"]
    others = [name for name in ("to", "style_of") if name in MAKES[make].options]
    if not all(values.get(name) for name in ("picture", *others)):
        return f"{make}: give {'both pictures' if others else 'a picture'} first"
    if make == "Edit" and not values.get("direction"):
        return "Edit: choose a direction, or give a file of your own"
    return ""


def with_spelled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Put the values of several sliders and lists of the page together, as the options of the verbs have them."""
    spelled = dict(values)
    if values.get("reach"):
        spelled["strength"] = f"{-values['reach']:g}:{values['reach']:g}:{int(values['steps'])}"
    if values.get("replaced") and values.get("by"):
        spelled["classes"] = f"{IDS[values['replaced']]}={IDS[values['by']]}"
    if values.get("animate") and values.get("picture"):
        spelled["gif"] = Path(values["picture"]).with_suffix(".gif").name
    return spelled


def as_options(engine: Path, values: Mapping[str, Any], device: Device = "auto", precision: Precision = "auto") -> Verb:
    """Make the options of a verb for the values of a page: `picture` (a file, or several), `make` of MAKES, and theirs.

    Raises `PspError` where a picture is missing.
    """
    if missing := obstacle(values):
        raise PspError(missing)
    make, picture = MAKES[values["make"]], values["picture"]
    photo = PHOTOS if values.get("align") and make.verb is not Swap else ()
    names = (*CHANGES, *STEPS, *photo, *make.options)
    given = {name: values[name] for name in names if values.get(name) not in (None, "")}
    chosen: dict[str, Any] = {name: _AS[name](value) for name, value in given.items() if value is not False}
    if "gif" in chosen:
        chosen["out"] = "."  # else there is nothing but the animation
    inputs = [str(one) for one in (picture if isinstance(picture, list) else [picture])]
    return make.verb(inputs=inputs, engine=engine, device=device, precision=precision, **chosen)


def command(options: Verb) -> str:
    """Spell the command line of these options, in the folder where the pictures are."""
    words = ["psp", options.verb, *(Path(name).name for name in options.inputs), "--engine", str(options.engine)]
    for field in sorted(fields(options), key=lambda one: one.name in Options.__dataclass_fields__):  # its own first
        value = getattr(options, field.name)
        if field.name not in ("inputs", "engine") and value != field.default:
            words.append(flag(field.name))
            if value is not True:
                words.append(value.name if isinstance(value, Path) else str(value))
    return shlex.join(words)
