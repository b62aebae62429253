"""The model Triton's Python backend loads for `psp-serve`: an engine, its requests checked one by one.

Triton has checked types and shapes, and hands over all requests of a batch at once. One with bad values is answered
with its error, the others are computed together.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines import contract
from psp_runtime.engines.contract import Arrays, full_inputs
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.session import open_session, run_batches
from psp_runtime.errors import EngineError, PspError
from psp_runtime.serving.config import DEVICE_PARAMETER

#: The parameter that says where the engine lies.
ENGINE_PARAMETER = "engine"
#: What the model.py of a model repository says; Triton's Python does not know where psp-serve has its packages from.
MODEL_FILE = """import sys

sys.path += {packages!r}

from psp_runtime.serving.model import TritonPythonModel  # noqa: E402, F401
"""


class TritonPythonModel:
    """What Triton calls; the names are its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine."""
        # Only there inside Triton.
        self._triton = importlib.import_module("triton_python_backend_utils")
        parameters = json.loads(args["model_config"])["parameters"]
        engine, device = (parameters[name]["string_value"] for name in (ENGINE_PARAMETER, DEVICE_PARAMETER))
        self._session = open_session(Path(engine), device)
        info = self._session.info
        self._inputs, self._outputs = contract.inputs(info), contract.outputs(info)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in their order."""
        checked = [self._checked(request) for request in requests]
        good = [one for one in checked if not isinstance(one, PspError)]
        results = iter(self._run(good) if good else [])
        return [self._response(one if isinstance(one, PspError) else next(results)) for one in checked]

    def finalize(self) -> None:
        """Close the engine."""
        self._session.close()

    def _checked(self, request: Any) -> Arrays | PspError:
        """All inputs of a request, or what is wrong with them."""
        given = {}
        for name in self._inputs:
            tensor = self._triton.get_input_tensor_by_name(request, name)
            if tensor is not None:
                given[name] = tensor.as_numpy()
        try:
            return request_inputs(self._session.info, given)
        except PspError as error:
            return error

    def _run(self, inputs: list[Arrays]) -> Sequence[Arrays | EngineError]:
        """Outputs for each of some inputs, computed together."""
        whole = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        step = self._session.max_batch if self._session.device == "cuda" else _at_once(whole)
        try:
            outputs = run_batches(self._session, whole, step)
        except EngineError as error:
            return [error] * len(inputs)
        ends = np.cumsum([len(next(iter(one.values()))) for one in inputs])[:-1]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [{name: parts[name][i] for name in parts} for i in range(len(inputs))]

    def _response(self, result: Arrays | PspError) -> Any:
        if isinstance(result, PspError):
            kind = self._triton.TritonError
            code = kind.INTERNAL if isinstance(result, EngineError) else kind.INVALID_ARG
            return self._triton.InferenceResponse([], kind(str(result), code))
        return self._triton.InferenceResponse([self._triton.Tensor(name, result[name]) for name in self._outputs])


def request_inputs(info: EngineInfo, given: Arrays) -> Arrays:
    """The inputs of an engine for those of a request: style and alpha may be left out, as in `Pipeline.translate`.

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
    return full_inputs(info, given["image"], given.get("style"), given.get("alpha"))


def _at_once(inputs: dict[str, NDArray[Any]]) -> int:
    """A CPU is busy with one picture, more only take memory; styles are small."""
    return len(inputs["z"]) if "z" in inputs else 1
