"""`psp-serve`: an engine on a Triton Inference Server, without docker.

    psp-serve --engine psp.onnx --port 8000

PyTriton brings the server; the model is ours (`serving.model`), in Triton's own Python backend, and callers come in
through `serving.gate`, which limits their requests and lets none of them get lost when the server stops.
"""

import asyncio
import importlib
import os
import platform
import re
import signal
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer

from psp_runtime import console
from psp_runtime.arrays import image_shape
from psp_runtime.cli import Device
from psp_runtime.errors import EngineError, PspError
from psp_runtime.metadata import EngineInfo, read_info
from psp_runtime.parts import check_mapping, part_path
from psp_runtime.serving.config import DEVICE_PARAMETER, MAPPING_ENDING, WARMUP_IMAGE, Model, config_text
from psp_runtime.serving.gate import Gate
from psp_runtime.serving.model import ENGINE_PARAMETER, MODEL_FILE
from psp_runtime.sessions import open_session

#: Versions of Python that PyTriton runs with: for 3.11 it finds no gevent that works.
PYTHONS = ((3, 10), (3, 12))
#: Seconds Triton has to finish what it has begun.
EXIT_SECONDS = 30

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Options:
    """What `psp-serve` was asked for; sizes in bytes."""

    engine: Path
    host: str
    port: int
    metrics_port: int
    name: str
    device: str
    queue: int
    largest: int
    delay_us: int


def main() -> NoReturn:
    """The `psp-serve` command."""
    console.run(app)


@app.command(no_args_is_help=True)
def psp_serve(
    engine: Annotated[Path, typer.Option(help="The engine to serve: .onnx or .trt.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where callers come in (HTTP).")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Prometheus metrics: /metrics there.")] = 8002,
    name: Annotated[str, typer.Option(help="What the model is called in URLs.")] = "psp",
    device: Annotated[Device, typer.Option(help="As for psp-run.")] = Device.auto,
    queue: Annotated[int, typer.Option(min=1, help="Requests at once, waiting ones too; more are refused.")] = 256,
    max_request: Annotated[int, typer.Option(min=1, max=1024, help="Largest request, MiB.")] = 16,
    delay: Annotated[float, typer.Option(min=0, help="Milliseconds a batch waits for more pictures.")] = 2.0,
) -> None:
    """Serve an engine on a Triton Inference Server. Ctrl-C or SIGTERM stops it once every request is answered."""
    options = Options(
        engine.resolve(), host, port, metrics_port, name, device.value, queue, max_request << 20, int(1000 * delay)
    )
    check(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server runs; then it is `_serve` that stops it
    with tempfile.TemporaryDirectory(prefix="psp-serve-") as folder:
        with closing(open_session(options.engine, options.device)) as session:  # what is wrong with it is said now
            used = session.device
        write_repository(Path(folder) / "models", options, used)
        with triton(Path(folder), options, used) as (server, http_port):
            asyncio.run(_serve(server, Gate(http_port, options.largest, options.queue), options, used))


def check(options: Options) -> None:
    """What can be said before anything starts. Raises `PspError`."""
    info = read_info(options.engine)
    if info.part != "full":
        raise EngineError(f"{options.engine} is only the {info.part}, expected the full engine")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", options.name) or options.name.endswith(MAPPING_ENDING):
        raise PspError(f"--name {options.name}: expected letters, digits, dots and dashes, not ending in _mapping")
    for port in (options.port, options.metrics_port):
        _check_port(options.host, port)
    obstacle = obstacle_here()
    if obstacle:
        raise PspError(f"psp-serve cannot run here: {obstacle}")


def obstacle_here() -> str:
    """Why PyTriton cannot run in this Python; empty when it can."""
    version = f"Python {platform.python_version()}"
    if sys.platform != "linux":
        return "PyTriton is for Linux; psp-export --triton writes a model for Triton's docker image"
    if sys.version_info[:2] not in PYTHONS:
        return f"this is {version}, PyTriton runs with 3.10 and 3.12: make an environment with one of these"
    try:
        importlib.import_module("pytriton.triton")
    except (ImportError, AttributeError) as error:  # gevent built for another Python fails with AttributeError
        return f"PyTriton does not load ({error}): pip install 'psp-toolkit[cpu,serve]'"
    return ""


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise PspError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port or --host") from None


def write_repository(folder: Path, options: Options, device: str) -> None:
    """Triton's model repository: the engine, and its mapping network where it lies beside it."""
    info = read_info(options.engine)
    kind = "KIND_GPU" if device == "cuda" else "KIND_CPU"
    parameters = {ENGINE_PARAMETER: str(options.engine), DEVICE_PARAMETER: device}
    served = Model(options.name, "python", kind, options.delay_us, ("style", "alpha"), (1,), parameters)
    _write_model(folder, info, served)
    mapping = part_path(options.engine, "mapping")
    if mapping.is_file():
        check_mapping(options.engine, info)
        open_session(mapping, "cpu").close()  # as the engine's: Triton would say it late, and in its log only
        parameters = {ENGINE_PARAMETER: str(mapping), DEVICE_PARAMETER: "cpu"}
        name = options.name + MAPPING_ENDING
        _write_model(folder, read_info(mapping), Model(name, "python", "KIND_CPU", parameters=parameters))


def _write_model(folder: Path, info: EngineInfo, model: Model) -> None:
    home = folder / model.name
    for part in ("1", "warmup"):
        (home / part).mkdir(parents=True)
    (home / "config.pbtxt").write_text(config_text(info, model))
    (home / "1" / "model.py").write_text(MODEL_FILE.format(packages=sys.path))
    (home / "warmup" / WARMUP_IMAGE).write_bytes(np.zeros(image_shape(info), np.uint8).tobytes())


@contextmanager
def triton(folder: Path, options: Options, used: str) -> Iterator[tuple[Any, int]]:
    """A running server over the models in a folder, and the port on this machine it listens on. `used`: the device."""
    module = importlib.import_module("pytriton.triton")
    with socket.create_server(("127.0.0.1", 0)) as free:
        http_port = free.getsockname()[1]
    # Triton's Python backend loads libpython, which is not where the loader looks unless Python came with the system.
    libraries = [os.environ.get("LD_LIBRARY_PATH", ""), sysconfig.get_config_var("LIBDIR") or ""]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    log = folder / "triton.log"
    config = module.TritonConfig(
        model_repository=folder / "models", http_address="127.0.0.1", http_port=http_port, allow_grpc=False,
        metrics_address=options.host, metrics_port=options.metrics_port, exit_timeout_secs=EXIT_SECONDS, log_file=log,
        allow_gpu_metrics=used == "cuda",
    )  # fmt: skip
    server = module.Triton(config=config, workspace=folder / "workspace")
    try:
        server.run()
        yield server, http_port
    except TimeoutError:
        raise PspError(f"Triton does not start: {last_error(log)}") from None
    finally:
        server.stop()


def last_error(log: Path) -> str:
    """The last error in Triton's log, in one line."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    errors = [line.partition("] ")[2] for line in lines if line.startswith("E")]
    return errors[-1] if errors else "it says nothing of errors"


async def _serve(server: Any, gate: Gate, options: Options, device: str) -> None:
    """Let callers in until a signal comes. Raises `PspError` when Triton ends before."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await gate.open(options.host, options.port)
    where = f"http://{options.host}:{options.port}"
    print(f"{options.engine.name} on {where} ({device}), model {options.name}; metrics on port {options.metrics_port}")
    sys.stdout.flush()
    while not stop.is_set():
        if not server.is_alive():
            raise PspError("Triton has ended by itself, out of memory for example: start psp-serve again")
        await _wait(stop, 1.0)
    await gate.close()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return


if __name__ == "__main__":
    main()
