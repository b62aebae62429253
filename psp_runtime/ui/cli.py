"""`psp-ui`: engines on a web page, for people who look rather than read."""

import importlib.util
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from psp_runtime import console
from psp_runtime.addresses import check_address
from psp_runtime.console import Device
from psp_runtime.engines.contract import require_full
from psp_runtime.engines.info import read_info
from psp_runtime.engines.location import find_engine
from psp_runtime.errors import PspError
from psp_runtime.ui.demo_engines import demo_engines

HOST, PORT = "127.0.0.1", 7860
#: Uploads may be so large.
LARGEST = "20mb"

app = console.new_app()


def main() -> NoReturn:
    """The `psp-ui` command."""
    console.run(app)


@app.command(cls=console.Command)
def psp_ui(
    engine: Annotated[
        list[Path] | None, typer.Option(help="An engine to show, several with several --engine (the demo models).")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="auto: the GPU if the engines can use it here, else the CPU.")
    ] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one this machine has.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
) -> None:
    """Show exported pSp engines on a web page: upload or draw, mix, interpolate, download. Ctrl-C ends it.

    Without --engine, the bundled demo models are exported first, once.
    """
    if importlib.util.find_spec("gradio") is None:
        raise PspError("psp-ui needs Gradio: pip install 'psp-toolkit[cpu,ui]'")
    given = [find_engine(path, device) for path in engine or []]
    _check_engines(given)
    check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="psp-ui-") as folder:
        engines = given or demo_engines(Path(folder))
        _serve(engines, Path(folder), device, host, port)


def _check_engines(engines: list[Path]) -> None:
    for engine in engines:
        require_full(read_info(engine), engine)
    twice = {str(engine) for engine in engines if engines.count(engine) > 1}
    if twice:
        raise PspError(f"--engine {min(twice)} is given twice")


def _serve(engines: list[Path], folder: Path, device: Device, host: str, port: int) -> None:
    """Show the page until Ctrl-C or SIGTERM. Everything uploaded or made lies in `folder`."""
    # Gradio reads these when it is imported.
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from psp_runtime.ui.page import CSS, make_page
    from psp_runtime.ui.runs import Runs

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runs = Runs(folder, device)
    page = make_page(engines, runs)
    try:
        _, url, _ = page.launch(
            server_name=host, server_port=port, share=False, ssr_mode=False, quiet=True, show_error=True, css=CSS,
            max_file_size=LARGEST, footer_links=[], run_history=False, prevent_thread_lock=True,
        )  # fmt: skip
        print(f"{url} shows {', '.join(str(engine) for engine in engines)}; Ctrl-C ends it", flush=True)
        while not threading.Event().wait(1):  # on Windows, Ctrl-C does not reach a wait without an end
            pass
    finally:
        page.close(verbose=False)
        runs.close()
