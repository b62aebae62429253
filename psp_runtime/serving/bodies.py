"""Bodies of requests and answers: under a limit, a deadline, and a budget of bytes for all callers together."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from psp_runtime.errors import PspError

#: Seconds a body may take to arrive, and an answer to be taken.
SECONDS, ANSWER_SECONDS = 20.0, 60.0
#: Bytes of bodies and answers, of all callers; of an answer, so many are handed over at once.
BUDGET, PART = 256 << 20, 256 << 10


class Refused(PspError):
    """A request that is not answered with what it asks for: an HTTP status, and why in a line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Bodies:
    """Reads bodies of at most `largest` bytes; of those that are complete, `most` have a place at once.

    A place is for complete requests only: callers that dribble take none. `held` counts bytes, `placed` requests.
    """

    def __init__(self, largest: int, most: int, seconds: float = SECONDS, budget: int = BUDGET) -> None:
        self.largest, self.most, self.seconds, self.budget = largest, most, seconds, budget
        self.held, self.placed = 0, 0

    @asynccontextmanager
    async def whole(self, request: Request) -> AsyncIterator[bytearray]:
        """Read a body; it counts until the block ends. Raises `Refused` (408, 413, 415, 503)."""
        self._check_head(request)
        data = bytearray()
        try:
            await self._arrived(request, data)
            if self.placed >= self.most:
                raise Refused(503, f"{self.most} requests wait already, the most in the queue: try again later")
            self.placed += 1
            try:
                yield data
            finally:
                self.placed -= 1
        finally:
            self.held -= len(data)

    def _check_head(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "expected the body as it is, given a Content-Encoding: leave it out")
        if int(request.headers.get("content-length", "0")) > self.largest:  # the server has seen that it is a number
            self._refuse_long()

    async def _arrived(self, request: Request, data: bytearray) -> None:
        try:
            await asyncio.wait_for(self._read(request, data), self.seconds)
        except asyncio.TimeoutError:
            raise Refused(408, f"the body took more than {self.seconds:g} s to arrive") from None

    async def _read(self, request: Request, data: bytearray) -> None:
        async for part in request.stream():
            if len(data) + len(part) > self.largest:
                self._refuse_long()
            if self.held + len(part) > self.budget:
                raise Refused(503, "requests of too many bytes arrive at once: try again later")
            data += part
            self.held += len(part)

    def _refuse_long(self) -> None:
        raise Refused(413, f"this server takes requests of {self.largest} bytes at most: send less")


class Answer(Response):
    """A body for a caller: its bytes count until they are taken. A caller who does not take them is cut off."""

    def __init__(self, bodies: Bodies, body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(body, media_type=media_type, headers=headers)
        self.bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it in parts, so that the server lets us wait for the caller. Raises `ClientDisconnect`."""
        self.bodies.held += len(self.body)
        try:
            await asyncio.wait_for(self._send(send), ANSWER_SECONDS)
        except asyncio.TimeoutError:
            raise ClientDisconnect from None
        finally:
            self.bodies.held -= len(self.body)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for at in range(0, len(self.body), PART):
            more = at + PART < len(self.body)
            await send({"type": "http.response.body", "body": bytes(self.body[at : at + PART]), "more_body": more})
