"""Drawn faces as training data: a folder that is drawn once, whatever happens meanwhile."""

import sys
from pathlib import Path

import pytest

from psp_runtime.tasks import TASKS
from psp_train.drawn import dataset


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_faces_are_drawn_through_a_link_and_into_the_working_folder(tmp_path, monkeypatch):
    task = TASKS["sketch"]
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert all(files.source.exists() for files in dataset.sample_files(task, tmp_path / "link", count=1))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert all(files.source.exists() for files in dataset.sample_files(task, Path(), count=1))
    dataset.sample_files(task, Path(), count=2)  # other faces replace ours
    assert sorted(path.name for path in Path("faces").iterdir()) == ["00000.png", "00001.png"]


def test_a_folder_that_another_run_has_drawn_meanwhile(tmp_path, monkeypatch):
    task, draw = TASKS["sketch"], dataset._draw_all

    def slow(folder, count, seed):
        with monkeypatch.context() as patch:
            patch.setattr(dataset, "_draw_all", draw)
            dataset.sample_files(task, tmp_path / "drawn", count=2)
        draw(folder, count, seed)

    monkeypatch.setattr(dataset, "_draw_all", slow)
    samples = dataset.sample_files(task, tmp_path / "drawn", count=2)
    assert all(files.source.exists() for files in samples) and [p.name for p in tmp_path.iterdir()] == ["drawn"]


def test_demo_faces_are_drawn_once(tmp_path):
    samples = dataset.sample_files(TASKS["segmentation"], tmp_path / "drawn", masks=True, count=3)
    assert [files.source.parent.name for files in samples] == ["labels"] * 3
    assert all(path.exists() for files in samples for path in (files.source, files.target, files.mask))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "drawn").rglob("*.png")}
    dataset.sample_files(TASKS["sketch"], tmp_path / "drawn", count=3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "drawn").rglob("*.png")} == times and len(times) == 9


def test_faces_whose_drawing_was_stopped_are_drawn_again(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    task = TASKS["sketch"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "worker_pool", stopped)
        dataset.sample_files(task, tmp_path, count=2)
    assert all(files.source.exists() for files in dataset.sample_files(task, tmp_path, count=2))
