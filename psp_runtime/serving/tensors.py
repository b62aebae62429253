"""The Open Inference Protocol v2 with binary tensors (KServe, NVIDIA Triton): requests, answers, descriptions.

A request is a JSON head, whose length a header gives, and the tensors' bytes after it. Nothing in it is believed:
names, types, shapes and sizes must be those of the engine contract before an array is made.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from psp_runtime.engines import contract
from psp_runtime.engines.contract import Arrays, Tensor, full_inputs
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.serving.bodies import Refused
from psp_runtime.serving.config import DEVICE_PARAMETER, INFO_PARAMETER, PRECISION_PARAMETER, TYPES, max_batch

#: The header that says how long the JSON head is, and the longest head, in bytes.
HEAD_LENGTH, LONGEST_HEAD = "inference-header-content-length", 64 << 10
#: The one version of a model, and the longest id of a request.
VERSION, LONGEST_ID = "1", 256


class Inference(NamedTuple):
    """A request: its id, all inputs of the engine [B,...], and the outputs it asks for."""

    id: str
    inputs: Arrays
    outputs: list[str]


def parse(info: EngineInfo, head_length: str | None, data: bytearray) -> Inference:
    """Read an inference request. Raises `Refused` and `PspError` for anything the engine must not see."""
    size = _head_size(head_length, data)
    try:
        head = json.loads(data[:size])
    except (ValueError, RecursionError):
        raise Refused(400, "the head of the request is not JSON") from None
    if not isinstance(head, dict):
        raise Refused(400, "the head of the request: expected a JSON object")
    ident = head.get("id", "")
    if not isinstance(ident, str) or len(ident) > LONGEST_ID:
        raise Refused(400, f"id: expected a text of at most {LONGEST_ID} characters")
    return Inference(ident, _inputs(info, head.get("inputs"), data, size), _outputs(info, head.get("outputs")))


def _head_size(given: str | None, data: bytearray) -> int:
    if given is None:
        raise Refused(400, f"expected binary tensors after a JSON head, and its length as {HEAD_LENGTH}")
    size = int(given) if given.isascii() and given.isdigit() and len(given) < 10 else -1
    if not 0 < size <= min(LONGEST_HEAD, len(data)):
        raise Refused(400, f"{HEAD_LENGTH}: expected 1..{LONGEST_HEAD} bytes of the body")
    return size


def _inputs(info: EngineInfo, listed: Any, data: bytearray, start: int) -> Arrays:
    """Read the tensors of a request, one after another from `start` on, as the engine takes them."""
    tensors = contract.inputs(info)
    if not isinstance(listed, list) or not 1 <= len(listed) <= len(tensors):
        raise Refused(400, f"inputs: expected a list of {', '.join(tensors)}")
    given: Arrays = {}
    for one in listed:
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in tensors or name in given:
            raise Refused(400, f"inputs: expected {', '.join(tensors)}, each once")
        shape, size = _shape(name, one, tensors[name], max_batch(info)), _size(name, one)
        tensor = tensors[name].dtype
        if size != math.prod(shape) * tensor().itemsize or start + size > len(data):
            raise Refused(400, f"{name}: {size} bytes do not fit its shape, or the body")
        given[name] = np.frombuffer(data, tensor, math.prod(shape), start).reshape(shape)
        start += size
    if start != len(data):
        raise Refused(400, f"{len(data) - start} bytes after the last tensor")
    return checked(info, given)


def _shape(name: str, one: dict[str, Any], tensor: Tensor, most: int) -> list[int]:
    shape, kind = one.get("shape"), TYPES[tensor.dtype]
    if one.get("datatype") != kind:
        raise Refused(400, f"{name}: expected the datatype {kind}")
    if not isinstance(shape, list) or any(type(side) is not int for side in shape) or shape[1:] != list(tensor.shape):
        raise Refused(400, f"{name}: expected the shape {tensor}")
    if not 1 <= shape[0] <= most:
        raise Refused(400, f"{name}: expected a batch of 1..{most}")
    return shape


def _size(name: str, one: dict[str, Any]) -> int:
    parameters = one.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if type(size) is not int:
        raise Refused(400, f"{name}: expected a binary tensor, with its binary_data_size")
    return size


def _outputs(info: EngineInfo, listed: Any) -> list[str]:
    """Read which outputs are asked for, all where none is named; always as binary tensors."""
    known = list(contract.outputs(info))
    if listed is None or listed == []:
        return known
    names = [one.get("name") if isinstance(one, dict) else None for one in listed] if isinstance(listed, list) else []
    if not names or len(names) > len(known) or any(name not in known for name in names):
        raise Refused(400, f"outputs: expected a list of {', '.join(known)}")
    return [str(name) for name in names]


def checked(info: EngineInfo, given: Arrays) -> Arrays:
    """Complete the inputs of a request: style and alpha may be left out, as in `Pipeline.translate`.

    Raises `PspError` for values the engine must not see: not finite, or class ids it does not know.
    """
    for name, array in given.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            wrong = int((~np.isfinite(array)).sum())
            raise PspError(f"{name}: {wrong} of its {array.size} values are not finite")
    if info.part == "mapping":
        return given
    if "image" not in given:
        raise PspError("image: not given, expected pictures; style and alpha may be left out")
    return full_inputs(info, given["image"], given.get("style"), given.get("alpha"), given.get("iterations"))


def answer(model: str, request: Inference, outputs: Mapping[str, Any]) -> tuple[bytes, int]:
    """Make the body of an answer; also give the length of the JSON head it begins with."""
    arrays = {name: np.ascontiguousarray(outputs[name]) for name in request.outputs}
    listed = [
        {
            "name": name,
            "datatype": TYPES[array.dtype.type],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    head: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": listed}
    encoded = json.dumps(head | ({"id": request.id} if request.id else {})).encode()
    return b"".join([encoded, *(array.tobytes() for array in arrays.values())]), len(encoded)


def metadata(model: str, info: EngineInfo) -> dict[str, Any]:
    """Make what GET /v2/models/MODEL says."""
    sides = {"inputs": contract.inputs(info), "outputs": contract.outputs(info)}
    return {"name": model, "versions": [VERSION], "platform": "psp"} | {
        side: [{"name": n, "datatype": TYPES[t.dtype], "shape": [-1, *t.shape]} for n, t in tensors.items()]
        for side, tensors in sides.items()
    }


def configuration(model: str, info: EngineInfo, device: str, precision: str) -> dict[str, Any]:
    """Make what GET /v2/models/MODEL/config says, in the fields of Triton's `ModelConfig`."""
    sides = {"input": contract.inputs(info), "output": contract.outputs(info)}
    parameters = {INFO_PARAMETER: info.to_json(), DEVICE_PARAMETER: device, PRECISION_PARAMETER: precision}
    return {"name": model, "platform": "psp", "backend": "psp", "max_batch_size": max_batch(info)} | {
        side: [{"name": n, "data_type": f"TYPE_{TYPES[t.dtype]}", "dims": list(t.shape)} for n, t in tensors.items()]
        for side, tensors in sides.items()
    } | {"parameters": {name: {"string_value": text} for name, text in parameters.items()}}  # fmt: skip
