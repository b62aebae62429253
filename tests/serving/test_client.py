"""`psp-run --url` on servers that are no Triton, or answer half of what they should."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from psp_runtime.errors import EngineError, PspError
from psp_runtime.run.checks import check
from psp_runtime.run.options import Options
from psp_runtime.serving.client import connect

pytest.importorskip("tritonclient.http", reason="needs tritonclient")


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URL of a server that answers every request with these bytes and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def ok(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (size, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes([0x15, 3, 3, 0, 2, 2, 0x46]),  # of an https port
        ok(b"[]"),
        ok(b'"text"'),
        ok(b"{}"),
        ok(b'{"max_batch_size": 8, "parameters": {"psp": {}}}'),
        ok(b'{"max_batch_size": 8, "parameters": []}'),
        ok(b'{"max_batch', 500),
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>no</html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
    ],
)
def test_every_other_server_is_one_line(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(EngineError, match="what answers there is no Triton") as caught:
        connect(url)
    assert "\n" not in str(caught.value)


def test_a_model_of_somebody_else() -> None:
    answer = ok(b'{"max_batch_size": 8, "parameters": {}}')
    with answering(answer) as url, pytest.raises(EngineError, match="the model psp there is none of psp-serve"):
        connect(url)


def test_the_device_is_the_servers() -> None:
    with pytest.raises(PspError, match="--url and --device contradict each other"):
        check(Options(url="http://host:8000", device="cuda"), None)  # type: ignore[arg-type]
