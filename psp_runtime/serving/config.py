"""config.pbtxt: what Triton must know of an engine to serve it.

The fields are those of `ModelConfig` (model_config.proto of triton-inference-server/common), written in protobuf's text
format. The metadata of the engine travels as the parameter `psp`, so that a client learns everything from the server.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from psp_runtime.engines import contract
from psp_runtime.engines.contract import Tensor
from psp_runtime.engines.info import EngineInfo

#: The name of an engine that is served alone, and what a URL without one means.
DEFAULT_MODEL = "psp"
#: The parameter that carries `EngineInfo`, and those in which psp-serve says what the engine runs on and computes in.
INFO_PARAMETER, DEVICE_PARAMETER, PRECISION_PARAMETER = "psp", "device", "precision"
#: Random styles a mapping network makes at once: as many as truncation averages over.
MAPPING_BATCH = 4096
#: What the mapping network of the model NAME is called beside it.
MAPPING_ENDING = "_mapping"
#: The file in the folder `warmup` of a model that holds one picture, as raw bytes.
WARMUP_IMAGE = "image"

#: Triton's names of the types in the engine contract.
TYPES = {np.uint8: "UINT8", np.float32: "FP32", np.int32: "INT32"}


class Word(str):
    """A value that is written without quotes: a number, true, false or a name of an enumeration."""


@dataclass(frozen=True)
class Model:
    """How an engine is served.

    `backend` is Triton's: "onnxruntime" or "tensorrt". `kind` is where: "KIND_AUTO", "KIND_GPU" or "KIND_CPU". A batch
    waits up to `delay_us` microseconds for more pictures.

    There is no limit on the queue: with one, Triton does not prepare the next batch while one runs, and a request that
    comes just then waits for half a second (docs/decisions/serving-and-ui.md).
    """

    name: str
    backend: str
    kind: str = "KIND_AUTO"
    delay_us: int = 2000
    warm_batches: tuple[int, ...] = ()


def max_batch(info: EngineInfo) -> int:
    """Pictures (or styles) in one request at most."""
    return MAPPING_BATCH if info.part == "mapping" else info.max_batch


def preferred_batches(largest: int) -> list[int]:
    """Powers of two up to the largest batch, and that one: the sizes batches are gathered to."""
    return sorted({largest, *(1 << n for n in range(1, largest.bit_length()) if 1 << n < largest)})


def config_text(info: EngineInfo, model: Model) -> str:
    """Write the config.pbtxt of an engine."""
    inputs, outputs = contract.inputs(info), contract.outputs(info)
    largest = max_batch(info)
    fields = {
        "name": model.name,
        "backend": model.backend,
        "max_batch_size": largest,
        "input": [_tensor(name, tensor) for name, tensor in inputs.items()],
        "output": [_tensor(name, tensor) for name, tensor in outputs.items()],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": 1, "kind": Word(model.kind)}],
        "dynamic_batching": {
            "preferred_batch_size": preferred_batches(largest),
            "max_queue_delay_microseconds": model.delay_us,
        },
        "model_warmup": [_warmup(inputs, batch) for batch in model.warm_batches],
        "parameters": [{"key": INFO_PARAMETER, "value": {"string_value": info.to_json()}}],
    }
    return _text(fields)


def _tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    return {"name": name} | _type(tensor)


def _type(tensor: Tensor) -> dict[str, Any]:
    return {"data_type": Word(f"TYPE_{TYPES[tensor.dtype]}"), "dims": list(tensor.shape)}


def _warmup(inputs: Mapping[str, Tensor], batch: int) -> dict[str, Any]:
    """Ask for a run with the picture of the folder `warmup` before the model counts as ready; other inputs are zero."""

    def value(name: str, tensor: Tensor) -> dict[str, Any]:
        return _type(tensor) | ({"input_data_file": WARMUP_IMAGE} if name == "image" else {"zero_data": True})

    return {
        "name": f"batch {batch}",
        "batch_size": batch,
        "inputs": [{"key": name, "value": value(name, tensor)} for name, tensor in inputs.items()],
    }


def _text(fields: Mapping[str, Any], indent: str = "") -> str:
    """Write a message in protobuf's text format: each element of a list is the field once more."""
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
