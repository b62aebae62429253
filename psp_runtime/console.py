"""How our command line tools end: one line on stderr and an exit code a script can rely on."""

import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from psp_runtime.errors import PspError

#: The exit code of a mistake the user can correct, as of a wrong option.
MISTAKE = 2
#: What a shell reports for a program stopped by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130


def run(app: Callable[[], object]) -> NoReturn:
    """Run a typer app (or any function without arguments) and exit.

    A `PspError` and what the system refuses (disk full, no permission) become one `error: …` line and exit 2, Ctrl-C
    exits with 130, each warning is one `warning: …` line, a closed pipe ends the program quietly. Exit codes the app
    chose itself are kept; anything else is a bug of ours and keeps its traceback.
    """
    warnings.showwarning = _warning_lines()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that is not valid text must not end a run at the line that reports it.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code(app))


def error(text: object) -> None:
    """Print one `error: …` line on stderr, whatever line breaks the text has."""
    print(f"error: {_one_line(text)}", file=sys.stderr)


def _exit_code(app: Callable[[], object]) -> int | str | None:
    try:
        code = _call(app)
        # What is still buffered meets a closed pipe here, not in the interpreter's own shutdown.
        sys.stdout.flush()
    except PspError as mistake:
        error(mistake)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as refused:
        error(_reason(refused))
        return MISTAKE
    return code


def _call(app: Callable[[], object]) -> int | str | None:
    try:
        app()
    except SystemExit as end:
        # typer turns Ctrl-C inside a command into this code without a word.
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return end.code
    return 0


def _reason(refused: OSError) -> str:
    reason = refused.strerror or str(refused)
    return f"{refused.filename}: {reason}" if refused.filename else reason


def _warning_lines() -> Callable[..., None]:
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = _one_line(message)
        if line not in shown:
            shown.add(line)
            print(f"warning: {line}", file=sys.stderr)

    return show


def _one_line(text: object) -> str:
    return " ".join(str(text).split("\n"))
