"""The bundled models of the page: named at once, exported when they are first used."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_family import write_family
from ui_pages import REPOSITORY

from psp_runtime.errors import PspError
from psp_runtime.ui.demo_engines import TASKS, demo_engines, demo_info, export_demo, is_whole
from psp_runtime.ui.runs import Runs
from psp_runtime.ui.watch import Cancelled, Watch
from psp_train import demo


def test_demo_engines_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(PspError, match=r"which needs torch: pip install .*, or give --engine"):
        demo_engines(tmp_path)
    assert not list(tmp_path.iterdir())


def stand_in(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let `psp-export` be a program of ours: the real one is tested with itself."""
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **how: real([sys.executable, "-c", program, *words], **how))


def test_a_demo_engine_is_named_at_once_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests" / "support"))
    engines = demo_engines(Path("unused"))
    assert [info.task for info in engines.values()] == list(TASKS) and not any(map(is_whole, engines))
    started: list[str] = []

    def export(engine: Path, told: Callable[[str, int, int], object]) -> None:
        told("Preparing", 1, 7)
        started.append(engine.stem)
        engine.parent.mkdir(exist_ok=True)
        write_family(engine.parent, engine.stem, task=engine.stem)

    monkeypatch.setattr("psp_runtime.ui.runs.export_demo", export)
    (tmp_path / "page").mkdir()
    runs, (first, second, *_) = Runs(tmp_path / "page", "cpu", demo=engines), engines
    for engine in (first, second, first):
        runs.pipeline(engine)
    assert started == ["inversion", "sketch"]
    first.with_name("inversion.encoder.onnx").unlink()
    assert not is_whole(first) and runs.info(first) == demo_info("inversion")
    runs.close()


def test_an_export_says_what_it_does_and_can_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "import sys, time; print('0.1 s loading', file=sys.stderr, flush=True); time.sleep(60)")
    watch, heard = Watch(), []

    def told(words: str, done: Any, total: Any) -> None:
        heard.append((words, done, total))
        if done:
            watch.end()

    watch.begin(told)
    started = time.monotonic()
    with pytest.raises(Cancelled):
        export_demo(tmp_path / "super_resolution.onnx", watch.step)
    assert set(heard) == {("Preparing the super resolution model, once for all", done, 7) for done in (0, 1)}
    assert time.monotonic() - started < 30  # not the minute of the program


def test_a_failing_export_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "import sys; sys.exit('  0.1 s loading\\nerror: no space left')")
    with pytest.raises(PspError, match="^psp-export --task inversion failed: no space left$"):
        export_demo(tmp_path / "inversion.onnx", lambda words, done, total: None)


def test_what_is_said_of_a_demo_engine_is_true_of_its_model() -> None:
    for task in TASKS:
        info, config = demo_info(task), demo.encoder_config(task)
        assert (info.styles, info.style_dim, info.classes) == (config.styles, config.style_dim, config.input_channels)
        assert (info.output_size, info.crop_scale) == (demo.GENERATOR.size, demo.CROP_SCALE)


def test_there_is_a_bundled_model_for_every_demo_task() -> None:
    bundled = {path.stem.removeprefix("demo_") for path in (REPOSITORY / "psp_train" / "weights").glob("demo_*")}
    assert set(TASKS) == bundled - {"generator"}
