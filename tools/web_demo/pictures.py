"""`make ui-pictures`: the web demo in a browser -> docs/ui/*.jpg, in light and dark, on a wide screen and on a phone.

    python tools/web_demo/pictures.py

Starts `psp ui` with the bundled models and an empty cache, clicks what a visitor would, and takes pictures of what he
sees. Needs the extras ui and export, playwright and Chromium.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docs" / "ui"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
QUALITY = 80
#: A model may have to be exported first, in milliseconds.
PATIENCE = 600_000


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with serving() as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (theme, size, click) in PICTURES.items():
            page = browser.new_context(viewport=size).new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(f"{url}/?__theme={theme}")
            click(page)
            if size is not PHONE:  # what is under the bar with Generate was scrolled to before the click
                page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(1500)
            save(page.screenshot(), FOLDER / f"{name}.jpg")
            page.context.close()
        browser.close()


@contextmanager
def serving() -> Iterator[str]:
    """Serve the web demo in an empty folder, its cache among it; the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "psp_runtime.ui", "--port", str(port)], stdout=subprocess.PIPE, text=True,
            cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PSP_CACHE": "models"},
        )  # fmt: skip
        try:
            assert server.stdout is not None and server.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def save(png: bytes, path: Path) -> None:
    """Write a picture of the page as JPEG."""
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=QUALITY, optimize=True)
    print(path.relative_to(REPOSITORY), path.stat().st_size)


def example(page: Any, number: int, words: str = "1 picture in") -> None:
    """Click an example of the visible tab, and wait for what is made of it."""
    page.locator(".examples:visible img").nth(number).click()
    page.locator(".status:visible").get_by_text(words).first.wait_for()


def translated(page: Any) -> None:
    example(page, 0)


def edited(page: Any) -> None:
    example(page, 4)
    page.get_by_label("Edit", exact=True).first.check()
    page.locator(".status:visible").get_by_text("7 pictures in").first.wait_for()


def photo(page: Any) -> None:
    page.locator(".examples:visible img").nth(5).click()
    page.get_by_text("Which face").locator("visible=true").first.wait_for()
    page.get_by_label("all", exact=True).locator("visible=true").check()
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(one => /--faces all/.test(one.value))")


def painted(page: Any) -> None:
    page.get_by_role("tab", name="segmentation").click()
    page.wait_for_timeout(3000)
    example(page, 2)


def preparing(page: Any) -> None:
    page.get_by_role("tab", name="sketch").click()
    page.locator(".examples:visible img").nth(1).click()
    page.get_by_text("2/7 steps").first.wait_for()


def refused(page: Any) -> None:
    letter = {"name": "letter.jpg", "mimeType": "image/jpeg", "buffer": b"Dear reader"}
    page.locator("input[type=file]").first.set_input_files(letter)
    page.locator(".block.wrong:visible").wait_for()


def on_phone(page: Any) -> None:
    example(page, 0)
    page.get_by_role("button", name="Generate", exact=True).first.click()
    page.wait_for_timeout(3000)


#: Each picture: the theme, the size of the screen, and what is clicked.
PICTURES: dict[str, tuple[str, Any, Callable[[Any], None]]] = {
    "light": ("light", WIDE, translated),
    "dark": ("dark", WIDE, edited),
    "photo": ("light", {"width": 1280, "height": 1100}, photo),
    "labels": ("light", {"width": 1280, "height": 1100}, painted),
    "progress": ("light", WIDE, preparing),
    "error": ("light", WIDE, refused),
    "phone_first": ("light", PHONE, lambda page: page.wait_for_timeout(2000)),
    "phone_result": ("dark", PHONE, on_phone),
}


if __name__ == "__main__":
    main()
