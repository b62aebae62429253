"""Crowds of hostile callers, and kills, at a real psp-serve; they wait for its deadlines (`make long`)."""

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

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unharmed")]

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
        print(f"the last of 300 was cut after {time.monotonic() - started:.0f} s")
    assert all(one.startswith(status) for one in told)


def test_callers_who_never_read(server: Server) -> None:
    """Fifty pipeline a thousand requests, and twenty ask for large pictures: memory stays, and they are cut."""
    before = server.memory()
    body = picture("PNG")
    large = f"POST {TRANSLATE}?size=2048&compression=0 HTTP/1.1\r\n"
    large += f"Host: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    many = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    callers = [silent(server, many) for _ in range(50)] + [silent(server, large.encode() + body) for _ in range(20)]
    started = time.monotonic()
    time.sleep(10)
    assert Caller(server.port).infer(image=PIXELS)[0] == 200
    most = server.memory() - before
    while any(map(is_open, callers)) and time.monotonic() < started + 150:
        time.sleep(1)
    after = server.memory() - before
    print(f"70 callers who do not read: {most >> 20} MiB more, {after >> 20} once they are cut", end=" ")
    print(f"after {time.monotonic() - started:.0f} s")
    assert not any(map(is_open, callers)) and server.metric("psp_held_bytes") == 0
    assert most < 512 * MEBIBYTE  # Python's allocator keeps some of it, for the next ones


def silent(server: Server, data: bytes) -> socket.socket:
    """A caller who sends what can be sent and reads nothing, with little room for answers."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(("127.0.0.1", server.port))
    caller.setblocking(False)
    with suppress(BlockingIOError):
        caller.send(data)
    return caller


def is_open(caller: socket.socket) -> bool:
    """Whether the other end still has a connection, as the system's table of them says (state 1)."""
    port = f":{caller.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(port) and row[3] == "01" for row in rows)


def test_memory_over_a_thousand_requests(server: Server) -> None:
    more = grows(server, 200)
    print(f"{more:.1f} MiB more after 1000 requests")
    assert more < 32


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
        print(f"SIGTERM with 20 callers that dribble: ended after {time.monotonic() - started:.1f} s")


def test_ten_kills_in_a_row(tmp_path: Path) -> None:
    """Each time a new process serves within seconds."""
    running = Server(write_onnx(tmp_path / "psp.onnx"), threads=1)
    for _ in range(10):
        os.kill(running.worker, signal.SIGKILL)
        killed = time.monotonic()
        end = killed + 30
        while True:
            try:
                assert Caller(running.port).infer(image=PIXELS)[0] == 200
                print(f"a picture {time.monotonic() - killed:.1f} s after kill -9")
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
        time.sleep(6)  # less than 5.5 s after the last one, Granian gives up
    assert running.stop() == 0


def test_one_that_takes_too_much_memory_is_replaced(tmp_path: Path) -> None:
    """Any takes more than 64 MiB; it is looked at every ten seconds."""
    running = Server(write_onnx(tmp_path / "psp.onnx"), options=("--max-memory", "64"), threads=1)
    first, end = running.worker, time.monotonic() + 60
    while running.worker == first or Path(f"/proc/{first}").exists():
        assert time.monotonic() < end
        time.sleep(0.2)
    assert Caller(running.port).infer(image=PIXELS)[0] == 200
    assert running.stop() == 0
