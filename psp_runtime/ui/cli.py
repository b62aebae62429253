"""`psp-ui`: engines on a web page, for people who look rather than read."""

import importlib.util
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from psp_runtime import console
from psp_runtime.addresses import OnlyKnownHosts, check_address
from psp_runtime.console import Device
from psp_runtime.engines.contract import require_full
from psp_runtime.engines.info import read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.engines.precision import Precision
from psp_runtime.errors import PspError
from psp_runtime.ui.demo_engines import demo_engines
from psp_runtime.ui.runs import Runs
from psp_runtime.ui.uploads import LARGEST, UploadQuota

HOST, PORT = "127.0.0.1", 7860

app = console.new_app()


def main() -> NoReturn:
    """Run the `psp-ui` command."""
    console.run(app)


@app.command(cls=console.Command)
def psp_ui(
    engine: Annotated[
        list[Path] | None, typer.Option(help="An engine to show, several with several --engine (the demo models).")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="auto: the GPU if the engines can use it here, else the CPU.")
    ] = "auto",
    precision: Annotated[Precision, typer.Option(help="As for psp run.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one this machine has.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
    allow: Annotated[
        list[str] | None, typer.Option(help="A name visitors may use for this page, or '*' for any.", metavar="NAME")
    ] = None,
) -> None:
    """Show exported pSp engines on a web page: upload or draw, mix, interpolate, download. Ctrl-C ends it.

    Without --engine, it shows the bundled demo models: each is exported when it is first used, once.
    """
    if importlib.util.find_spec("gradio") is None:
        raise PspError("psp-ui needs Gradio: pip install '.[cpu,ui]'")
    given = [find_engine(path, device) for path in engine or []]
    _check_engines(given)
    check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="psp-ui-") as folder:
        demo = {} if given else demo_engines(Path(folder))
        _serve(given or list(demo), Runs(Path(folder), device, precision, demo), (host, port), allow or [])


def _check_engines(engines: list[Path]) -> None:
    for engine in engines:
        require_full(read_info(engine), engine)
    twice = {str(engine) for engine in engines if engines.count(engine) > 1}
    if twice:
        raise PspError(f"--engine {min(twice)} is given twice")


def _serve(engines: list[Path], runs: Runs, address: tuple[str, int], allowed: list[str]) -> None:
    """Show the page until Ctrl-C or SIGTERM, and raise `KeyboardInterrupt` then.

    Everything uploaded or made lies in the folder of `runs`.
    """
    uploads = runs.folder / "uploads"
    # Gradio reads these when it is imported.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from starlette.middleware import Middleware

    from psp_runtime.ui.page import make_page
    from psp_runtime.ui.style import css, theme

    guards: list[Any] = [Middleware(OnlyKnownHosts, address[0], allowed), Middleware(UploadQuota, uploads)]
    page, ended = make_page(engines, runs), ended_by_signals()
    try:
        _, url, _ = page.launch(
            server_name=address[0], server_port=address[1], share=False, ssr_mode=False, quiet=True, show_error=True,
            css=css(), theme=theme(), max_file_size=LARGEST, footer_links=[], run_history=False,
            prevent_thread_lock=True, app_kwargs={"middleware": guards},
        )  # fmt: skip
        shown = "the bundled demo models" if runs.demo else ", ".join(map(str, engines))
        print(f"{url} shows {shown}; Ctrl-C ends it", flush=True)
        while not ended.wait(1):  # on Windows, Ctrl-C does not reach a wait without an end
            pass
        raise KeyboardInterrupt
    finally:
        page.close(verbose=False)
        runs.close()


def ended_by_signals() -> threading.Event:
    """Return an event that Ctrl-C and SIGTERM set; the second one interrupts as usual.

    Where an exception comes while the page is opened, it may be lost in code of others.
    """
    ended = threading.Event()

    def end(*_: object) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, end)
    return ended
