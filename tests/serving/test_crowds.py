"""Crowds of hostile callers, and kills, at a real psp-serve; slow: they wait for its deadlines."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hostile import MEBIBYTE, PIXELS, TRANSLATE, grows, picture
from measure.server import Caller, Server
from tiny_engines import write_onnx

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unharmed")]

HALF_BODY = f"POST {TRANSLATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".encode() + b"x" * 100
HALF_HEAD = b"POST /translate HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def dribbling(server: Server, start: bytes, drop: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Callers that have begun and send a few bytes each second, as long as they can."""
    callers, over = [], threading.Event()
    for _ in range(count):
        caller = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        caller.sendall(start)
        callers.append(caller)

    def dribble() -> None:
        while not over.wait(1):
            for caller in callers:
                try:
                    caller.send(drop)
                except OSError:
                    continue

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        yield callers
    finally:
        over.set()
        thread.join()
        for caller in callers:
            caller.close()


def ended_within(callers: list[socket.socket], seconds: float) -> list[bytes]:
    """What each was told before its connection ended. Fails where one is still open."""
    end, told = time.monotonic() + seconds, []
    for caller in callers:
        said = b""
        try:
            while True:
                caller.settimeout(max(0.01, end - time.monotonic()))
                part = caller.recv(65536)
                if not part:
                    break
                said += part
        except ConnectionError:
            pass
        told.append(said)
    return told


@pytest.mark.parametrize(
    ("start", "drop", "status"), [(HALF_HEAD, b"X", b""), (HALF_BODY, b"x", b"HTTP/1.1 408 ")], ids=["heads", "bodies"]
)
def test_300_callers_who_dribble(server: Server, start: bytes, drop: bytes, status: bytes) -> None:
    """They are cut after 10 s (heads) and 20 s (bodies); meanwhile others get their pictures."""
    with dribbling(server, start, drop, 300) as callers:
        started = time.monotonic()
        for _ in range(20):
            assert Caller(server.port).infer(image=PIXELS)[0] == 200
        assert time.monotonic() - started < 10
        told = ended_within(callers, 40)
    assert all(one.startswith(status) for one in told)


def test_callers_who_never_read(server: Server) -> None:
    """Fifty pipeline requests, and twenty ask for large pictures: memory does not grow, and they are cut."""
    before = server.memory()
    body = picture("PNG")
    small = f"POST {TRANSLATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    large = small.replace(b"/translate", b"/translate?size=2048&compression=0")
    callers = []
    for number in range(70):
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(("127.0.0.1", server.port))
        caller.setblocking(False)
        with suppress(BlockingIOError):
            caller.send(small * 1000 if number < 50 else large)
        callers.append(caller)
    time.sleep(10)
    assert Caller(server.port).infer(image=PIXELS)[0] == 200
    most, end = server.memory() - before, time.monotonic() + 120
    while server.metric("psp_held_bytes"):
        assert time.monotonic() < end
        time.sleep(1)
    print(f"{most >> 20} MiB more while 70 callers do not read, {server.memory() - before >> 20} when they are cut")
    assert most < 400 * MEBIBYTE and server.memory() - before < 100 * MEBIBYTE
    for caller in callers:
        caller.close()


def test_memory_over_a_thousand_requests(server: Server) -> None:
    assert grows(server, 1000) < 24


def test_more_connections_than_it_takes(server: Server) -> None:
    """Idle ones are closed after ten seconds, and then others come in again."""
    callers = []
    try:
        for _ in range(900):
            callers.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
        assert Caller(server.port).infer(image=PIXELS)[0] == 200
        ended_within(callers, 30)
    finally:
        for caller in callers:
            caller.close()


def test_sigterm_while_callers_dribble(tmp_path: Path) -> None:
    """It ends when the deadlines of those who have begun are over, with everybody else answered."""
    running = Server(write_onnx(tmp_path / "psp.onnx"), threads=1)
    with dribbling(running, HALF_BODY, b"x", 20), ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(Caller(running.port).infer, image=PIXELS) for _ in range(4)]
        assert [one.result()[0] for one in answers] == [200] * 4
        started = time.monotonic()
        assert running.stop() == 0 and time.monotonic() - started < 40


def test_ten_kills_in_a_row(tmp_path: Path) -> None:
    """Each time a new process serves within seconds, unless it is killed while it starts."""
    running = Server(write_onnx(tmp_path / "psp.onnx"), threads=1)
    for _ in range(10):
        os.kill(running.worker, signal.SIGKILL)
        end = time.monotonic() + 30
        while True:
            try:
                assert Caller(running.port).infer(image=PIXELS)[0] == 200
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
        time.sleep(6)  # less than 5.5 s after the last one, Granian gives up
    assert running.stop() == 0
