"""Provide the command `psp-serve`: engines over HTTP.

    psp-serve --engine psp.onnx --port 8000

Here is what can be said before anything starts; `serving.server` runs the processes.
"""

import importlib.util
from dataclasses import replace
from typing import NoReturn

from psp_runtime import console
from psp_runtime.addresses import check_address
from psp_runtime.engines import contract
from psp_runtime.engines.info import read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.engines.refinement import check_pair
from psp_runtime.errors import PspError
from psp_runtime.serving.options import Serve, check

#: What it is made of.
MODULES = ("granian", "starlette", "prometheus_client")


def main() -> NoReturn:
    """Run the command, and exit with its code."""
    console.run(app)


def psp_serve(options: Serve) -> None:
    """Check what can be checked before anything starts, then serve until a signal comes."""
    options = replace(options, engine=[find_engine(engine, options.device) for engine in options.engine])
    check(options)
    if missing := [module for module in MODULES if importlib.util.find_spec(module) is None]:
        raise PspError(f"psp-serve needs {', '.join(missing)}: pip install '.[cpu,serve]'")
    for engine in options.engine:
        contract.require_full(read_info(engine), engine)
    if options.first:
        options = replace(options, first=find_engine(options.first, options.device).resolve())
        _check_first(options)
    address = check_address(options.host, options.port)
    from psp_runtime.serving.server import serve  # a help page does without its libraries

    serve(replace(options, engine=[engine.resolve() for engine in options.engine]), address)


def _check_first(options: Serve) -> None:
    assert options.first is not None
    (engine,) = options.engine
    info = read_info(engine)
    if info.part != "step":
        raise PspError(f"--first is for ReStyle engines, {engine} makes its pictures in one step")
    check_pair(info, read_info(options.first), options.first.name)


app = console.make_app(Serve, psp_serve)
