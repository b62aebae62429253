"""A psp-serve to measure or test, and callers that speak its protocol: KServe v2 with binary tensors over HTTP.

No client library, so that callers cost little and any Python can be one; psp-serve runs in a Python that PyTriton runs
with: PSP_SERVE_PYTHON, else what `make serving` made, else python3.12, python3.11 or python3.10.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import numpy as np

from psp_runtime.serving.cli import PYTHONS

ROOT = Path(__file__).parents[2]
NAMES = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32", np.dtype(np.float64): "FP64"}
IMPORTS = "import pytriton, tritonclient.http, onnxruntime, typer, PIL, sys"


def environment(threads: int | None = None) -> dict[str, str]:
    """Of processes in the serving Python: our sources, nothing kept, `threads` of OpenMP if given."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PSP_CACHE": "off", "PSP_CPU": "onnxruntime"}
    return variables | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def serving_python() -> str:
    """A Python where PyTriton and our runtime load; empty where there is none."""
    check = f"{IMPORTS}; sys.exit(sys.version_info[:2] not in {PYTHONS})"
    made = str(ROOT / ".venv/serving/bin/python")
    for name in (os.environ.get("PSP_SERVE_PYTHON"), made, "python3.12", "python3.11", "python3.10"):
        found = shutil.which(name) if name else None
        if found and subprocess.run([found, "-c", check], capture_output=True).returncode == 0:
            return found
    return ""


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Server:
    """A running psp-serve on free ports. Raises `RuntimeError` when it does not start."""

    def __init__(self, python: str, engine: Path, *options: str, threads: int | None = None) -> None:
        self.python, self.port, self.metrics_port = python, free_port(), free_port()
        command = [python, "-m", "psp_runtime.serving", "--engine", str(engine), "--port", str(self.port)]
        command += ["--metrics-port", str(self.metrics_port), *options]
        self.process = subprocess.Popen(command, env=environment(threads), stdout=subprocess.PIPE, text=True)
        if not any("model psp" in line for line in iter(self.process.stdout.readline, "")):
            raise RuntimeError("psp-serve did not start")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()

    def metric(self, name: str) -> float:
        """A counter of the model."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{model="psp",'))

    def memory(self) -> int:
        """Bytes that psp-serve, Triton and the process of the model hold together, each page counted where it is."""
        return sum(_proportional_set(pid) for pid in _family(self.process.pid))


class Caller:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
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
        self._connection.request("POST", "/v2/models/psp/infer", body, fields)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            return answer.status, json.loads(data)
        return answer.status, _outputs(data, int(answer.headers["Inference-Header-Content-Length"]))


def _outputs(data: bytes, header: int) -> dict[str, np.ndarray]:
    outputs, start = {}, header
    for one in json.loads(data[:header])["outputs"]:
        kind = np.uint8 if one["datatype"] == "UINT8" else np.float32
        end = start + one["parameters"]["binary_data_size"]
        outputs[one["name"]] = np.frombuffer(data[start:end], kind).reshape(one["shape"])
        start = end
    return outputs


def _family(pid: int) -> list[int]:
    """A process and its descendants (Linux)."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [pid, *(one for child in children for one in _family(child))]


def _proportional_set(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
