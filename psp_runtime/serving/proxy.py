"""The reverse proxy of `psp-serve`: HTTP requests of a limited size go on to Triton, and a stop loses none of them.

Triton has no option that limits a body, and what it does with open connections when it stops is its own affair. So it
listens on a port of its own on this machine, and this proxy passes requests and responses on as they are (HTTP/1.1, RFC
9112). Triton could limit its queue, but then no longer prepares a batch while another one runs, and a request that
comes between the two waits for half a second (docs/serving.md): so the proxy counts.
"""

import asyncio
import errno
import json
import time
import warnings
from asyncio import AbstractEventLoop, StreamReader, StreamWriter
from typing import Any

from psp_runtime.serving.http import LONGEST_HEAD, Peer, Refused, copy, read_fields, stays_open, without

#: Seconds a caller is waited for: for the next request, the rest of its head, more of its body, and to take more of
#: the answer. A caller that stalls holds a place in the queue, and every connection holds two of the process's files.
PATIENCE = 60.0
#: Seconds in which a request on its way still gets in after a stop; and in which one that has begun then must arrive,
#: and the rest of a refused one is read.
GRACE, LINGER = 0.5, 5.0
#: What accept() says where there is nothing left to take a connection with.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class ReverseProxy:
    """Passes requests of at most `largest` bytes, and `most` with a body at once, on to 127.0.0.1:`port`."""

    def __init__(self, port: int, largest: int, most: int, patience: float = PATIENCE) -> None:
        self.port, self.largest, self.most, self.patience = port, largest, most, patience
        self.stopping = False
        self._busy = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self._served: set[asyncio.Task[Any]] = set()  # those whose request has arrived, and is being answered

    async def open(self, host: str, port: int) -> None:
        """Accept connections. Raises `OSError` for an address that cannot be listened on."""
        asyncio.get_running_loop().set_exception_handler(self._trouble)
        self._server = await asyncio.start_server(self._connection, host, port, limit=LONGEST_HEAD)

    async def close(self) -> None:
        """Accept no more connections, answer every request that arrives in time, then close."""
        self.stopping = True
        if self._server:
            self._server.close()
        await asyncio.sleep(GRACE)
        end = time.monotonic() + LINGER
        while self._busy > len(self._served) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        await self._cut(self._connections - self._served)
        while self._served:
            await asyncio.sleep(0.01)
        await self.cut()

    async def cut(self) -> None:
        """End every connection at once."""
        await self._cut(self._connections)

    async def _cut(self, tasks: set[asyncio.Task[Any]]) -> None:
        while tasks := tasks & self._connections:  # again: one whose time is up just then takes it for that
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.1)

    def _trouble(self, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        """A shortage is a warning: asyncio reports it a hundred times, and tries again after a second."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            words = "callers wait until others have left; ulimit -n allows more, before psp-serve starts"
            warnings.warn(f"no more connections can be taken ({error.strerror}): {words}", stacklevel=1)
        elif not (self.stopping and isinstance(error, ValueError)):  # trying again after it was closed
            loop.default_exception_handler(context)

    async def _connection(self, reader: StreamReader, writer: StreamWriter) -> None:
        caller, task = Peer(reader, writer, self.patience), asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._requests(caller)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller is gone, or the proxy is closed: nobody is left to tell
        finally:
            self._connections.discard(task)
            caller.close()

    async def _requests(self, caller: Peer) -> None:
        """All requests of one connection; the server behind has one too from the first of them on."""
        up = None
        try:
            while head := await caller.head():
                up = up or await self._connect()
                if not await self._request(head, caller, up):
                    break
        except Refused as refused:
            await _refuse(caller, refused)
        finally:
            if up:
                up.close()

    async def _connect(self) -> Peer:
        try:
            return Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=LONGEST_HEAD))
        except OSError as error:
            raise Refused(502, f"the server behind cannot be reached: {error.strerror}") from None

    async def _request(self, head: bytes, caller: Peer, up: Peer) -> bool:
        """One request and its response; whether another one may follow."""
        task = asyncio.current_task()
        assert task is not None
        self._busy += 1
        try:
            await self._pass_on(head, caller, up)
            self._served.add(task)
            return await self._respond(head, caller, up)
        finally:
            self._busy -= 1
            self._served.discard(task)

    async def _pass_on(self, head: bytes, caller: Peer, up: Peer) -> None:
        fields = read_fields(head)
        length = self._length(fields)
        if length and self._busy > self.most:
            raise Refused(503, f"{self.most} requests wait already, the most in the queue: try again later")
        if fields.get("expect", "").lower() == "100-continue":
            await caller.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = without(head, "expect")
        await up.write(head)
        await copy(caller, up, length)

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

    async def _respond(self, request: bytes, caller: Peer, up: Peer) -> bool:
        head = await _answer(up)
        fields, follows = read_fields(head), stays_open(head)
        keep = follows and stays_open(request) and not self.stopping
        await caller.write(head if keep else without(head, "connection")[:-2] + b"Connection: close\r\n\r\n")
        if request.startswith(b"HEAD "):
            return keep
        if "content-length" in fields:
            await copy(up, caller, int(fields["content-length"]))
        elif "transfer-encoding" in fields or not follows:  # Triton streams only where it closes afterwards
            while chunk := await up.read():
                await caller.write(chunk)
            return False
        return keep


async def _answer(up: Peer) -> bytes:
    """The head of the server's answer."""
    try:
        head = await up.head()
    except (ConnectionError, asyncio.IncompleteReadError):
        head = b""
    if not head:
        raise Refused(502, "the server gave no answer: is the request HTTP/1.1?")
    return head


async def _refuse(caller: Peer, refused: Refused) -> None:
    """Answer as Triton does, and read on for a moment: else the caller may see a reset instead of the answer."""
    body = json.dumps({"error": str(refused)}).encode()
    head = f"HTTP/1.1 {refused.status} {REASONS[refused.status]}\r\nContent-Type: application/json\r\n"
    await caller.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await caller.discard(LINGER)
