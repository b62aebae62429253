"""psp, psp-run and others of our commands in the process of a test."""

import sys
from collections.abc import Callable

import pytest

from psp_runtime import cli

#: Exit code, stdout, stderr.
Outcome = tuple[int, str, str]
PspRun = Callable[..., Outcome]


def runner(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str = "psp-run",
    main: Callable[[], object] = cli.main,
) -> PspRun:
    """A function that runs psp-run, or psp, or the command of another `main`, with these arguments."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.psp() if command == "psp" else main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run
