"""Progress of `psp-export` on stderr: on a terminal one row that changes, in a file one line for each stage."""

import os
import sys

import pytest

from psp_export.stages import Stages


def test_an_error_does_not_overwrite_the_stage_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(ValueError, match="broken"), Stages() as say:
        say("first")
        say("a stage with a long name")
        raise ValueError("broken")
    first, failed, end = capsys.readouterr().err.split("\n")
    assert first.endswith(" s first") and failed.split() == ["...", "a", "stage", "with", "a", "long", "name"]
    assert end == ""


def test_what_happens_in_a_stage_takes_one_row_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((40, 24)))
    with Stages() as say:
        say("building psp.trt")
        say("building psp.trt", "Timing tactics, 31 of 340 and more words")
        say("next")
    rows = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert rows[1] == "  ...    building psp.trt: Timing tacti"  # 39 characters: the cursor stays in the row
    assert all(len(row) == 39 for row in rows if "..." in row)
    assert rows[2] == " " * 39 and rows[3].endswith(" s building psp.trt")


def test_what_happens_in_a_stage_is_not_written_to_a_file(capsys):
    with Stages() as say:
        say("building psp.trt")
        say("building psp.trt", "Timing tactics, 31 of 340")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_stages_end_with_the_time_in_total(capsys):
    with Stages() as say:
        say("only")
    only, total = capsys.readouterr().err.splitlines()
    assert only.endswith(" s only") and total.endswith(" s in total")
