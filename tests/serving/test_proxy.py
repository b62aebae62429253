"""The reverse proxy of psp-serve before a plain HTTP server: what gets through, what does not, and stopping."""

import asyncio
import contextlib
import errno
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from psp_runtime.serving import proxy as proxies
from psp_runtime.serving.proxy import ReverseProxy

LARGEST, MOST = 100_000, 8


class Echo(BaseHTTPRequestHandler):
    """Gives back the body it is sent; /slow says that it has arrived, and waits to be let go.

    /last and /endless close afterwards, the second says no length; /big is more than a socket holds.
    """

    protocol_version = "HTTP/1.1"
    arrived, let_go, given_up = threading.Semaphore(0), threading.Event(), threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/slow":
            self.arrived.release()
            self.let_go.wait(10)
        if self.path == "/big":
            body = bytes(64 << 20)
        self.send_response(200)
        if self.path in ("/last", "/endless"):
            self.send_header("Connection", "close")
        if self.path == "/endless":
            body = b"x" * 300_000
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            if self.path == "/big":
                self.given_up.set()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "GRACE", 0.05)


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def through(
    upstream: int, callers: Callable[[int, Callable[[], None]], object], patience: float = proxies.PATIENCE
) -> object:
    """What `callers(port, stop)` returns, run in a thread while the proxy is open; `stop()` begins to close it."""

    async def run() -> object:
        proxy = ReverseProxy(upstream, LARGEST, MOST, patience)
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        await proxy.open("127.0.0.1", 0)
        port = proxy._server.sockets[0].getsockname()[1]
        work = loop.run_in_executor(None, callers, port, lambda: loop.call_soon_threadsafe(stopping.set))
        done, _ = await asyncio.wait(
            [work, asyncio.ensure_future(stopping.wait())], return_when=asyncio.FIRST_COMPLETED, timeout=20
        )
        await asyncio.wait_for(proxy.close(), 20)
        return await work

    return asyncio.run(run())


def post(port: int, path: str = "/", body: bytes = b"", headers: dict | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def under_way(port: int, count: int = MOST) -> tuple[list[threading.Thread], list[tuple[int, bytes]]]:
    """So many slow requests, all of them arrived behind the proxy, and the list their answers go to."""
    answers: list[tuple[int, bytes]] = []
    Echo.let_go.clear()

    def ask(number: int) -> None:
        answers.append(post(port, "/slow", str(number).encode()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
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


def sent(port: int, data: bytes) -> socket.socket:
    """A caller that has sent these bytes, and leaves its connection open."""
    caller = socket.create_connection(("127.0.0.1", port), timeout=10)
    caller.sendall(data)
    return caller


def until_closed(caller: socket.socket) -> bytes:
    """What it is sent until the proxy closes the connection. Raises `TimeoutError` when it does not."""
    answer = b""
    with caller:
        while data := caller.recv(1 << 16):
            answer += data
    return answer


def until_shut(port: int) -> None:
    """Wait until the proxy is closed."""
    with pytest.raises(ConnectionError):
        while True:
            sent(port, b"").close()


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

    announced, whole, next_one = through(upstream, callers)
    assert announced.startswith(b"HTTP/1.1 413 ")
    assert whole[0] == 413 and f"takes {LARGEST}" in json.loads(whole[1])["error"]
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


def test_no_server_behind_it_is_said() -> None:
    assert through(1, lambda port, stop: raw(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 502 ")


def test_the_server_behind_has_no_connection_before_there_is_a_request() -> None:
    assert through(1, lambda port, stop: raw(port, b"")) == b""


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
            while True:  # until the proxy is closed; while all eight wait, one with a body would be refused
                post(port)
        assert not answers  # the proxy is closed before the last of them is served
        finish(slow)
        return sorted(answers)

    assert through(upstream, callers) == [(200, str(n).encode()) for n in range(MOST)]


HEAD = b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n"


@pytest.mark.parametrize("request_", [HEAD, HEAD + b"\r\nabc", HEAD + b"Expect: 100-continue\r\n\r\n"])
def test_a_caller_that_stalls_is_told_and_loses_its_place(
    upstream: int, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    monkeypatch.setattr(proxies, "LINGER", 0.1)

    def callers(port: int, stop: Callable[[], None]) -> object:
        answers = [until_closed(caller) for caller in [sent(port, request_) for _ in range(MOST)]]
        return answers, post(port, body=b"next")

    answers, next_one = through(upstream, callers, patience=1)
    for answer in answers:
        answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert "waited 1 s for the rest" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert next_one == (200, b"next")


def test_an_idle_connection_is_closed_without_a_word(upstream: int) -> None:
    def callers(port: int, stop: Callable[[], None]) -> object:
        return until_closed(sent(port, b"")), until_closed(sent(port, b"GET / HTTP/1.1\r\n\r\n"))

    silent, served = through(upstream, callers, patience=1)
    assert silent == b"" and served.startswith(b"HTTP/1.1 200 ") and served.count(b"HTTP/1.1") == 1


def test_a_caller_that_does_not_read_is_given_up(upstream: int) -> None:
    def callers(port: int, stop: Callable[[], None]) -> object:
        with sent(port, b"GET /big HTTP/1.1\r\n\r\n"):
            return Echo.given_up.wait(15)

    assert through(upstream, callers, patience=1)


def test_a_stop_waits_for_answers_and_for_no_stalled_caller(upstream: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "LINGER", 0.1)

    def callers(port: int, stop: Callable[[], None]) -> object:
        slow, answers = under_way(port, 2)
        stalled = [sent(port, HEAD), sent(port, HEAD + b"\r\nabc")]
        stop()
        cut = [until_closed(caller) for caller in stalled]
        assert not answers
        finish(slow)
        return cut, sorted(answers)

    assert through(upstream, callers) == ([b"", b""], [(200, b"0"), (200, b"1")])


def test_a_request_that_is_arriving_at_a_stop_is_answered(upstream: int) -> None:
    def callers(port: int, stop: Callable[[], None]) -> bytes:
        caller = sent(port, b"POST / HTTP/1.1\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\nabc")
        assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        stop()
        until_shut(port)
        caller.sendall(b"def")
        return until_closed(caller)

    answer = through(upstream, callers)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\nConnection: close\r\n\r\nabcdef")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /HTTP/1.1 HTTP/1.0\r\nConnection: TE\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: TE, Close\r\n\r\n",
        b"GET /last HTTP/1.1\r\n\r\n",
        b"GET /endless HTTP/1.1\r\n\r\n",
    ],
)
def test_the_last_answer_of_a_connection_closes_it(upstream: int, request_: bytes) -> None:
    answer = through(upstream, lambda port, stop: until_closed(sent(port, request_)))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and head.count(b"Connection: close") == 1
    assert len(body) == (300_000 if b"/endless" in request_ else 0)


def test_a_caller_of_http_1_0_may_ask_for_more(upstream: int) -> None:
    def callers(port: int, stop: Callable[[], None]) -> bytes:
        caller = sent(port, b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        first = caller.recv(1000)
        caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return first + until_closed(caller)

    assert through(upstream, callers).count(b"HTTP/1.1 200 ") == 2


def test_a_shortage_of_files_is_a_warning_and_passes(
    upstream: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections cannot be taken for a while, and then again when it stops."""
    monkeypatch.setattr(proxies, "GRACE", 1.5)  # asyncio tries again after a second
    accept, fail, short_of = socket.socket.accept, [], threading.Event()

    def few(listener: socket.socket) -> tuple[socket.socket, object]:
        if fail and listener.getsockname()[1] != upstream:
            fail.pop()
            short_of.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    def callers(port: int, stop: Callable[[], None]) -> tuple[int, bytes]:
        fail.extend([True] * 150)
        answer = post(port, body=b"late")
        fail.extend([True] * 1000)
        short_of.clear()
        with contextlib.suppress(ConnectionError):
            sent(port, b"").close()
        assert short_of.wait(10)
        return answer

    monkeypatch.setattr(socket.socket, "accept", few)
    with pytest.warns(UserWarning, match="no more connections can be taken .Too many open files.: .*ulimit -n"):
        assert through(upstream, callers) == (200, b"late")
    assert not caplog.records
