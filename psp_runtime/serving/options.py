"""What `psp serve` is asked for: each option once, on a field."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from psp_runtime.console import Device
from psp_runtime.engines.precision import Precision
from psp_runtime.errors import PspError
from psp_runtime.run.options import MOST_BATCH
from psp_runtime.serving.config import DEFAULT_MODEL, MAPPING_ENDING

#: Milliseconds a batch may wait for more pictures at most.
LONGEST_DELAY = 60_000


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve engines over HTTP. Ctrl-C or SIGTERM stops it once every request is answered."""

    engine: Annotated[list[Path], typer.Option(help="An engine: .onnx or .trt; several with several --engine.")]
    first: Annotated[
        Path | None, typer.Option(help="ReStyle: begin with a step of this engine, as psp run does.", metavar="ENGINE")
    ] = None
    name: Annotated[
        list[str] | None, typer.Option(help="What it is called in URLs (one: psp, several: as their files).")
    ] = None
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where callers come in (HTTP).")] = 8000
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1"
    allow: Annotated[
        list[str] | None, typer.Option(help="A name callers may use for this server, or '*' for any.", metavar="NAME")
    ] = None
    device: Annotated[Device, typer.Option(help="As for psp run.")] = "auto"
    precision: Annotated[Precision, typer.Option(help="As for psp run.")] = "auto"
    batch: Annotated[
        int | None, typer.Option(min=1, max=MOST_BATCH, help="Pictures of a batch (GPU: the most, CPU: 1).")
    ] = None
    delay: Annotated[float, typer.Option(help="Milliseconds a batch waits for more pictures.")] = 2.0
    queue: Annotated[int, typer.Option(min=1, help="Requests at once, waiting ones too; more are refused.")] = 256
    max_request: Annotated[int, typer.Option(min=1, max=1024, help="Largest request, MiB.")] = 16
    max_memory: Annotated[
        int | None, typer.Option(min=64, help="MiB from which on the process that serves is replaced (never).")
    ] = None

    @property
    def names(self) -> list[str]:
        """What the engines are called in URLs."""
        return self.name or ([DEFAULT_MODEL] if len(self.engine) == 1 else [engine.stem for engine in self.engine])


def check(options: Serve) -> None:
    """Raise `PspError` for names that meet, or are none, for a delay that is none and for a --first of several."""
    if options.first and len(options.engine) > 1:
        raise PspError(f"--first goes with one --engine, given {len(options.engine)}: serve the others apart")
    names = options.names
    if len(names) != len(options.engine):
        raise PspError(f"{len(names)} --name for {len(options.engine)} --engine: expected one for each, or none")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name.endswith(MAPPING_ENDING):
            raise PspError(f"--name {name}: expected letters, digits, dots and dashes, not ending in _mapping")
    if twice := {name for name in names if names.count(name) > 1}:
        raise PspError(f"two engines are called {min(twice)}: give each a --name")
    if not 0 <= options.delay <= LONGEST_DELAY:  # nor nan
        raise PspError(f"--delay {options.delay:g}: expected milliseconds, 0 to {LONGEST_DELAY}")
