"""The front door of `psp-serve`: HTTP requests of a limited size go on to Triton, and a stop loses none of them.

Triton has no option that limits a body, and what it does with open connections when it stops is its own affair. So it
listens on a port of its own on this machine, and this door passes requests and responses on as they are (HTTP/1.1, RFC
9112). Triton could limit its queue, but then no longer prepares a batch while another one runs, and a request that
comes between the two waits for half a second (docs/serving.md): so the door counts.
"""

import asyncio
import contextlib
import json
from asyncio import StreamReader, StreamWriter

#: Bytes copied at a time, and the longest head of a request.
CHUNK, LONGEST_HEAD = 1 << 16, 1 << 14
#: Seconds in which a request on its way still gets in after a stop, and in which the rest of a refused one is read.
GRACE, LINGER = 0.5, 5.0
REASONS = {
    400: "Bad Request",
    411: "Length Required",
    413: "Content Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class Refused(Exception):
    """A request that is not passed on: its status, and what is wrong with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gate:
    """Passes requests of at most `largest` bytes, and `most` with a body at once, on to 127.0.0.1:`port`."""

    def __init__(self, port: int, largest: int, most: int) -> None:
        self.port, self.largest, self.most = port, largest, most
        self.stopping = False
        self._busy = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> None:
        """Accept connections. Raises `OSError` for an address that cannot be listened on."""
        self._server = await asyncio.start_server(self._connection, host, port, limit=LONGEST_HEAD)

    async def close(self) -> None:
        """Accept no more connections, answer every request that has begun, then close."""
        self.stopping = True
        if self._server:
            self._server.close()
        await asyncio.sleep(GRACE)
        while self._busy:
            await asyncio.sleep(0.01)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connection(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._requests(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller is gone, or the door is closed: nobody is left to tell
        finally:
            self._connections.discard(task)
            writer.close()

    async def _requests(self, reader: StreamReader, writer: StreamWriter) -> None:
        """All requests of one connection."""
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port, limit=LONGEST_HEAD)
        except OSError as error:
            await _refuse(reader, writer, Refused(502, f"the server behind is not there: {error.strerror}"))
            return
        try:
            while await self._request(reader, writer, up_reader, up_writer):
                pass
        except Refused as refused:
            await _refuse(reader, writer, refused)
        finally:
            up_writer.close()

    async def _request(
        self, reader: StreamReader, writer: StreamWriter, up_reader: StreamReader, up_writer: StreamWriter
    ) -> bool:
        """One request and its response; whether another one may follow."""
        head = await _read_head(reader)
        self._busy += 1
        try:
            fields = _fields(head)
            length = self._length(fields)
            if length and self._busy > self.most:
                raise Refused(503, f"{self.most} requests wait already, the most in the queue: try again later")
            if fields.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                head = _without(head, "expect")
            up_writer.write(head)
            await _copy(reader, up_writer, length)
            return await self._respond(head, writer, up_reader) and fields.get("connection", "").lower() != "close"
        finally:
            self._busy -= 1

    def _length(self, fields: dict[str, str]) -> int:
        """Bytes of a request's body. Raises `Refused` for one that is too long, or does not say."""
        if "transfer-encoding" in fields:
            raise Refused(411, "a request must say how long it is: expected Content-Length, given Transfer-Encoding")
        text = fields.get("content-length", "0")
        if not (text.isascii() and text.isdigit()):
            raise Refused(400, f"Content-Length {text[:40]!r}: expected a number")
        length = int(text[:20])
        if length > self.largest:
            raise Refused(413, f"a request of {length} bytes: this server takes {self.largest}, send fewer pictures")
        return length

    async def _respond(self, request: bytes, writer: StreamWriter, up_reader: StreamReader) -> bool:
        try:
            head = await _read_head(up_reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            raise Refused(502, "the server gave no answer: is the request HTTP/1.1?") from None
        fields, keep = _fields(head), not self.stopping
        if self.stopping:
            head = _without(head, "connection")[:-2] + b"Connection: close\r\n\r\n"
        writer.write(head)
        if "content-length" in fields and not request.startswith(b"HEAD "):
            await _copy(up_reader, writer, int(fields["content-length"]))
        elif "transfer-encoding" in fields:
            while chunk := await up_reader.read(CHUNK):  # Triton streams only where it closes afterwards
                writer.write(chunk)
                await writer.drain()
        await writer.drain()
        return keep


async def _read_head(reader: StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Refused(400, f"no end of the request's head within {LONGEST_HEAD} bytes") from None


async def _copy(reader: StreamReader, writer: StreamWriter, length: int) -> None:
    while length:
        chunk = await reader.read(min(length, CHUNK))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", length)
        writer.write(chunk)
        await writer.drain()
        length -= len(chunk)


async def _refuse(reader: StreamReader, writer: StreamWriter, refused: Refused) -> None:
    """Answer as Triton does, and read on for a moment: else the caller may see a reset instead of the answer."""
    body = json.dumps({"error": str(refused)}).encode()
    head = f"HTTP/1.1 {refused.status} {REASONS[refused.status]}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await writer.drain()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_discard(reader), LINGER)


async def _discard(reader: StreamReader) -> None:
    while await reader.read(CHUNK):
        pass


def _fields(head: bytes) -> dict[str, str]:
    """The fields of a head by their names in lower case. Raises `Refused` for what is none."""
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or not name:
            raise Refused(400, f"not a field of HTTP/1.1: {line[:60]!r}")
        if name.lower() == "content-length" and fields.get("content-length", value.strip()) != value.strip():
            raise Refused(400, "two fields Content-Length that differ")
        fields[name.lower()] = value.strip()
    return fields


def _without(head: bytes, name: str) -> bytes:
    """A head without one of its fields."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(f"{name}:".encode()))
