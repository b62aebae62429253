"""Where `psp-serve` and `psp-ui` listen: whether they can, who reaches them there, and by which names."""

import ipaddress
import json
import os
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from psp_runtime.errors import PspError

#: What an ASGI application is called with, and the application.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

#: A value of --allow: any name.
ANY = "*"
#: Headers that say by which name a server was called, and which page asks.
HEADERS = (b"host", b"origin")


def check_address(host: str, port: int) -> str:
    """Find the address of `host` in numbers. Warn where others than this machine can come in.

    Raises `PspError` where nothing can listen.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family):
            pass
    except OSError as error:
        raise cannot_listen(host, port, error) from None
    except UnicodeError:  # of what can be no name at all, such as a..b
        raise PspError(f"--host {host}: expected an address or the name of this machine, such as 127.0.0.1") from None
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        warnings.warn(f"--host {host}: everyone who reaches this machine can use it, without a password", stacklevel=2)
    return str(address[0])


def cannot_listen(host: str, port: int, error: OSError) -> PspError:
    """Make the error to raise where an address cannot be listened on."""
    # asyncio and getaddrinfo have words of their own, and numbers that are none of the system's.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return PspError(f"cannot listen on {host} port {port}: {reason}; choose another --port or --host")


class OnlyKnownHosts:
    """An ASGI application that answers only those who call it by a name it has, and no pages of other sites.

    A page on the web can have its own name lead to 127.0.0.1 and read what answers there (DNS rebinding); then Host is
    the page's name. Known are addresses in numbers, localhost, this machine's name, `host` and the names `allowed`. A
    page of another site says so in Origin; pages of the names `allowed` may ask.
    """

    def __init__(self, app: Application, host: str, allowed: Sequence[str] = ()) -> None:
        self.app = app
        self.allowed = {name.lower() for name in allowed}
        self.known = {"localhost", socket.gethostname().lower(), host.lower()} | self.allowed

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] == "lifespan" or not (reason := self._stranger(scope["headers"])):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await refuse(send, 403, reason)

    def _stranger(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Say why a request is refused; empty where it is not."""
        hosts, origins = ([text.decode("latin-1") for name, text in headers if name == of] for of in HEADERS)
        if len(hosts) > 1 or len(origins) > 1:
            return "Host and Origin: expected each once"
        if ANY in self.allowed:
            return ""
        host = _netloc(f"//{hosts[0]}") if hosts else ("", "")  # no browser leaves it out
        if hosts and host[1] not in self.known and not _is_number(host[1]):
            return "this server has no such name: --allow gives it one"
        origin = _netloc(origins[0]) if origins else host
        if origin != host and origin[1] not in self.allowed:
            return "a page of another site asks: --allow NAME lets those of NAME in"
        return ""


async def refuse(send: Send, status: int, text: str) -> None:
    """Answer a request with an error in JSON, and read no more of it."""
    head = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": json.dumps({"error": text}).encode()})


def _netloc(url: str) -> tuple[str, str]:
    """Read NAME:PORT and NAME from a URL; texts that are neither address nor name where it is none."""
    try:
        parts = urlsplit(url)
        known = parts.hostname and "@" not in parts.netloc
        return (parts.netloc.lower(), str(parts.hostname)) if known else ("?", "?")
    except ValueError:
        return "?", "?"


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
