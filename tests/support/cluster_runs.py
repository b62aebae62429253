"""Runs of `psp-run --ray` in processes of their own."""

import socket
import time
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, count: int, size: int = 256) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"p{index:02}.png")


def contents(folder: Path) -> dict[str, bytes]:
    """Every picture in a folder and its sub-folders."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def errors(err: str) -> list[str]:
    """Our lines on stderr: Ray has its own, of workers that die and of deprecations that only tests show."""
    return [line for line in err.splitlines() if line.startswith("error: ")]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens at port {port}"
            time.sleep(0.05)
