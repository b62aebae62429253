"""What an engine says about itself, and how to read it without opening the engine.

The same compact JSON travels in both kinds of engine (docs/design.md, "Engine contract"): as `metadata_props["psp"]`
of an ONNX file, and as the network name `psp:{...}` of a TensorRT plan, where it is stored as plain text. Reading
it needs neither onnx, nor a GPU, nor loading a gigabyte of weights.
"""

import json
import mmap
import reprlib
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from psp_runtime.engines.fields import MOST_TEXT, check_fields
from psp_runtime.engines.protobuf import entry, walk
from psp_runtime.errors import EngineError
from psp_runtime.tasks import INPUT_SIZE, InputKind

FORMAT = 1
ONNX_KEY = "psp"
PLAN_PREFIX = "psp:"
#: TensorRT drops a longer network name with a log line only.
PLAN_NAME_LIMIT = 4095

# Field number in ModelProto (onnx.proto).
_METADATA_PROPS = 14


@dataclass(frozen=True)
class EngineInfo:
    """The facts an engine carries.

    `part` is "full" for picture in, picture out, "step" for a step of ReStyle, which a run repeats `iterations` times
    unless told otherwise; "encoder", "generator" and "mapping" are the pieces of them. Pictures that go in are
    `input_size` wide and `input_height` high; the generator's are squares of `output_size`, of which `rows` (first, and
    the one behind the last) are kept, all of them with None.
    `parity` holds the measured agreement with the PyTorch FP32 reference: {"psnr": dB on uint8, "max": levels},
    with "headroom" (65504 over the largest FP16 value) where there is one; {"relative_error": of w} for the mapping
    network; or None when the export was not verified. A plan's name is fixed before it is built, so a plan carries
    the parity of the ONNX file it came from. `custom_ops`: an ONNX file has nodes of our domain (with their definition
    in standard ops), a plan needs our plugins. `crop_scale` is how wide its inputs are framed: the side of their square
    against that of FFHQ. `precision` is "fp32", "fp16" or "int8". An INT8 engine is laid out for one `processor`, "cpu"
    or "gpu" (others have ""); its `calibration` says on how many pictures its scales were measured, and the SHA-256 of
    these: {"pictures": count, "sha256": of their bytes}.
    """

    task: str
    encoder: str
    input: InputKind
    input_size: int
    classes: int
    output_size: int
    styles: int
    style_dim: int
    mix_layers: tuple[int, ...]
    mix_alpha: float
    max_batch: int
    precision: str
    backend: str
    backend_version: str
    checkpoint: str
    license: str
    part: str = "full"
    device: str = ""
    parity: dict[str, float] | None = None
    custom_ops: bool = False
    crop_scale: float = 1.0
    input_height: int = INPUT_SIZE
    rows: tuple[int, int] | None = None
    iterations: int = 0
    processor: str = ""
    calibration: dict[str, int | str] | None = None
    format: int = FORMAT

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the pictures that go in."""
        return self.input_height, self.input_size

    @property
    def output_shape(self) -> tuple[int, int]:
        """Height and width of the pictures that come out."""
        first, last = self.rows or (0, self.output_size)
        return last - first, self.output_size

    def to_json(self) -> str:
        """Compact ASCII JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=True)

    def to_plan_name(self) -> str:
        """Make the network name of a plan. Raises `EngineError` when TensorRT would drop it for its length."""
        name = PLAN_PREFIX + self.to_json()
        if len(name) > PLAN_NAME_LIMIT:
            raise EngineError(f"engine metadata takes {len(name)} bytes, a plan keeps {PLAN_NAME_LIMIT}")
        return name

    @classmethod
    def from_json(cls, text: str, source: str) -> "EngineInfo":
        """Parse `to_json`; `source` names the file in errors. Unknown fields of a newer minor writer are ignored.

        Raises `EngineError` for text that is not such JSON, and for values that no engine has.
        """
        try:
            values = _object(text)
            if values["format"] != FORMAT:
                raise EngineError(
                    f"{source}: engine format {reprlib.repr(values['format'])}, this psp_runtime reads {FORMAT}: "
                    "export it again"
                )
            check_fields(values)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{source}: damaged engine metadata ({error}): export it again") from None
        rows = tuple(values["rows"]) if values.get("rows") else None
        return cls(**values | {"mix_layers": tuple(values["mix_layers"]), "rows": rows})


def _object(text: str) -> dict[str, Any]:
    """Parse the fields we know, all of which must be there unless they have a default. Raises `ValueError`."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"{len(text)} characters, expected at most {MOST_TEXT}")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    known = {field.name: field.default is MISSING or field.name == "format" for field in fields(EngineInfo)}
    lacking = [name for name, needed in known.items() if needed and name not in values]
    if lacking:
        raise ValueError(f"it lacks {lacking[0]}")
    return {name: value for name, value in values.items() if name in known}


def read_info(path: str | Path) -> EngineInfo:
    """Read the metadata of an engine file (.onnx, or a TensorRT plan), without opening the engine.

    Raises `EngineError` for a missing, empty, truncated or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise EngineError(f"no engine at {path}: expected a .onnx or .trt file made by psp-export")
    if path.stat().st_size == 0:
        raise EngineError(f"{path} is empty: export the engine again with psp-export")
    text = _onnx_metadata(path) if path.suffix.lower() == ".onnx" else _plan_metadata(path)
    return EngineInfo.from_json(text, str(path))


def _plan_metadata(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(b'psp:{"')
        if start < 0:
            raise EngineError(f"{path} is not an engine made by psp-export: expected a .onnx or .trt file of ours")
        text = data[start + len(PLAN_PREFIX) : start + PLAN_NAME_LIMIT].decode("ascii", "replace")
    try:
        return text[: json.JSONDecoder().raw_decode(text)[1]]
    except (ValueError, RecursionError):
        raise EngineError(f"{path} is damaged (its metadata is cut off): export it again") from None


def _onnx_metadata(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            places = [place for number, *place in walk(data, 0, len(data)) if number == _METADATA_PROPS]
            texts = dict(entry(data, *place) for place in places)
            text = texts.get(ONNX_KEY.encode())
            if text is not None:
                return text.decode()
        except (EOFError, UnicodeDecodeError):
            raise EngineError(f"{path} is truncated or not an ONNX file: export it again") from None
    raise EngineError(f"{path} is an ONNX file, but not one made by psp-export: it carries no 'psp' metadata")
