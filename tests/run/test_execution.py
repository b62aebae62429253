"""A run on an open engine: its stages overlap, and its threads are shared out."""

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_family import write_family

from psp_runtime.engines.session import open_session
from psp_runtime.pictures import encoding
from psp_runtime.pipeline import Pipeline
from psp_runtime.run import applications
from psp_runtime.run.execution import Run
from psp_runtime.run.plan import make_plan
from psp_runtime.run.verbs import Mix, Translate

PICTURES = 12


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Run]:
    """Run a folder of pictures with some options, one thread unless they say otherwise."""
    engine = write_family(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(PICTURES):
        Image.fromarray(np.full((256, 256, 3), 20 * index, np.uint8)).save(tmp_path / "photos" / f"{index:02}.png")

    def run(*inputs: str, **given: Any) -> Run:
        paths = [str(tmp_path / name) for name in inputs or ["photos"]]
        verb = Mix if "count" in given else Translate
        options = verb(inputs=paths, engine=engine, out=str(tmp_path / "r"), **{"threads": 1, **given})
        with Pipeline(open_session(engine, "cpu"), options.batch) as pipeline:
            run = Run(make_plan(options, pipeline.info), pipeline)
            assert run.execute() == 0
        return run

    return run


def slow(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slowly(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments, **named)

    return slowly


def test_decoding_running_and_encoding_overlap(finished: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first picture is saved while the second is in the engine and the third is read: each waits for the others."""
    together = threading.Barrier(3)

    def with_others(function: Callable[..., Any], turn: int) -> Callable[..., Any]:
        calls = itertools.count()

        def wait(*arguments: Any, **named: Any) -> Any:
            if next(calls) == turn:
                together.wait(60)  # all three at once, or this fails
            return function(*arguments, **named)

        return wait

    for turn, (owner, name) in enumerate(((encoding, "save"), (Pipeline, "translate"), (applications, "load_input"))):
        monkeypatch.setattr(owner, name, with_others(getattr(owner, name), turn))
    run = finished()
    assert run.made == PICTURES and together.n_waiting == 0 and not together.broken
    for stage in (run.decode, run.engine, run.encode):
        assert stage.seconds > 0 and 0 < stage.busy(run.seconds) <= 1


@pytest.mark.parametrize("stage", ["decode", "engine", "encode"])
def test_the_slowest_stage_is_named(finished: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    stages = {"decode": (applications, "load_input"), "engine": (Pipeline, "translate"), "encode": (encoding, "save")}
    owner, name = stages[stage]
    monkeypatch.setattr(owner, name, slow(getattr(owner, name), 0.03))
    assert finished().summary().split("; ")[2].startswith(f"{stage} limits): ")


def test_idle_threads_write_the_pictures_of_one_input(
    finished: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, save = threading.Barrier(4), encoding.save

    def save_with_others(*arguments: Any) -> None:
        together.wait(20)  # four at once, or this fails
        save(*arguments)

    monkeypatch.setattr(encoding, "save", save_with_others)
    assert finished("photos/03.png", count=8, threads=4).made == 8


def test_threads_are_no_more_than_inputs(finished: Callable[..., Run]) -> None:
    assert finished("photos/01.png", "photos/02.png", threads=16).encode.threads == 2
