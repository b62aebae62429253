"""Requests that nobody should send, for tests of a real psp-serve."""

import http.client
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
from measure.server import Caller, Server
from PIL import Image

INFER, TRANSLATE = "/v2/models/psp/infer", "/translate"
LENGTH = "Inference-Header-Content-Length"
IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 256, 256, 3], "parameters": {"binary_data_size": 196608}}
PIXELS = np.zeros((1, 256, 256, 3), np.uint8)
MEBIBYTE = 1 << 20


def post(server: Server, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Status and body of the answer; no answer within 30 s is an error."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", path, body, {name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read()


def infer(server: Server, head: object, tensors: bytes = bytes(196608)) -> tuple[int, str]:
    """Send a head, JSON or bytes, and tensors after it; the status and the error."""
    encoded = head if isinstance(head, bytes) else json.dumps(head).encode()
    status, body = post(server, INFER, encoded + tensors, **{LENGTH.replace("-", "_"): str(len(encoded))})
    return status, json.loads(body).get("error", "") if status != 200 else ""


def image_with(**changes: object) -> dict:
    return {"inputs": [{**IMAGE, **changes}]}


def picture(kind: str, size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "grey").save(file, kind)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of one colour, side x side: a few KB that decode into megabytes."""
    rows = zlib.compress(bytes((1 + side // 8) * side), 9)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def grows(server: Server, rounds: int) -> float:
    """MiB that psp-serve has more after so many rounds of requests than after a first few."""
    kinds = [
        lambda: Caller(server.port).infer(image=PIXELS)[0],
        lambda: post(server, TRANSLATE, picture("JPEG", (300, 300)))[0],
        lambda: infer(server, image_with(shape=[2**62, 256, 256, 3]))[0],
        lambda: post(server, TRANSLATE, b"no picture")[0],
        lambda: post(server, INFER, bytes(MEBIBYTE))[0],
    ]

    def work(count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda n: kinds[n % len(kinds)](), range(count * len(kinds))))
        assert {200, 400} == set(statuses)

    work(20)
    before = server.memory()
    work(rounds)
    return (server.memory() - before) / MEBIBYTE


@contextmanager
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as caller:
        yield caller


def raw(server: Server, data: bytes, seconds: float = 15) -> bytes:
    """What comes back for these bytes, until the connection ends or an answer is there."""
    with connection(server) as caller:
        caller.settimeout(seconds)
        with suppress(OSError):  # it is cut while the rest is sent
            caller.sendall(data)
        try:
            return caller.recv(65536)
        except OSError as error:
            assert not isinstance(error, TimeoutError), "neither answered nor cut"
            return b""
