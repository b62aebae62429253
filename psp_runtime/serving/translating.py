"""POST /translate: a picture file in, a picture file out, with the options of `psp run` and `psp mix`."""

import io
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.engines.contract import Arrays, full_inputs
from psp_runtime.errors import PictureError, PspError
from psp_runtime.latents import layer_alpha
from psp_runtime.pictures import encoding, png
from psp_runtime.pictures.decoding import open_upload
from psp_runtime.pictures.loading import resize, scaled
from psp_runtime.pipeline import Pipeline
from psp_runtime.run.applications import TRIANGLE
from psp_runtime.run.inputs import PictureReader
from psp_runtime.run.plan import check_formats, make_tools
from psp_runtime.run.values import parse_layers
from psp_runtime.run.verbs import Mix, Translate
from psp_runtime.serving.bodies import Refused

#: Options of `psp run` that are parameters, and those of `psp mix` that go with `mix=true`.
CHANGED = ("format", "quality", "compression", "size", "downsample", "mask", "sketch_from_photo", "iterations")
MIXED = ("seed", "psi", "layers", "alpha")
#: Formats of the answer, and their media types.
MEDIA = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
#: Characters of a parameter: layers such as 0,2,4 and so on need the most.
LONGEST_VALUE = 100
#: The largest `size` that strangers may ask for.
MOST_SIZE = 2048

_HINTS = get_type_hints(Mix, include_extras=True)
#: Values of options that have more on a command line.
_CHOICES = {"mask": (TRIANGLE,), "format": tuple(MEDIA)}
_SWITCH = {"true": True, "1": True, "false": False, "0": False}
_READ: dict[str, Callable[[str], Any]] = {
    "boolean": _SWITCH.__getitem__, "integer": int, "number": float, "string": str,
}  # fmt: skip
#: What is said of parameters that are less here than on a command line.
_WORDS = {"format": "Of the answer (png).", "mask": "Inpainting: hide the triangle the task was trained with."}


class Asked(NamedTuple):
    """What a request asks for, checked."""

    options: Translate | Mix
    read: PictureReader


@cache
def parameters() -> dict[str, dict[str, Any]]:
    """Describe each parameter of POST /translate as OpenAPI does: with the options' own types, ranges and words."""
    words = "Mix in a random style, as psp mix does: seed, psi, layers and alpha go with it."
    mix = {"type": "boolean", "description": words}
    return {name: _described(name) for name in CHANGED} | {"mix": mix} | {name: _described(name) for name in MIXED}


def _described(name: str) -> dict[str, Any]:
    kind, option = _kind(name), _HINTS[name].__metadata__[0]
    facts: dict[str, Any] = {"description": _WORDS.get(name, option.help)}
    if choices := _CHOICES.get(name, get_args(kind)):
        return facts | {"type": "string", "enum": list(choices)}
    facts["type"] = {int: "integer", float: "number", bool: "boolean"}.get(kind, "string")
    bounds = {"minimum": option.min, "maximum": MOST_SIZE if name == "size" else option.max}
    return facts | {key: value for key, value in bounds.items() if value is not None}


def _kind(name: str) -> Any:
    """Find the type of an option that may be None."""
    hint = get_args(_HINTS[name])[0]
    return get_args(hint)[0] if type(None) in get_args(hint) else hint


def read_query(pairs: Iterable[tuple[str, str]], pipeline: Pipeline) -> Asked:
    """Read the options of a query string, for an engine. Raises `PspError` for what the verbs would refuse too."""
    given: dict[str, Any] = {}
    for name, text in pairs:
        if name not in parameters() or name in given:
            raise Refused(400, f"{name[:40]}: expected each once, of {', '.join(parameters())}")
        given[name] = _value(name, text)
    mix = given.pop("mix", False)
    if not mix and (alone := set(given) & set(MIXED)):
        raise Refused(400, f"{min(alone)} goes with mix=true, which is not given")
    verb: Any = Mix if mix else Translate
    options = verb(engine=pipeline.session.path, **({"count": 1} if mix else {}), **given)
    check_formats(options, {f".{options.format or 'png'}"})
    return Asked(options, make_tools(options, pipeline.info)[0])


def _value(name: str, text: str) -> Any:
    """Read a parameter's text as its option's type, within its range."""
    facts = parameters()[name]
    try:
        value = _READ[facts["type"]](text)
        least, most = (facts.get(key, value) for key in ("minimum", "maximum"))
        fits = value in facts["enum"] if "enum" in facts else least <= value <= most  # nan does not
    except (KeyError, ValueError):
        fits = False
    if not fits or len(text) > LONGEST_VALUE:
        raise Refused(400, f"{name} {text[:40]}: expected {expected(facts)}")
    return value


def expected(facts: dict[str, Any]) -> str:
    """Name the values of a parameter, for people."""
    if "enum" in facts:
        return " or ".join(facts["enum"])
    bounds = [str(facts[key]) for key in ("minimum", "maximum") if key in facts]
    return " ".join([facts["type"], " to ".join(bounds)]).strip()


def prepare(asked: Asked, pipeline: Pipeline, data: bytearray) -> Arrays:
    """Make all inputs [1,...] of the engine from the bytes of a picture file. Raises `PictureError` and `PspError`."""
    options = asked.options
    pixels = asked.read(_opened(data, pipeline.info.input == "labels")).sources
    steps = None if options.iterations is None else np.full((1, 1), options.iterations, np.int32)
    if not isinstance(options, Mix):
        return full_inputs(pipeline.info, pixels, iterations=steps)
    layers = None if options.layers is None else parse_layers(options.layers, pipeline.info.styles)
    alpha = layer_alpha(pipeline.info, layers, options.alpha)
    return full_inputs(pipeline.info, pixels, pipeline.styles(1, options.seed, options.psi), alpha[None], steps)


def _opened(data: bytearray, exact: bool) -> Image.Image:
    try:
        return open_upload(io.BytesIO(data), "the picture", exact)
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError("cannot read the picture: it is too large, scale it down") from None
    except Exception:  # on damaged bytes, decoders raise whatever they stumble over
        raise PictureError("cannot read the picture: it is damaged from its first bytes") from None


def encode(asked: Asked, pixels: NDArray[np.uint8]) -> tuple[bytes, str]:
    """Encode the answer [H,W,3] as a file; also give its media type."""
    options, form = asked.options, asked.options.format or "png"
    if options.size:
        pixels = resize(pixels, options.size, scaled(pixels.shape, options.size))
    quality = encoding.QUALITY if options.quality is None else options.quality
    level = png.QUICKEST if options.compression is None else options.compression
    return bytes(encoding.to_bytes(pixels, encoding.FORMATS[f".{form}"], "", quality, level)), MEDIA[form]


def worded(error: PspError, pipeline: Pipeline) -> str:
    """Say what is wrong, for a stranger: where the engine lies is nobody's business."""
    return str(error).replace(f"{pipeline.session.path.parent}/", "")
