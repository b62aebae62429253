"""What visitors of psp-ui may send: limits of a request, and the quota of all uploads."""

import asyncio
import os
from pathlib import Path
from typing import Any

from psp_runtime.ui.uploads import LARGEST, UploadQuota


async def stored(scope: Any, receive: Any, send: Any) -> None:
    """An application that stores a body, as long as its Content-Length says."""
    length = int(dict(scope["headers"])[b"content-length"])
    (Path(scope["path"]) / f"file{len(os.listdir(scope['path']))}").write_bytes(bytes(length))
    await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(app: UploadQuota, folder: Path, *headers: tuple[bytes, bytes], method: str = "POST") -> int:
    """The status of a request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": str(folder), "headers": headers}
    asyncio.run(app(scope, None, send))
    return int(sent[0]["status"])


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", str(size).encode()


def test_the_oldest_uploads_give_way(tmp_path: Path) -> None:
    app = UploadQuota(stored, tmp_path, quota=1000)
    for age, size in enumerate((300, 400, 200)):
        (tmp_path / str(age)).mkdir()
        file = tmp_path / str(age) / "a.png"
        file.write_bytes(bytes(size))
        os.utime(file, (age, age))
    assert ask(app, tmp_path, length(100)) == 200
    assert len(list(tmp_path.glob("*/a.png"))) == 3
    assert ask(app, tmp_path, length(500)) == 200  # 1000 are there: the two oldest go
    assert [file.parent.name for file in tmp_path.glob("*/a.png")] == ["2"]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) == 800
    assert app.arriving == 0


def test_requests_have_a_limit(tmp_path: Path) -> None:
    app = UploadQuota(stored, tmp_path, quota=1000)
    assert ask(app, tmp_path, length(2 * LARGEST)) == 413
    assert ask(app, tmp_path, (b"transfer-encoding", b"chunked")) == 411
    assert ask(app, tmp_path, (b"content-length", b"-1")) == 411
    assert ask(app, tmp_path, length(1001)) == 503
    app.arriving = 900
    assert ask(app, tmp_path, length(101)) == 503
    assert not list(tmp_path.iterdir())
