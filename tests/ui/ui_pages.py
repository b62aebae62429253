"""What the tests of the page share: values of its controls, a server of their own, and a browser."""

import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from psp_runtime.cli import psp
from psp_runtime.pictures.label_classes import IDS, PALETTE

REPOSITORY = Path(__file__).parents[2]
RNG = np.random.default_rng(2)
PIXELS = np.kron(RNG.integers(0, 256, (2, 4, 4, 3), np.uint8), np.ones((1, 64, 64, 1), np.uint8))
#: What every control of a page says.
CONTROLS = dict(count=3, seed=0, psi=0.0, layers="4-9", alpha=0.5, steps=4, to="b.png", style_of="b.png")
CONTROLS |= dict(direction="direction.npy", reach=2.0, replaced="hair", by="background")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def asked(make: str, **values: Any) -> dict[str, Any]:
    return {"picture": "a.png", "make": make, **CONTROLS, **values}


def run_command(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(text))
    with pytest.raises(SystemExit) as caught:
        psp()
    assert caught.value.code == 0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a page of the demo models on a loopback port, served by a process; it must end without a trace.

    It works in `folder`, where models can be in the cache folder, and `psp-export` something else.
    """
    pytest.importorskip("gradio", reason="needs the extra ui")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "psp_runtime.ui", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(REPOSITORY), "PSP_CACHE": str(folder), "TMPDIR": str(folder), "PSP_CPU": "onnxruntime"},
    )  # fmt: skip
    try:
        line = server.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, server.communicate(timeout=20)[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
    # Gradio shows it when a visitor leaves in the middle of an upload.
    wrong = [one for one in err.split("Traceback (most recent call last)")[1:] if "ClientDisconnect" not in one]
    assert server.returncode == 130 and err.endswith("interrupted\n") and not wrong, err
    assert not list(folder.glob("psp-ui-*"))  # nothing of what was uploaded stays


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Any, url: str, **context: Any) -> Iterator[Any]:
    """The page as a visitor of his own sees it; nothing may be loaded from elsewhere, and no script may fail."""
    wrong: list[str] = []
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(60_000)
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else wrong.append(r.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    yield page
    page.context.close()
    assert wrong == []


def shown_command(page: Any) -> str:
    """The command under the pictures of the visible tab."""
    find = "() => [...document.querySelectorAll('textarea')].find(one => one.offsetParent && /^psp /.test(one.value))"
    return str(page.wait_for_function(f"({find})()?.value").json_value())


def download(page: Any, button: Any) -> Path:
    """The file behind a button, under the name it comes with, in the working folder."""
    with page.expect_download() as started:
        button.click()
    started.value.save_as(started.value.suggested_filename)
    return Path(started.value.suggested_filename)


def button(page: Any, name: str) -> Any:
    """A button or a link that looks like one, of the visible tab."""
    return page.locator("button:visible, a:visible", has_text=re.compile(f"^\\s*{re.escape(name)}\\s*$")).first


def done(page: Any, words: str) -> None:
    """Wait until the visible tab says what was made."""
    page.locator(".status:visible").get_by_text(words).wait_for()


def loaded(page: Any, width: int) -> None:
    """Wait until before and after are there, so many pixels wide."""
    images = "[...document.querySelectorAll('.compared img')].filter(one => one.offsetParent)"
    page.wait_for_function(f"{images}.filter(one => one.naturalWidth == {width}).length == 2")


def paint(page: Any, canvas: Any, name: str) -> None:
    """Draw a line from left to right, again until it is seen in the colour of a class: a canvas is there before it is.

    Fails after twenty tries.
    """
    for _ in range(20):
        page.wait_for_timeout(500)
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.2 * box["height"], steps=2)
        page.mouse.up()
        seen = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")
        middle = np.array(seen.getpixel((seen.width // 2, seen.height // 5)))
        if np.abs(middle - PALETTE[IDS[name]]).max() < 8:
            return
    raise AssertionError(f"no {name} on the canvas")


def make_all(page: Any, *files: str) -> None:
    """Translate two files as a batch."""
    page.get_by_label("Translate", exact=True).first.check()
    page.get_by_text("Many pictures at once").first.click()
    page.locator("input[type=file][multiple]").first.set_input_files(list(files))
    page.get_by_label("Remove this file").nth(1).wait_for()
    button(page, "Generate all").click()
