"""A psp-serve to measure or test, and callers of its two faces: POST /translate, and the Open Inference Protocol.

No client library, so that callers cost little.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
TYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32", "float64": "FP64"}
NAMES = {np.dtype(getattr(np, kind)): name for kind, name in TYPES.items()}


def environment(threads: int | None = None) -> dict[str, str]:
    """Of processes beside this one: our sources, nothing kept, `threads` of OpenMP if given."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PSP_CACHE": "off", "PSP_CPU": "onnxruntime"}
    return variables | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Server:
    """A running psp-serve on a free port. Raises `RuntimeError` when it does not start."""

    def __init__(self, *engines: Path, options: tuple[str, ...] = (), threads: int | None = None) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "psp_runtime.serving", "--port", str(self.port), *options]
        command += [word for engine in engines for word in ("--engine", str(engine))]
        self.process = subprocess.Popen(command, env=environment(threads), stdout=subprocess.PIPE, text=True)
        if not any("model " in line for line in iter(self.process.stdout.readline, "")):
            raise RuntimeError("psp-serve did not start")

    @property
    def url(self) -> str:
        """Where callers come in."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker(self) -> int:
        """The process that holds HTTP and engines; of two, the last one that was started."""
        return _workers(self.process.pid)[-1]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        finally:
            self.process.kill()

    def metric(self, name: str) -> float:
        """A number of /metrics, over all its labels."""
        lines = urllib.request.urlopen(f"{self.url}/metrics", timeout=10).read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)

    def memory(self) -> int:
        """Bytes that psp-serve and its processes hold together, each page counted where it is."""
        return sum(_proportional_set(pid) for pid in _family(self.process.pid))


class Caller:
    """One connection, kept open."""

    def __init__(self, port: int, model: str = "psp") -> None:
        self._model = model
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def infer(self, **inputs: np.ndarray) -> tuple[int, dict]:
        """Status, and the outputs by name or {"error": …}."""
        described = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": NAMES[array.dtype],
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in inputs.items()
        ]
        header = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        body = b"".join([header, *(array.tobytes() for array in inputs.values())])
        fields = {"Inference-Header-Content-Length": str(len(header))}
        self._connection.request("POST", f"/v2/models/{self._model}/infer", body, fields)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            return answer.status, json.loads(data)
        return answer.status, _outputs(data, int(answer.headers["Inference-Header-Content-Length"]))

    def translate(self, picture: bytes, query: str = "") -> tuple[int, bytes]:
        """Status and body of POST /translate for the bytes of a picture file."""
        self._connection.request("POST", f"/translate?{query}", picture)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def _outputs(data: bytes, header: int) -> dict[str, np.ndarray]:
    outputs, start = {}, header
    for one in json.loads(data[:header])["outputs"]:
        kind = np.uint8 if one["datatype"] == "UINT8" else np.float32
        end = start + one["parameters"]["binary_data_size"]
        outputs[one["name"]] = np.frombuffer(data[start:end], kind).reshape(one["shape"])
        start = end
    return outputs


def _workers(pid: int) -> list[int]:
    return [one for one in _family(pid)[1:] if b"spawn_main" in _read(f"/proc/{one}/cmdline")]


def _read(file: str) -> bytes:
    """Read a file of a process; nothing where that has ended meanwhile."""
    try:
        return Path(file).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _family(pid: int) -> list[int]:
    """A process and its descendants (Linux)."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(str(file)).split()
    ]
    return [pid, *(one for child in children for one in _family(child))]


def _proportional_set(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
