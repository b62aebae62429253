"""A Triton Inference Server as a child process: the program that PyTriton brings, without PyTriton's own code.

PyTriton waits two minutes for a server that ended at once, and starts it in the process group of the terminal, where
Ctrl-C would stop it before its callers have their answers.
"""

import contextlib
import ctypes
import http.client
import importlib.util
import os
import re
import secrets
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psp_runtime.errors import PspError

#: Seconds an engine may take to load and warm up (TensorRT-RTX compiles then), and Triton to finish what it has begun.
START_SECONDS, EXIT_SECONDS = 300, 30
#: Of Triton's interfaces, what callers have no business with.
RESTRICTED = "shared-memory,model-repository,statistics,trace,logging"
#: prctl(2): the signal a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def package() -> Path | None:
    """Where PyTriton is installed; None without it."""
    spec = importlib.util.find_spec("pytriton")
    return Path(spec.origin).parent if spec and spec.origin else None


@contextmanager
def running(folder: Path, port: int, metrics: tuple[str, int], gpu: bool) -> Iterator[subprocess.Popen[bytes]]:
    """Triton over the models in `folder`/models, ready on 127.0.0.1:`port`; `metrics` is an address and a port.

    It ends with the block: what it has begun is finished, unless a second signal cuts that short. It keeps its log in
    `folder`. Raises `PspError` with its last error when it does not start.
    """
    log = folder / "triton.log"
    memory = f"psp-serve-{secrets.token_hex(8)}"
    command = _command(folder, port, metrics, gpu, memory)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_end_with_parent,
        )  # fmt: skip
    try:
        _await_ready(process, port, log)
        yield process
    finally:
        try:
            _stop(process)
        finally:  # what Triton and its models talk through stays when they are killed
            for file in Path("/dev/shm").glob(f"{memory}*"):
                file.unlink(missing_ok=True)


def last_error(log: Path) -> str:
    """Why Triton gave up, in one line: what failed first, or else the last words in its log."""
    text = log.read_text(errors="replace")
    # A model's error comes with its traceback, whose line ends Triton has escaped.
    model = re.search(r"failed to load '\S+' version \d+: \w+: (.+?)(?:\\n|$)", text, re.MULTILINE)
    errors = re.findall(r"^E\d.*?\] (.+)$|^(?:error: |.*: error while loading )(.+)$", text, re.MULTILINE)
    words = model[1] if model else "".join(errors[-1]) if errors else (text.strip().splitlines() or ["no message"])[-1]
    return words.strip('" ')


def _command(folder: Path, port: int, metrics: tuple[str, int], gpu: bool, memory: str) -> list[str]:
    home = package()
    assert home is not None, "whoever starts Triton has checked that it is installed"
    options = {
        "model-repository": folder / "models", "backend-directory": _backends(home, folder),
        "http-address": "127.0.0.1", "http-port": port, "allow-grpc": False,
        "http-restricted-api": f"{RESTRICTED}:key={secrets.token_urlsafe()}",
        "metrics-address": f"ipv6:{metrics[0]}" if ":" in metrics[0] else metrics[0],  # so libevhtp wants it
        "metrics-port": metrics[1], "allow-gpu-metrics": gpu,
        "exit-timeout-secs": EXIT_SECONDS,
        "backend-config": f"python,shm-region-prefix-name={memory}",
    }  # fmt: skip
    return [str(home / "tritonserver/bin/tritonserver"), *(f"--{name}={value}" for name, value in options.items())]


def _backends(home: Path, folder: Path) -> Path:
    """The folder of Triton's Python backend, with the program that runs models in this version of Python."""
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    for file in (*(home / "tritonserver/backends/python").glob("*.*"), stub):
        (backend / file.name).symlink_to(file)
    return backend.parent


def _environment() -> dict[str, str]:
    """Triton looks for libpython where the loader does, and for Python's packages where `python3` is."""
    home = package()
    libraries = [os.environ.get("LD_LIBRARY_PATH"), sysconfig.get_config_var("LIBDIR")]
    libraries.append(home and str(home.parent / "nvidia_pytriton.libs"))
    path = os.pathsep.join([str(Path(sys.exec_prefix) / "bin"), os.environ.get("PATH", os.defpath)])
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PATH": path}


def _end_with_parent() -> None:
    """In the child: SIGTERM when psp-serve is gone, killed for example."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Raises `PspError` when Triton ends instead."""
    end = time.monotonic() + START_SECONDS
    while not _is_ready(port):
        if process.poll() is not None:
            raise PspError(f"Triton does not start: {last_error(log)}")
        if time.monotonic() > end:
            raise PspError(f"Triton is not ready after {START_SECONDS} s: {last_error(log)}")
        time.sleep(0.1)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):  # not listening yet
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let Triton finish what it has begun; in the end, none of its processes is left."""
    try:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_SECONDS + 5)
    finally:
        # Its group, which it leads: models run in processes of their own, and stay when Triton itself was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
