"""config.pbtxt: what Triton must know of an engine to serve it.

The fields are those of `ModelConfig` (model_config.proto of triton-inference-server/common), written in protobuf's text
format. The metadata of the engine travels as the parameter `psp`, so that a client learns everything from the server.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psp_runtime.engines.contract import code_shape, image_shape
from psp_runtime.engines.info import EngineInfo

#: The parameter that carries `EngineInfo`, and the one that says what the engine runs on.
INFO_PARAMETER, DEVICE_PARAMETER = "psp", "device"
#: Random styles a mapping network makes at once: as many as truncation averages over.
MAPPING_BATCH = 4096
#: What the mapping network of the model NAME is called beside it.
MAPPING_ENDING = "_mapping"
#: The file in the folder `warmup` of a model that holds one picture, as raw bytes.
WARMUP_IMAGE = "image"

#: A tensor on the wire: name, Triton's type, shape without the batch.
Tensor = tuple[str, str, tuple[int, ...]]


class Word(str):
    """A value that is written without quotes: a number, true, false or a name of an enumeration."""


@dataclass(frozen=True)
class Model:
    """How an engine is served.

    `backend` is Triton's: "onnxruntime", "tensorrt" or "python". `kind` is where: "KIND_AUTO", "KIND_GPU" or
    "KIND_CPU". A batch waits up to `delay_us` microseconds for more pictures. `optional`: inputs that may be left out,
    which only the Python backend allows.

    There is no limit on the queue: with one, Triton does not prepare the next batch while one runs, and a request that
    comes just then waits for half a second (docs/serving.md).
    """

    name: str
    backend: str
    kind: str = "KIND_AUTO"
    delay_us: int = 2000
    optional: tuple[str, ...] = ()
    warm_batches: tuple[int, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)


def tensors(info: EngineInfo) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of a full engine or a mapping network, as in the engine contract (docs/design.md)."""
    if info.part == "mapping":
        return [("z", "TYPE_FP32", (info.style_dim,))], [("w", "TYPE_FP32", (info.style_dim,))]
    side, codes = info.output_size, code_shape(info)
    inputs: list[Tensor] = [
        ("image", "TYPE_UINT8", image_shape(info)),
        ("style", "TYPE_FP32", codes),
        ("alpha", "TYPE_FP32", (info.styles,)),
    ]
    return inputs, [("output", "TYPE_UINT8", (side, side, 3)), ("latents", "TYPE_FP32", codes)]


def max_batch(info: EngineInfo) -> int:
    """Pictures (or styles) in one request at most."""
    return MAPPING_BATCH if info.part == "mapping" else info.max_batch


def preferred_batches(largest: int) -> list[int]:
    """Powers of two up to the largest batch, and that one: the sizes batches are gathered to."""
    return sorted({largest, *(1 << n for n in range(1, largest.bit_length()) if 1 << n < largest)})


def config_text(info: EngineInfo, model: Model) -> str:
    """The config.pbtxt of an engine."""
    inputs, outputs = tensors(info)
    largest = max_batch(info)
    parameters = {INFO_PARAMETER: info.to_json(), **model.parameters}
    fields = {
        "name": model.name,
        "backend": model.backend,
        "max_batch_size": largest,
        "input": [_tensor(one) | _optional(one, model) for one in inputs],
        "output": [_tensor(one) for one in outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": 1, "kind": Word(model.kind)}],
        "dynamic_batching": {
            "preferred_batch_size": preferred_batches(largest),
            "max_queue_delay_microseconds": model.delay_us,
        },
        "model_warmup": [_warmup(inputs, batch) for batch in model.warm_batches],
        "parameters": [{"key": key, "value": {"string_value": text}} for key, text in parameters.items()],
    }
    return _text(fields)


def _tensor(tensor: Tensor) -> dict[str, Any]:
    name, kind, shape = tensor
    return {"name": name, "data_type": Word(kind), "dims": list(shape)}


def _optional(tensor: Tensor, model: Model) -> dict[str, Any]:
    return {"optional": True} if tensor[0] in model.optional else {}


def _warmup(inputs: Sequence[Tensor], batch: int) -> dict[str, Any]:
    """One run with the picture of the folder `warmup` before the model counts as ready; other inputs are zero."""

    def value(tensor: Tensor) -> dict[str, Any]:
        data = {"input_data_file": WARMUP_IMAGE} if tensor[0] == "image" else {"zero_data": True}
        return {"data_type": Word(tensor[1]), "dims": list(tensor[2])} | data

    return {
        "name": f"batch {batch}",
        "batch_size": batch,
        "inputs": [{"key": one[0], "value": value(one)} for one in inputs],
    }


def _text(fields: Mapping[str, Any], indent: str = "") -> str:
    """A message in protobuf's text format: each element of a list is the field once more."""
    lines = []
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                lines.append(f"{indent}{name} {{\n{_text(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, Word | int) else json.dumps(value)
