"""`psp-ui` before there is a page, and what a page offers."""

import importlib.util
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_engines import write_onnx, write_plan
from tiny_steps import CARS, write_steps

from psp_runtime.errors import EngineError
from psp_runtime.ui.cli import ended_by_signals, main
from psp_runtime.ui.runs import Runs


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line `psp-ui` prints instead of a page."""
    monkeypatch.setattr(sys, "argv", ["psp-ui", *arguments])
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found("json" if name == "gradio" else name))
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").strip()


def test_mistakes_before_there_is_a_page(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(here / "part.trt", part="encoder")
    write_onnx(here / "psp.onnx")
    assert "no engine at none.onnx" in refused(monkeypatch, capsys, "--engine", "none.onnx")
    assert "part.trt is only the encoder" in refused(monkeypatch, capsys, "--engine", "part.trt")
    twice = ("--engine", "psp.onnx") * 2
    assert refused(monkeypatch, capsys, *twice) == "--engine psp.onnx is given twice"
    assert "cannot listen on 192.0.2.1 port" in refused(monkeypatch, capsys, *twice[:2], "--host", "192.0.2.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in refused(monkeypatch, capsys, *twice[:2], "--port", port)


def test_without_gradio_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["psp-ui"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == "error: psp-ui needs Gradio: pip install '.[cpu,ui]'\n"


def test_photos_are_offered_for_faces_alone(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui")
    from psp_runtime.ui.page import make_page

    for name, facts, offered in (("faces", {}, True), ("cars", CARS, False)):
        page = make_page([write_steps(tmp_path, name, **facts)], Runs(tmp_path))
        labels = {getattr(block, "label", None) for block in page.blocks.values()}
        assert "Picture" in labels and ("A whole photo: find the faces" in labels) == offered


def test_a_page_of_a_part_is_refused_where_it_is_made(engines: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui")
    from psp_runtime.ui.page import make_page

    with pytest.raises(EngineError, match="no engine at"):
        make_page([tmp_path / "none.onnx"], Runs(tmp_path))


@pytest.fixture
def handlers() -> Iterator[None]:
    """Give the signals back to whom they belong."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("one", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_not_lost_while_the_page_opens(one: signal.Signals, handlers: None) -> None:
    """No exception, which code of others might swallow; the second one interrupts whatever is done."""
    ended: threading.Event = ended_by_signals()
    signal.raise_signal(one)  # raises nothing
    assert ended.is_set()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(one)
