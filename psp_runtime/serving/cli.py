"""`psp-serve`: an engine on a Triton Inference Server, without docker.

    psp-serve --engine psp.onnx --port 8000

PyTriton brings the server, `serving.triton` runs it; the model is ours (`serving.model`), in Triton's own Python
backend, and callers come in through `serving.proxy`, which limits their requests and lets none of them get lost when
the server stops.
"""

import asyncio
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from psp_runtime import console
from psp_runtime.addresses import cannot_listen, check_address
from psp_runtime.console import Device
from psp_runtime.engines import contract
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.engines.parts import check_mapping, part_path
from psp_runtime.engines.session import open_session
from psp_runtime.errors import PspError
from psp_runtime.serving.config import DEVICE_PARAMETER, MAPPING_ENDING, WARMUP_IMAGE, Model, config_text
from psp_runtime.serving.model import ENGINE_PARAMETER, MODEL_FILE
from psp_runtime.serving.proxy import ReverseProxy
from psp_runtime.serving.triton import package, running

#: Milliseconds a batch may wait for more pictures at most: a minute, in which its callers wait too.
LONGEST_DELAY = 60_000
#: Versions of Python that its packages install in; it wants NumPy < 2, which 3.13 never had.
PYTHONS = ((3, 10), (3, 11), (3, 12))

app = console.new_app()


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


@app.command(no_args_is_help=True, cls=console.Command)
def psp_serve(
    engine: Annotated[Path, typer.Option(help="The engine to serve: .onnx or .trt.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where callers come in (HTTP).")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Prometheus metrics: /metrics there.")] = 8002,
    name: Annotated[str, typer.Option(help="What the model is called in URLs.")] = "psp",
    device: Annotated[Device, typer.Option(help="As for psp run.")] = "auto",
    queue: Annotated[int, typer.Option(min=1, help="Requests at once, waiting ones too; more are refused.")] = 256,
    max_request: Annotated[int, typer.Option(min=1, max=1024, help="Largest request, MiB.")] = 16,
    delay: Annotated[float, typer.Option(help="Milliseconds a batch waits for more pictures.")] = 2.0,
) -> None:
    """Serve an engine on a Triton Inference Server. Ctrl-C or SIGTERM stops it once every request is answered."""
    wait = _microseconds(delay)
    options = Options(
        find_engine(engine, device).resolve(), host, port, metrics_port, name, device, queue, max_request << 20, wait
    )
    check(options)
    signal.signal(signal.SIGTERM, _leave)  # until the server runs; then it is `_serve` that stops it
    with tempfile.TemporaryDirectory(prefix="psp-serve-") as folder:
        with closing(open_session(options.engine, options.device)) as session:  # what is wrong with it is said now
            used = session.device
        write_repository(Path(folder) / "models", options, used)
        inner = _free_port()
        with running(Path(folder), inner, (options.host, options.metrics_port), used == "cuda") as server:
            asyncio.run(_serve(server, ReverseProxy(inner, options.largest, options.queue), options, used))
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # while Triton ends, it is the second signal


def _microseconds(delay: float) -> int:
    if not 0 <= delay <= LONGEST_DELAY:  # nor nan
        raise PspError(f"--delay {delay:g}: expected milliseconds, 0 to {LONGEST_DELAY}")
    return int(1000 * delay)


def check(options: Options) -> None:
    """What can be said before anything starts. Raises `PspError`."""
    info = read_info(options.engine)
    contract.require_full(info, options.engine)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", options.name) or options.name.endswith(MAPPING_ENDING):
        raise PspError(f"--name {options.name}: expected letters, digits, dots and dashes, not ending in _mapping")
    if options.port == options.metrics_port:
        raise PspError(f"--port and --metrics-port are both {options.port}: expected two ports")
    for port in (options.port, options.metrics_port):
        check_address(options.host, port)
    obstacle = obstacle_here()
    if obstacle:
        raise PspError(f"psp-serve cannot run here: {obstacle}")


def obstacle_here() -> str:
    """Why PyTriton cannot run in this Python; empty when it can."""
    version = f"Python {platform.python_version()}"
    if sys.platform != "linux":
        return "PyTriton is for Linux; psp-export --triton writes a model for Triton's docker image"
    if sys.version_info[:2] not in PYTHONS:
        return f"this is {version}, PyTriton runs with 3.10 to 3.12: make an environment with one of these"
    if package() is None:
        return "PyTriton is not installed: pip install 'psp-toolkit[cpu,serve]'"
    return ""


def _free_port() -> int:
    """A port of this machine alone, for Triton behind the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


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
    (home / "warmup" / WARMUP_IMAGE).write_bytes(contract.image(info).zeros(1).tobytes())


async def _serve(server: subprocess.Popen[bytes], proxy: ReverseProxy, options: Options, device: str) -> None:
    """Let callers in until a signal comes. Raises `PspError` when Triton ends before."""
    stop = asyncio.Event()
    _on_signal(stop.set)
    try:
        await proxy.open(options.host, options.port)
    except OSError as error:  # taken while Triton started
        raise cannot_listen(options.host, options.port, error) from None
    where = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{options.port}"
    print(f"{options.engine.name} on {where} ({device}), model {options.name}; metrics on port {options.metrics_port}")
    sys.stdout.flush()
    while not stop.is_set():
        if server.poll() is not None:
            raise PspError("Triton has ended by itself, out of memory for example: start psp-serve again")
        await _wait(stop, 1.0)
    await _close(proxy, server)


async def _close(proxy: ReverseProxy, server: subprocess.Popen[bytes]) -> None:
    """Close the proxy; a second signal ends everything at once."""
    closing = asyncio.ensure_future(proxy.close())
    _on_signal(closing.cancel)
    try:
        await closing
    except asyncio.CancelledError:
        server.kill()  # else it would finish what nobody waits for any more
        await proxy.cut()
        raise KeyboardInterrupt from None


def _on_signal(action: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, action)


def _leave(*_: object) -> None:
    sys.exit(0)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return
