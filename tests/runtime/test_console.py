"""How the command line tools end, whatever happens in them."""

import importlib.util
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from psp_export.stages import Stages
from psp_runtime import console
from psp_runtime.errors import PspError
from psp_train.cli import main


@pytest.fixture
def python_handles_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C as it is in a program just started."""
    monkeypatch.setattr(console._ctrl_c, "came", False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ends_with(function: Callable[[], object]) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        console.run(function)
    return caught.value.code


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PspError("first\nsecond"), 2, "error: first second\n"),
        (OSError(28, "No space left on device", "a.bin"), 2, "error: a.bin: No space left on device\n"),
        (OSError("odd"), 2, "error: odd\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(130), 130, "interrupted\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
    ],
)
def test_console_turns_errors_into_lines_and_codes(
    error: BaseException, code: int | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(raising(error)) == code
    assert capsys.readouterr() == ("", line)


def test_console_keeps_the_traceback_of_bugs() -> None:
    with pytest.raises(ZeroDivisionError):
        console.run(raising(ZeroDivisionError()))


def test_psp_debug_shows_what_is_behind_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for debug in ("", "0"):
        monkeypatch.setenv("PSP_DEBUG", debug)
        assert ends_with(raising(PspError("no engine"))) == 2
        assert capsys.readouterr().err == "error: no engine\n"
    monkeypatch.setenv("PSP_DEBUG", "1")
    assert ends_with(raising(PspError("no engine"))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and any(__file__ in line for line in lines)
    assert lines[-1] == "error: no engine"


@pytest.mark.parametrize("arguments", [[], ["--"]])  # typer ends by itself, or leaves it to us
def test_console_keeps_the_codes_of_a_typer_app(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    tool = typer.Typer()
    for error, code in ((typer.Exit(3), 3), (KeyboardInterrupt(), 130), (PspError("no"), 2)):
        tool.registered_commands.clear()
        tool.command()(raising(error))
        assert ends_with(tool) == code
    assert capsys.readouterr().err == "interrupted\nerror: no\n"


def test_console_prints_warnings_in_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        warnings.simplefilter("always")
        warnings.warn("take\ncare", stacklevel=1)
        warnings.warn("take\ncare", stacklevel=1)

    assert ends_with(warn) == 0
    assert capsys.readouterr().err == "warning: take care\n"


def test_a_swallowed_ctrl_c_ends_the_next_stage(
    python_handles_ctrl_c: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with Stages() as say:
            say("first")
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.sigtimedwait([], 1)  # it may take a moment to arrive
            except BaseException:  # as a library might
                pass
            say("second")
            raise AssertionError("the work went on")

    assert ends_with(work) == console.INTERRUPTED
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_a_closed_stdout_is_no_traceback() -> None:
    command = f"{sys.executable} -m psp_runtime --info none.onnx >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    code = "from psp_runtime import console; console.run(lambda: print('nowhere'))"
    done = subprocess.run(f'{sys.executable} -c "{code}" >&-', shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_psp_train_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else name)
    monkeypatch.setattr(sys, "argv", ["psp-train", "--task", "sketch"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: psp-train needs torch: pip install '.[cpu,train]'\n"


HOSTILE = "a\x1b[2J\x07\u202egnp.\x9b31m"
SHOWN = r"a\x1b[2J\x07\u202egnp.\x9b31m"


def test_control_characters_do_not_reach_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files and texts of libraries; in output, in warnings and in errors."""

    def function() -> None:
        print(f"{HOSTILE}\tand\nmore")
        warnings.warn(HOSTILE, stacklevel=1)
        raise PspError(f"no {HOSTILE}\r\nhere")

    assert ends_with(function) == 2
    assert capsys.readouterr() == (f"{SHOWN}\tand\nmore\n", f"warning: {SHOWN}\nerror: no {SHOWN} here\n")


def test_names_of_files_do_not_reach_a_terminal_as_they_are(tmp_path: Path) -> None:
    name = "\x1b]0;mine\x07.png"
    (tmp_path / name).write_bytes(b"no picture")
    command = [sys.executable, "-m", "psp_runtime", name, "--engine", "\x1b[31m.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "\x1b" not in done.stderr and r"\x1b[31m.onnx" in done.stderr
    with Stages() as say:
        say(f"loading {HOSTILE}")
