"""`psp-serve`: engines over HTTP.

    psp-serve --engine psp.onnx --port 8000

Here is what can be said before anything starts; `serving.server` runs the processes.
"""

import importlib.util
import re
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from psp_runtime import console
from psp_runtime.addresses import check_address
from psp_runtime.console import Device
from psp_runtime.engines import contract
from psp_runtime.engines.info import read_info
from psp_runtime.errors import PspError
from psp_runtime.run.options import MOST_BATCH
from psp_runtime.serving.config import MAPPING_ENDING

#: Milliseconds a batch may wait for more pictures at most.
LONGEST_DELAY = 60_000
#: The name of the only model.
DEFAULT_NAME = "psp"
#: What it is made of.
MODULES = ("granian", "starlette", "prometheus_client")

app = console.new_app()


def main() -> NoReturn:
    """The `psp-serve` command."""
    console.run(app)


@app.command(no_args_is_help=True, cls=console.Command)
def psp_serve(
    engine: Annotated[list[Path], typer.Option(help="An engine: .onnx or .trt; several with several --engine.")],
    name: Annotated[
        list[str] | None, typer.Option(help="What it is called in URLs (one: psp, several: as their files).")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where callers come in (HTTP).")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    allow: Annotated[
        list[str] | None, typer.Option(help="A name callers may use for this server, or '*' for any.", metavar="NAME")
    ] = None,
    device: Annotated[Device, typer.Option(help="As for psp run.")] = "auto",
    batch: Annotated[
        int | None, typer.Option(min=1, max=MOST_BATCH, help="Pictures of a batch (GPU: the most, CPU: 1).")
    ] = None,
    delay: Annotated[float, typer.Option(help="Milliseconds a batch waits for more pictures.")] = 2.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests at once, waiting ones too; more are refused.")] = 256,
    max_request: Annotated[int, typer.Option(min=1, max=1024, help="Largest request, MiB.")] = 16,
    max_memory: Annotated[
        int | None, typer.Option(min=64, help="MiB from which on the process that serves is replaced (never).")
    ] = None,
) -> None:
    """Serve engines over HTTP. Ctrl-C or SIGTERM stops it once every request is answered."""
    engines = named(engine, name or [])
    check(engines, delay)
    address = check_address(host, port)
    from psp_runtime.serving.server import Options, serve  # a help page does without its libraries

    serve(
        Options(
            engines, host, address, port, tuple(allow or ()), device, batch, queue, max_request << 20, delay / 1000,
            max_memory and max_memory << 20,
        )
    )  # fmt: skip


def named(engines: list[Path], names: list[str]) -> tuple[tuple[str, Path], ...]:
    """Each engine with its name. Raises `PspError` for names that meet, or that are none."""
    names = names or ([DEFAULT_NAME] if len(engines) == 1 else [engine.stem for engine in engines])
    if len(names) != len(engines):
        raise PspError(f"{len(names)} --name for {len(engines)} --engine: expected one for each, or none")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name.endswith(MAPPING_ENDING):
            raise PspError(f"--name {name}: expected letters, digits, dots and dashes, not ending in _mapping")
    if twice := {name for name in names if names.count(name) > 1}:
        raise PspError(f"two engines are called {min(twice)}: give each a --name")
    return tuple(zip(names, (engine.resolve() for engine in engines)))


def check(engines: tuple[tuple[str, Path], ...], delay: float) -> None:
    """Raise `PspError` for what can be said before anything starts."""
    if missing := [module for module in MODULES if importlib.util.find_spec(module) is None]:
        raise PspError(f"psp-serve needs {', '.join(missing)}: pip install 'psp-toolkit[cpu,serve]'")
    if not 0 <= delay <= LONGEST_DELAY:  # nor nan
        raise PspError(f"--delay {delay:g}: expected milliseconds, 0 to {LONGEST_DELAY}")
    for _, path in engines:
        contract.require_full(read_info(path), path)
