"""What is told of a plan's build, and Ctrl-C in the middle of it, with the TensorRT that is here."""

import importlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_engines import write_onnx

from psp_export.plans import progress
from psp_export.plans.build import build_plan, choose_flavour
from psp_runtime.engines.tensorrt.engine import the_logger
from psp_runtime.engines.tensorrt.interrupts import interrupts_noted

FLAVOUR = choose_flavour()
pytestmark = pytest.mark.skipif(FLAVOUR is None, reason="no TensorRT that builds here")


@pytest.fixture(autouse=True)
def python_handles_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds the plan of the tiny engine, every step told."""
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    source = write_onnx(tmp_path / "psp.onnx")
    return lambda tell: build_plan(source, tmp_path / "psp.trt", FLAVOUR, tell=tell)


def test_a_build_tells_its_phases_and_steps(build, tmp_path):
    told: list[str] = []
    build(told.append)
    steps = [line.rsplit(", ", 1) for line in told if ", " in line]
    assert {phase for phase, _ in steps} <= set(told)
    counts = [tuple(map(int, count.split(" of "))) for _, count in steps]
    assert counts and all(1 <= step <= steps for step, steps in counts)
    assert (tmp_path / "psp.trt").stat().st_size > 0


def test_ctrl_c_ends_a_build_at_its_next_step(build, tmp_path):
    told: list[str] = []

    def interrupt(text: str) -> None:
        told.append(text)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    whole: list[str] = []
    build(whole.append)
    (tmp_path / "psp.trt").unlink()
    with pytest.raises(KeyboardInterrupt):
        build(interrupt)
    assert len(told) < len(whole) / 2
    assert not (tmp_path / "psp.trt").exists()


def test_a_build_in_another_thread_leaves_ctrl_c_alone(build):
    """Only the main thread may set handlers; Python would raise ValueError."""
    handlers: list[object] = []
    thread = threading.Thread(target=lambda: build(lambda text: handlers.append(signal.getsignal(signal.SIGINT))))
    thread.start()
    thread.join()
    assert handlers and set(handlers) == {signal.default_int_handler}


def test_who_ignores_ctrl_c_still_does(build):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    build(lambda text: os.kill(os.getpid(), signal.SIGINT))
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_steps_between_two_messages_are_not_told(build, monkeypatch):
    monkeypatch.setattr(progress, "PAUSE", 3600.0)
    told: list[str] = []
    build(told.append)
    assert sum(" of " in line for line in told) == 1


def test_a_tensorrt_without_a_monitor_tells_its_log(build, tmp_path, monkeypatch):
    """As 8.6 does: by our logger with the TensorRT that is here."""
    monkeypatch.setattr(progress, "has_monitor", lambda trt: False)
    told: list[str] = []
    build(told.append)
    assert any("optimization" in words.lower() for words in told)
    assert all(words == " ".join(words.split()) for words in told)
    monkeypatch.setattr(progress, "PAUSE", 3600.0)
    build(lambda words: told.append("again"))
    assert told.count("again") == 1


def test_ctrl_c_during_a_log_message_waits_for_the_end_of_the_build(build, tmp_path, monkeypatch):
    """Raised inside of the logger, it would end the process."""
    monkeypatch.setattr(progress, "has_monitor", lambda trt: False)
    told: list[str] = []

    def interrupt(text: str) -> None:
        told.append(text)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(interrupt)
    assert len(told) > 1  # it went on
    assert not (tmp_path / "psp.trt").exists()


def test_ctrl_c_while_the_graph_is_read_ends_the_build_before_it_begins(build, tmp_path):
    """The parser logs as well: raised there, Ctrl-C was lost, and the build ran to its end."""
    logger, told = the_logger(importlib.import_module(str(FLAVOUR))), []
    before, logger.hear = logger.hear, lambda message: signal.raise_signal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(told.append)
    finally:
        logger.hear = before
    assert told == [] and not (tmp_path / "psp.trt").exists()


def test_a_handler_of_the_host_s_own_is_called():
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    with interrupts_noted() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set() and calls == []
    signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def test_the_log_is_told_during_the_build_only():
    """A plan that is verified later logs to the same logger."""
    logger = the_logger(importlib.import_module(str(FLAVOUR)))
    logger.errors.clear()
    told: list[str] = []
    with progress.watched(SimpleNamespace(), SimpleNamespace(), logger, told.append, threading.Event()):
        logger.log(logger.Severity.VERBOSE, "--------------- Timing Runner:  conv\n")
    logger.log(logger.Severity.VERBOSE, "Deserialization required 5 microseconds.")
    assert told == ["Timing Runner: conv"] and not logger.errors


def test_no_monitor_is_set_where_there_is_none():
    config = SimpleNamespace()
    with progress.watched(SimpleNamespace(), config, SimpleNamespace(hear=None), pytest.fail, threading.Event()):
        pass
    assert vars(config) == {}
    assert progress.has_monitor(importlib.import_module(str(FLAVOUR)))
