"""Hostile requests to a real psp-serve: each is answered or cut in time, and everybody else is served on.

The list is docs/security.md's. The fast part runs in any test run, the crowds of callers only with the slow ones.
"""

import gzip
import http.client
import json
import socket
import struct
import time

import pytest
from hostile import (
    IMAGE,
    INFER,
    LENGTH,
    MEBIBYTE,
    TRANSLATE,
    bomb,
    connection,
    grows,
    image_with,
    infer,
    picture,
    post,
    raw,
)
from measure.server import Server

pytestmark = pytest.mark.usefixtures("unharmed")

#: Heads of inference requests that are refused, and a word of the reason.
HEADS = {
    "huge shape": (image_with(shape=[2**62, 256, 256, 3]), "batch of 1..4"),
    "shape that overflows": (image_with(shape=[2**63, 2**63, 2**63, 2**63]), "expected the shape"),
    "long number": (b'{"inputs":[{"name":"image","shape":[' + b"9" * 60_000 + b"]}]}", ""),
    "huge float": (b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1e999,256,256,3]}]}', "expected the shape"),
    "NaN": (b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[NaN,256,256,3]}]}', "expected the shape"),
    "negative batch": (image_with(shape=[-1, 256, 256, 3]), "batch of 1..4"),
    "no picture": (image_with(shape=[0, 256, 256, 3], parameters={"binary_data_size": 0}), "batch of 1..4"),
    "batch too large": (image_with(shape=[5, 256, 256, 3]), "batch of 1..4"),
    "true as a number": (image_with(shape=[True, 256, 256, 3]), "expected the shape"),
    "another shape": (image_with(shape=[1, 100, 256, 3]), "expected the shape"),
    "more axes": (image_with(shape=[1, 256, 256, 3, 1]), "expected the shape"),
    "another type": (image_with(datatype="FP64"), "expected the datatype UINT8"),
    "BYTES": (image_with(datatype="BYTES"), "expected the datatype UINT8"),
    "size that lies": (image_with(parameters={"binary_data_size": 2**40}), "do not fit"),
    "negative size": (image_with(parameters={"binary_data_size": -1}), "do not fit"),
    "no size": (image_with(parameters={}), "binary_data_size"),
    "JSON numbers": (image_with(parameters=None, data=[0] * 9), "binary_data_size"),
    "shared memory": (image_with(parameters={"shared_memory_region": "/etc/passwd"}), "binary_data_size"),
    "twice": ({"inputs": [IMAGE, IMAGE]}, "each once"),
    "ten thousand inputs": ({"inputs": [{}] * 10_000}, "expected a list"),
    "unknown name": (image_with(name="../../etc/passwd"), "each once"),
    "a list as name": (image_with(name=[]), "each once"),
    "no inputs": ({}, "expected a list"),
    "inputs of another kind": ({"inputs": {"image": 1}}, "expected a list"),
    "a list": ([], "expected a JSON object"),
    "deep brackets": (b"[" * 60_000, "not JSON"),
    "deep objects": (b'{"a":' * 10_000, "not JSON"),
    "no JSON": (b"\xff\xfe\x00garbage", "not JSON"),
    "id of another kind": ({**image_with(), "id": {}}, "id:"),
    "long id": ({**image_with(), "id": "x" * 5000}, "id:"),
    "unknown output": ({**image_with(), "outputs": [{"name": "weights"}]}, "outputs:"),
    "many outputs": ({**image_with(), "outputs": [{"name": "output"}] * 1000}, "outputs:"),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_lie(server: Server, name: str) -> None:
    head, words = HEADS[name]
    started = time.monotonic()
    status, error = infer(server, head)
    assert status == 400 and words in error and "\n" not in error
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "length", ["-1", "0", "1e3", "999999999999999999999", "abc", "", "65537", "196700", "٣"], ids=ascii
)
def test_lengths_of_heads_that_lie(server: Server, length: str) -> None:
    body = json.dumps(image_with()).encode() + bytes(196608)
    status, error = post(server, INFER, body, **{LENGTH.replace("-", "_"): length.encode("utf-8").decode("latin-1")})
    assert status == 400 and b"error" in error


def test_150_000_brackets_and_a_head_of_a_megabyte(server: Server) -> None:
    for body in (b"[" * 150_000, b'{"inputs":[' + b" " * MEBIBYTE + b"]}"):
        for headers in ({}, {LENGTH.replace("-", "_"): str(len(body))}):
            assert post(server, INFER, body, **headers)[0] == 400


def test_tensors_that_are_cut_or_too_long(server: Server) -> None:
    assert infer(server, image_with(), bytes(100))[0] == 400
    assert infer(server, image_with(), bytes(200_000)) == (400, "3392 bytes after the last tensor")
    assert infer(server, image_with()) == (200, "")


def test_bodies_that_are_no_pictures(server: Server) -> None:
    refused = {
        "empty": b"",
        "text": b"hello",
        "zip": b"PK\x03\x04" + bytes(100),
        "svg": b"<svg onload='x'/>",
        "cut": picture("PNG")[:60],
        "cut JPEG": picture("JPEG")[:200],
        "TIFF": picture("TIFF"),
        "GIF": picture("GIF"),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    }
    for name, body in refused.items():
        status, error = post(server, TRANSLATE, body)
        assert status == 400 and b"picture" in error and b"/" not in error.replace(b"\\/", b""), name
    assert post(server, TRANSLATE, picture("PNG"))[0] == 200


def test_a_picture_bomb(server: Server) -> None:
    for side in (13_600, 30_000):
        status, error = post(server, TRANSLATE, bomb(side))
        assert status == 400 and b"too large" in error


@pytest.mark.parametrize(
    "query",
    [
        "mask=/etc/passwd",
        "mask=../secret.png",
        "out=/tmp/x.png",
        "engine=/etc/passwd",
        "engine=../psp",
        "url=http://x",
        "size=99999",
        "size=-1",
        "size=1e9",
        f"size={'9' * 5000}",
        "quality=101",
        "compression=10",
        "format=exe",
        "format=",
        "psi=nan&mix=true",
        "psi=inf&mix=1",
        "seed=-1&mix=1",
        "seed=99999999999999999999&mix=1",
        "layers=99-9999999&mix=1",
        f"layers={'0-13,' * 9_000}99&mix=1",
        "alpha=7&mix=1",
        "mix=maybe",
        "mix=true&mix=true",
        "size=9&size=9",
        "seed=1",
        "downsample=0",
        "sketch_from_photo=true",
        "x" * 5000 + "=1",
        "threads=1000",
        "ray=local",
        "save_latents=/tmp/x.npy",
    ],
    ids=lambda query: query[:24],
)
def test_queries_that_ask_for_what_is_not_theirs(server: Server, query: str) -> None:
    status, body = post(server, f"{TRANSLATE}?{query}", picture("PNG"))
    assert status in (400, 404) and len(json.loads(body)["error"]) < 500


def test_a_body_too_large_is_refused_before_it_is_read(server: Server) -> None:
    for head in (f"Content-Length: {1 << 30}", "Content-Length: 16777217"):
        answer = raw(server, f"POST {TRANSLATE} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 413 ")


def test_chunks_without_an_end(server: Server) -> None:
    """Sent until the server has had enough; it answers, or the connection ends."""
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    with connection(server) as caller:
        caller.sendall(f"POST {TRANSLATE} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 64 * MEBIBYTE:
                caller.sendall(chunk)
                sent += 65536
        except OSError:
            pass
        assert sent < 40 * MEBIBYTE


def test_a_compressed_body_is_not_unpacked(server: Server) -> None:
    body = gzip.compress(bytes(64 * MEBIBYTE))
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        assert post(server, INFER, body, Content_Encoding=encoding)[0] == 415


@pytest.mark.parametrize(
    "host",
    ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "[::1", "a b", "", "evil.com@localhost"],
)
def test_names_that_are_not_its_own(server: Server, host: str) -> None:
    """A page whose name leads to 127.0.0.1 (DNS rebinding) calls by that name."""
    assert b" 403 " in raw(server, f"GET /v2 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[:16]


def test_names_that_are(server: Server) -> None:
    for host in (
        "localhost",
        "LOCALHOST:9",
        f"127.0.0.1:{server.port}",
        "[::1]:8000",
        "192.168.1.9",
        socket.gethostname(),
    ):
        assert b" 200 " in raw(server, f"GET /v2 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[:16], host


@pytest.mark.parametrize(
    "origin", ["http://evil.com", "null", "http://localhost:1", "file://", "http://[", "http://a b"]
)
def test_pages_of_other_sites(server: Server, origin: str) -> None:
    assert post(server, TRANSLATE, picture("PNG"), Origin=origin)[0] == 403
    assert post(server, TRANSLATE, picture("PNG"), Origin=f"http://127.0.0.1:{server.port}")[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MEBIBYTE + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: x\r\n" % n for n in range(100_000)) + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda head: ascii(head[:40]),
)
def test_heads_that_are_no_http(server: Server, head: bytes) -> None:
    """An error, or the end of the connection; never a success."""
    answer = raw(server, head)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../etc/passwd",
        "/v2/models/%2e%2e/config",
        "/static/x",
        "/v2/models/none/infer",
        "/v2/repository/index",
        "/v2/systemsharedmemory/status",
        "/v2/logging",
        "/v2/models/psp/versions/2/ready",
        "//evil.com/v2",
    ],
)
def test_paths_that_are_not_there(server: Server, path: str) -> None:
    caller = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    caller.request("GET", path)
    answer = caller.getresponse()
    assert answer.status in (404, 405) and "error" in json.loads(answer.read())


def test_callers_who_leave(server: Server) -> None:
    """In the middle of a head, of a body, and before the answer."""
    body = picture("PNG", (256, 256))
    whole = f"POST {TRANSLATE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    for end in (20, len(whole) - 100, len(whole)):
        for _ in range(10):
            with connection(server) as caller:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                caller.sendall(whole[:end])


def test_memory_stays_where_it_is(server: Server) -> None:
    """Over some requests of each kind, good and bad; the long part sends a thousand."""
    assert grows(server, 60) < 32  # of 90 MiB that are sent
