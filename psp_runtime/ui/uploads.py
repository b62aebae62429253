"""What visitors of `psp-ui` may send: a request has a limit, and all uploads together have a quota."""

from collections.abc import Iterator
from pathlib import Path

from psp_runtime.addresses import Application, Message, Receive, Send, refuse

#: Bytes of one upload, and of all that are kept: the oldest give way.
LARGEST, QUOTA = 20 << 20, 1 << 30
#: Bytes of a request around an upload.
AROUND = 64 << 10


class UploadQuota:
    """An ASGI application whose POST requests are limited, and whose files in `folder` never take more than `quota`."""

    def __init__(self, app: Application, folder: Path, quota: int = QUOTA) -> None:
        self.app, self.folder, self.quota = app, folder, quota
        self.arriving = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it (411, 413, 503)."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            await refuse(send, 411, "expected Content-Length")
        elif int(length) > LARGEST + AROUND:
            await refuse(send, 413, f"at most {LARGEST >> 20} MB")
        elif self.arriving + int(length) > self.quota:
            await refuse(send, 503, "too many uploads at once: try again later")
        else:
            await self._arrive(int(length), (scope, receive, send))

    async def _arrive(self, size: int, request: tuple[Message, Receive, Send]) -> None:
        self.arriving += size
        try:
            self._make_room()
            await self.app(*request)
        finally:
            self.arriving -= size

    def _make_room(self) -> None:
        """Delete the oldest files until what arrives fits as well."""
        files = sorted(_sizes(self.folder))
        used = sum(size for _, size, _ in files)
        for _, size, file in files:
            if used + self.arriving <= self.quota:
                return
            file.unlink(missing_ok=True)
            used -= size


def _sizes(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """List when each file below a folder was written, its size, and where it is."""
    for file in folder.rglob("*"):
        try:
            facts = file.stat()
        except FileNotFoundError:  # gone meanwhile
            continue
        if file.is_file():
            yield facts.st_mtime, facts.st_size, file
