"""psp-run as a process: full disks, Ctrl-C, terminals, closed pipes, names that are not text."""

import functools
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from translation_folder import names, one_error

REPOSITORY = Path(__file__).parents[3]


def start(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    """psp-run as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "psp_runtime", *arguments]
    return subprocess.Popen(command, text=True, env=environment, **{"stdout": pipe, "stderr": pipe, **options})


def test_a_file_that_may_not_grow(here: Path) -> None:
    """What a full disk is, without filling one: writing fails in the middle of a file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    process = start("image.png", "--engine", "psp.onnx", "--save-latents", "c.npy", preexec_fn=limit)
    out, err = process.communicate(timeout=30)
    assert one_error((process.returncode, out, err)) == "cannot write image_out.png: File too large"
    assert not list(here.glob(".*")) and not Path("image_out.png").exists() and not Path("c.npy").exists()


def many_pictures(count: int) -> None:
    for index in range(count):
        os.link("image.png", f"photos/x{index}.png")


def test_ctrl_c_in_the_middle(here: Path) -> None:
    many_pictures(3000)
    # A shell that started the tests in the background has Ctrl-C ignored, and children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = start("photos", "--engine", "psp.onnx", "--out", "r", preexec_fn=heed)
    deadline = time.monotonic() + 20
    while not list(Path("r").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert 0 < len(names("r")) < 3000 and not list(Path("r").glob(".*"))
    for path in Path("r").iterdir():
        Image.open(path).load()


def test_the_progress_bar_is_for_terminals(here: Path) -> None:
    Path("photos/p1.png").write_bytes(b"")
    terminal, other_end = pty.openpty()
    process = start("photos", "--engine", "psp.onnx", "--out", "r", stderr=other_end)
    out, _ = process.communicate(timeout=30)
    os.close(other_end)
    shown = os.read(terminal, 100000).decode()
    os.close(terminal)
    assert process.returncode == 1 and out.startswith("5 pictures") and len(names("r")) == 5
    assert "pictures" in shown and "100%" in shown and "error: cannot read photos/p1.png" in shown


def test_a_closed_pipe_is_quiet(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start("image.png", "--engine", "psp.onnx", stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=30)[1] == ""


def test_names_that_are_not_text(here: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    os.rename("image.png", f"{name}.png")
    process = start(f"{name}.png", "--engine", "psp.onnx")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "") and Path(f"{name}_out.png").exists()
