"""An engine served by Triton, `psp-serve` or any other, as a `Session`: everything that runs engines runs over HTTP.

The server says what its engine is (the parameter `psp` of the model's configuration), so no file is needed here.
"""

import importlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.parts import Parts
from psp_runtime.engines.session import Session
from psp_runtime.errors import EngineError, PspError
from psp_runtime.pipeline import Pipeline
from psp_runtime.serving.config import (
    DEFAULT_MODEL,
    DEVICE_PARAMETER,
    INFO_PARAMETER,
    MAPPING_ENDING,
    PRECISION_PARAMETER,
    TYPES,
)

#: Seconds to connect, and to wait for an answer: a batch on a busy CPU takes its time.
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 600.0
_NO_TRITON = "what answers there is no Triton, perhaps its metrics port or another program"


class RemoteSession:
    """An engine at `url`, http://HOST:PORT or http://HOST:PORT/MODEL; see `Session`.

    `path` is only a name; `device` and `precision` are what the server says, where it does not "cpu" and that of the
    engine's file. Threads may share it.
    Raises `PspError` for a URL that is none, `EngineError` for a server that cannot be reached or serves no engine
    of ours.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._secure, self._address, self._model = parse_url(url)
        self._http = _import_client()
        self._local = threading.local()
        config = self._ask(lambda client: client.get_model_config(self._model))
        try:
            parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
            self.max_batch = int(config["max_batch_size"])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise EngineError(f"{url}: {_NO_TRITON}") from None
        if INFO_PARAMETER not in parameters:
            raise EngineError(f"{url}: the model {self._model} there is none of psp-serve or psp-export --triton")
        self.info = EngineInfo.from_json(parameters[INFO_PARAMETER], url)
        self.path = Path(self._address) / self._model
        self.device = parameters.get(DEVICE_PARAMETER, "cpu")
        self.precision = parameters.get(PRECISION_PARAMETER, self.info.precision)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Session.run`. Raises `EngineError` with the server's words."""
        tensors = [self._tensor(name, array) for name, array in inputs.items()]
        answer = self._ask(lambda client: client.infer(self._model, tensors))
        return {one["name"]: answer.as_numpy(one["name"]) for one in answer.get_response()["outputs"]}

    def run_many(self, batches: Iterable[Mapping[str, NDArray[Any]]]) -> Iterator[dict[str, NDArray[Any]]]:
        """See `Session.run_many`."""
        return map(self.run, batches)

    def mapping(self) -> "RemoteSession":
        """Open the mapping network beside the engine, served as MODEL_mapping."""
        scheme = "https" if self._secure else "http"
        return RemoteSession(f"{scheme}://{self._address}/{self._model}{MAPPING_ENDING}")

    def close(self) -> None:
        """Nothing is kept open but this thread's connection."""
        client = self._local.__dict__.pop("client", None)
        if client is not None:
            client.close()

    def _tensor(self, name: str, array: NDArray[Any]) -> Any:
        tensor = self._http.InferInput(name, list(array.shape), TYPES[array.dtype.type])
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        return tensor

    def _ask(self, question: Any) -> Any:
        """Ask the server with this thread's client; connections must not be shared between threads."""
        try:
            if not hasattr(self._local, "client"):
                self._local.client = self._http.InferenceServerClient(
                    self._address, ssl=self._secure, connection_timeout=CONNECT_SECONDS, network_timeout=ANSWER_SECONDS
                )
            return question(self._local.client)
        except self._http.InferenceServerException as error:
            words = (error.message() or _NO_TRITON).removeprefix("[request id: <id_unknown>] ")
            foreign = "while decoding the response" in words  # followed by all of it, a page of HTML for example
            raise EngineError(f"{self.url}: {_NO_TRITON if foreign else words}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            hint = "psp-serve itself speaks http, not https" if self._secure else "is psp-serve running there?"
            raise EngineError(f"no answer from {self.url} ({reason}): {hint}") from None
        except Exception as error:  # the HTTP client's own share no base class: an answer cut off, or no HTTP at all
            raise EngineError(f"{self.url}: {_NO_TRITON} ({type(error).__name__})") from error


class RemoteParts(Parts):
    """What lies beside a served engine: its mapping network. Encoder and generator alone are not served."""

    usable = False

    def __init__(self, full: RemoteSession) -> None:
        super().__init__(full)
        self._mapping = full.mapping

    def _open_new(self, part: str, device: str) -> Session:
        return self._mapping()


def connect(url: str, batch: int | None = None, iterations: int | None = None) -> Pipeline:
    """Open a served engine as a `Pipeline`: every application, computed by the server.

    `batch` and `iterations` are as for `Pipeline`. psp-serve runs all steps of a ReStyle engine; Triton serves one step
    at a time, and what is fed back goes through the network.
    """
    session = RemoteSession(url)
    pipeline = Pipeline(session, batch, iterations=iterations)
    pipeline.parts = RemoteParts(session)
    return pipeline


def parse_url(url: str) -> tuple[bool, str, str]:
    """Read from a URL whether it is https, HOST:PORT, and the model. Raises `PspError` for anything else."""
    wrong = PspError(f"--url {url}: expected http://HOST:PORT or http://HOST:PORT/MODEL")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  only now is it looked at
    except ValueError:
        raise wrong from None
    model = parts.path.strip("/") or DEFAULT_MODEL
    other = parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in ("http", "https") or not parts.hostname or "/" in model or other:
        raise wrong
    return parts.scheme == "https", parts.netloc, model


def _import_client() -> Any:
    try:
        return importlib.import_module("tritonclient.http")
    except (ImportError, AttributeError) as error:  # gevent built for another Python fails with AttributeError
        raise PspError(f"--url needs tritonclient, which does not load ({error}): pip install '.[client]'") from None
