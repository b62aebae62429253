"""The front door of psp-serve against a plain HTTP server behind it: what gets through, what does not, and stopping."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from psp_runtime.serving import gate as gates
from psp_runtime.serving.gate import Gate

LARGEST, MOST = 100_000, 8


class Echo(BaseHTTPRequestHandler):
    """Gives back the body it is sent; /slow says that it has arrived, and waits to be let go."""

    protocol_version = "HTTP/1.1"
    arrived, let_go = threading.Semaphore(0), threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/slow":
            self.arrived.release()
            self.let_go.wait(10)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GRACE", 0.05)


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def through(upstream: int, callers: Callable[[int, Callable[[], None]], object]) -> object:
    """What `callers(port, stop)` returns, run in a thread while the gate is open; `stop()` begins to close it."""

    async def run() -> object:
        gate, stopping, loop = Gate(upstream, LARGEST, MOST), asyncio.Event(), asyncio.get_running_loop()
        await gate.open("127.0.0.1", 0)
        port = gate._server.sockets[0].getsockname()[1]
        work = loop.run_in_executor(None, callers, port, lambda: loop.call_soon_threadsafe(stopping.set))
        done, _ = await asyncio.wait(
            [work, asyncio.ensure_future(stopping.wait())], return_when=asyncio.FIRST_COMPLETED, timeout=20
        )
        await gate.close()
        return await work

    return asyncio.run(run())


def post(port: int, path: str = "/", body: bytes = b"", headers: dict | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def under_way(port: int) -> tuple[list[threading.Thread], list[tuple[int, bytes]]]:
    """As many slow requests as the gate holds, all of them arrived behind it, and the list their answers go to."""
    answers: list[tuple[int, bytes]] = []
    Echo.let_go.clear()

    def ask(number: int) -> None:
        answers.append(post(port, "/slow", str(number).encode()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(MOST)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert Echo.arrived.acquire(timeout=10)
    return threads, answers


def finish(threads: list[threading.Thread]) -> None:
    """Let the slow requests go, and wait for their answers."""
    Echo.let_go.set()
    for thread in threads:
        thread.join()


def raw(port: int, request: bytes) -> bytes:
    """What is answered to these bytes until the connection closes."""

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    return asyncio.run(talk())


def test_bodies_pass_unchanged_over_one_connection(upstream: int) -> None:
    bodies = [bytes(range(256)) * (n * 97) for n in (0, 1, 3)] + [b"x" * LARGEST]

    def callers(port: int, stop: Callable[[], None]) -> list[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        answers = []
        for body in bodies:
            connection.request("POST", "/", body)
            answers.append(connection.getresponse().read())
        return answers

    assert through(upstream, callers) == bodies


def test_a_body_that_is_too_long_is_refused_before_it_is_read(upstream: int) -> None:
    def callers(port: int, stop: Callable[[], None]) -> object:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        return raw(port, head + b"x" * 1000), post(port, body=b"x" * (LARGEST + 1)), post(port, body=b"still there")

    announced, sent, next_one = through(upstream, callers)
    assert announced.startswith(b"HTTP/1.1 413 ")
    assert sent[0] == 413 and f"takes {LARGEST}" in json.loads(sent[1])["error"]
    assert next_one == (200, b"still there")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00garbage\x00\r\nmore garbage\r\n\r\n", 400),
        (b"GET /" + b"a" * 40_000, 400),
    ],
)
def test_what_is_no_request_is_answered_with_its_error(upstream: int, request_: bytes, status: int) -> None:
    answer = through(upstream, lambda port, stop: raw(port, request_))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_a_caller_that_waits_for_100_continue_is_told_to(upstream: int) -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nhi"
    answer = through(upstream, lambda port, stop: raw(port, head))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ") and answer.endswith(b"hi")


def test_no_server_behind_it_is_said(upstream: int) -> None:
    assert through(1, lambda port, stop: raw(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 502 ")


def test_more_than_it_may_hold_is_refused_and_comes_again_later(upstream: int) -> None:
    """Eight slow requests are under way: a ninth is refused at once, what has no body gets through."""

    def callers(port: int, stop: Callable[[], None]) -> object:
        slow, _ = under_way(port)
        refused, health = post(port, body=b"ninth"), post(port)
        finish(slow)
        return refused, health, post(port, body=b"ninth")

    (status, body), health, later = through(upstream, callers)
    assert status == 503 and "8 requests wait already" in json.loads(body)["error"]
    assert health == (200, b"") and later == (200, b"ninth")


def test_a_stop_answers_what_has_begun(upstream: int) -> None:
    """Eight slow requests are under way when it is told to stop: all get their answer, a later one gets none."""

    def callers(port: int, stop: Callable[[], None]) -> object:
        slow, answers = under_way(port)
        stop()
        with pytest.raises(ConnectionError):
            while True:  # until the door is closed; while all eight wait, one with a body would be refused
                post(port)
        assert not answers  # the door is closed before the last of them is served
        finish(slow)
        return sorted(answers)

    assert through(upstream, callers) == [(200, str(n).encode()) for n in range(MOST)]
