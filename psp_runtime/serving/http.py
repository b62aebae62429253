"""Both sides of `serving.proxy`: how long one is waited for, and what the heads of HTTP/1.1 say (RFC 9112)."""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator

#: Bytes copied at a time, and the longest head of a request.
CHUNK, LONGEST_HEAD = 1 << 16, 1 << 14


class Refused(Exception):
    """A request that is not passed on: its status, and what is wrong with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Peer:
    """The caller, or the server behind; `patience` is how many seconds it is waited for at a time, None is for ever."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, patience: float | None = None) -> None:
        self._reader, self._writer, self._patience = reader, writer, patience
        writer.transport.set_write_buffer_limits(0)  # what is written has left this process: a close loses nothing

    async def head(self) -> bytes:
        """The next head; empty where none begins. Raises `Refused` for one that does not end."""
        try:
            with within(self._patience):
                first = await self._reader.read(1)
        except asyncio.TimeoutError:
            return b""
        return first and first + await self._rest_of_head()

    async def _rest_of_head(self) -> bytes:
        try:
            with within(self._patience):
                return await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.TimeoutError:
            raise self._late() from None
        except asyncio.LimitOverrunError:
            raise Refused(400, f"no end of the request's head within {LONGEST_HEAD} bytes") from None

    async def read(self, most: int = CHUNK) -> bytes:
        """Some bytes; empty at the end. Raises `Refused` when none come in time."""
        try:
            with within(self._patience):
                return await self._reader.read(most)
        except asyncio.TimeoutError:
            raise self._late() from None

    async def write(self, data: bytes) -> None:
        """Send it. Raises `ConnectionError` when it is not taken in time: the connection is gone then."""
        self._writer.write(data)
        try:
            with within(self._patience):
                await self._writer.drain()
        except asyncio.TimeoutError:
            self._writer.transport.abort()  # `close` would go on waiting
            raise ConnectionAbortedError("what is sent is not read") from None

    async def discard(self, seconds: float) -> None:
        """Read on for at most so long, for nothing."""
        with contextlib.suppress(asyncio.TimeoutError), within(seconds):
            while await self._reader.read(CHUNK):
                pass

    def close(self) -> None:
        self._writer.close()

    def _late(self) -> Refused:
        return Refused(408, f"waited {self._patience:g} s for the rest of the request: send it again, without a pause")


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raises `asyncio.TimeoutError` in a block that takes longer; `asyncio.timeout` does so from Python 3.11 on.

    `asyncio.wait_for` would start a task for every chunk of every request.
    """
    task, late = asyncio.current_task(), False
    assert task is not None

    def end() -> None:
        nonlocal late
        late = task.cancel()

    timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, end)
    try:
        yield
    except asyncio.CancelledError:
        if late:
            raise asyncio.TimeoutError from None
        raise
    finally:
        if timer:
            timer.cancel()


async def copy(source: Peer, target: Peer, length: int) -> None:
    """Pass `length` bytes on."""
    while length:
        chunk = await source.read(min(length, CHUNK))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", length)
        await target.write(chunk)
        length -= len(chunk)


def read_fields(head: bytes) -> dict[str, str]:
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


def without(head: bytes, name: str) -> bytes:
    """A head without one of its fields."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(f"{name}:".encode()))


def stays_open(head: bytes) -> bool:
    """Whether another message may follow the one with this head: HTTP/1.1 says where not, older versions where so."""
    said = {option.strip() for option in read_fields(head).get("connection", "").lower().split(",")}
    first = head.partition(b"\r\n")[0]  # the version ends it in a request, and begins it in an answer
    return "close" not in said and (b"HTTP/1.1" in (first[:8], first[-8:]) or "keep-alive" in said)
