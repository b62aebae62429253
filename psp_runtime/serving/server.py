"""psp-serve's processes: Granian, which listens and supervises, and its one worker, which holds HTTP and engines.

The worker is replaced when it dies, when an engine hangs, and when its memory grows beyond the limit. It ends when
psp-serve does, however that ends.
"""

import asyncio
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.context import SpawnContext
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server import Server

from psp_runtime import console
from psp_runtime.addresses import OnlyKnownHosts, cannot_listen
from psp_runtime.errors import PspError
from psp_runtime.serving.app import Service
from psp_runtime.serving.batching import HUNG
from psp_runtime.serving.bodies import ANSWER_SECONDS, Bodies
from psp_runtime.serving.config import DEFAULT_MODEL
from psp_runtime.serving.models import open_engine
from psp_runtime.serving.options import Serve

#: Milliseconds a head may take to arrive, and its largest size; seconds a stop waits for answers.
HEAD_MS, LARGEST_HEAD, STOP = 10_000, 64 << 10, 60
#: Connections at once, and starts in a row that may fail.
CONNECTIONS, STARTS = 4096, 3


class Shared:
    """What psp-serve and its worker tell each other: starts since callers last came in, and that one has failed."""

    def __init__(self) -> None:
        context: SpawnContext = multiprocessing.get_context("spawn")
        self.starts, self.failed = context.Value("i", 0), context.Event()


def serve(options: Serve, address: str) -> None:
    """Serve on `address`, the host's in numbers, until SIGTERM or Ctrl-C.

    A second signal does not wait for answers and raises `KeyboardInterrupt`. Raises `SystemExit` with console.MISTAKE,
    after a line on stderr, when an engine does not open, and `PspError` when no worker can start.
    """
    multiprocessing.set_start_method("spawn", force=True)  # a fork of a process with threads may never get going
    _allow_connections()
    shared = Shared()
    server = Server(
        "psp", address, options.port, interface=Interfaces.ASGI, http=HTTPModes.http1, websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=HEAD_MS, max_buffer_size=LARGEST_HEAD),
        backlog=CONNECTIONS, log_enabled=False, respawn_failed_workers=True, workers_kill_timeout=STOP,
        workers_max_rss=options.max_memory, rss_sample_interval=10,
    )  # fmt: skip
    second = _take_signals(server)
    try:
        server.serve(target_loader=partial(load, options, address, shared), wrap_loader=False)
    except OSError as error:  # taken since it was looked at
        raise cannot_listen(options.host, options.port, error) from None
    except SystemExit:
        if not (shared.failed.is_set() or server.interrupt_signal):
            raise PspError("the process that serves ends as soon as it starts, out of memory for example") from None
    if shared.failed.is_set():
        sys.exit(console.MISTAKE)
    if second.is_set():
        raise KeyboardInterrupt


def _take_signals(server: Any) -> threading.Event:
    """Let a second signal kill the worker; the event is set then. Granian itself never hurries."""
    second = threading.Event()

    def stop(*_: object) -> None:
        if server.interrupt_signal:
            second.set()
            for worker in server.wrks:
                worker.kill()
        server.signal_handler_interrupt()

    def take() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    server.on_startup(take)
    return second


def _allow_connections() -> None:
    """Raise the limit of open files: each takes one, and the usual 1024 are meant for old programs."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 256 if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS + 256)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def load(options: Serve, address: str, shared: Shared) -> Callable[..., Any]:
    """Open the engines, in the worker. One that does not open ends psp-serve, with its reason in a line."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # in a terminal it comes to both: psp-serve stops the worker
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    console.show_warnings()
    try:
        return _open(options, address, shared)
    except (PspError, OSError) as error:
        console.error(error)
        shared.failed.set()
        os.kill(parent, signal.SIGTERM)
        sys.exit(console.MISTAKE)


def _open(options: Serve, address: str, shared: Shared) -> Callable[..., Any]:
    shared.starts.value += 1
    if shared.starts.value > STARTS:
        raise PspError(f"the process that serves has ended {STARTS} times while it started: is there enough memory?")
    if shared.starts.value > 1:
        warnings.warn(
            "the process that serves is replaced: it died, an engine hung, or it took too much memory", stacklevel=1
        )
    engines = [open_engine(path, name, options) for path, name in zip(options.engine, options.names, strict=True)]
    warnings.simplefilter("ignore")  # from here on they are about pictures of strangers
    service = Service(engines, Bodies(options.max_request << 20, options.queue))
    app = service.app(partial(_watch, options, address, shared))
    return OnlyKnownHosts(app, options.host, options.allow or ())


async def _watch(options: Serve, address: str, shared: Shared, service: Service) -> None:
    """Tell that callers can come in, and end this process for a new one once an engine hangs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Granian has taken it since
    await _listening(address, options.port)
    _end_silent_connections()
    shared.starts.value = 1
    _announce(options, service)
    with open(os.devnull, "w") as nowhere:
        while not any(model.batcher.broken for model in service.models.values()):
            # Even where an engine keeps Python itself from running, this ends the process.
            faulthandler.dump_traceback_later(HUNG, exit=True, file=nowhere)
            await asyncio.sleep(0.5)
        await asyncio.sleep(1)  # those who wait are told
        os._exit(1)


async def _listening(host: str, port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


def _end_silent_connections() -> None:
    """Have the system end connections whose callers take nothing: accepted ones inherit it from the one that listens.

    Granian has no deadline for writing, and an `Answer` of ours none for what Granian has taken.
    """
    if sys.platform != "linux":
        return
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.fromfd(int(name), socket.AF_INET, socket.SOCK_STREAM) as one:
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * ANSWER_SECONDS))


def _announce(options: Serve, service: Service) -> None:
    where = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{options.port}"
    for path, engine in zip(options.engine, service.engines, strict=True):
        name, runs = engine.full.name, f"{engine.pipeline.precision}, {engine.pipeline.device}"
        model = "" if name == DEFAULT_MODEL else f"/{name}"
        print(f"{path.name} on {where} ({runs}), model {name}; next: psp run PICTURE --url {where}{model}", flush=True)


def _end_with(parent: int) -> None:
    """Stop this process when psp-serve is gone, killed for example."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP)
    os._exit(1)
