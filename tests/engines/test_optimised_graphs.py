"""The optimised graphs ONNX Runtime makes of engines, kept in the user's cache folder."""

import os
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_engines import tiny_info, write_onnx

from psp_runtime import disk
from psp_runtime.engines import onnx_session
from psp_runtime.engines import optimised_graphs as cache
from psp_runtime.engines.session import OnnxSession


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that keeps engines of any size."""
    monkeypatch.setenv("PSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALLEST", 0)
    return tmp_path / "cache" / "onnxruntime"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file ONNX Runtime opens."""
    paths: list[Path] = []
    create = onnx_session._create

    def spy(runtime, path, *rest):
        paths.append(path)
        return create(runtime, path, *rest)

    monkeypatch.setattr(onnx_session, "_create", spy)
    return paths


def inputs(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    return {
        "image": rng.integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8),
        "style": rng.standard_normal((batch, tiny_info().styles, tiny_info().style_dim), np.float32),
        "alpha": rng.random((batch, tiny_info().styles), np.float32),
    }


def entries(kept: Path) -> list[Path]:
    return sorted(path for path in kept.iterdir() if path.is_dir())


@pytest.mark.parametrize("one_run", [False, True])
def test_a_kept_graph_gives_the_engine_s_own_pictures(tmp_path: Path, kept: Path, one_run: bool) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    plain = onnxruntime.InferenceSession(str(path)).run(["output", "latents"], inputs(2))
    for _ in range(2):
        result = OnnxSession(path, "cpu", one_run).run(inputs(2))
        np.testing.assert_array_equal(result["output"], plain[0])
        np.testing.assert_array_equal(result["latents"], plain[1])


def test_an_engine_is_optimised_once_and_kept_whole(tmp_path: Path, kept: Path, opened: list[Path]) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OnnxSession(path, "cpu")
    (entry,) = entries(kept)
    OnnxSession(path, "cpu")
    assert opened == [path, entry / cache.GRAPH, entry / cache.GRAPH]
    assert not list(kept.glob(".new-*"))


def test_another_engine_version_or_cpu_has_an_entry_of_its_own(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OnnxSession(path, "cpu")
    OnnxSession(write_onnx(tmp_path / "psp.onnx", license="another"), "cpu")
    assert len(entries(kept)) == 2
    monkeypatch.setattr(onnxruntime, "__version__", "0.0")
    OnnxSession(path, "cpu")
    assert len(entries(kept)) == 3
    monkeypatch.setattr(cache, "_cpu", lambda: "another")
    OnnxSession(path, "cpu")
    assert len(entries(kept)) == 4


def test_a_copy_of_an_engine_shares_its_entry(tmp_path: Path, kept: Path) -> None:
    OnnxSession(write_onnx(tmp_path / "psp.onnx"), "cpu")
    OnnxSession(write_onnx(tmp_path / "copy.onnx"), "cpu")
    assert len(entries(kept)) == 1


def test_old_entries_make_room(tmp_path: Path, kept: Path) -> None:
    OnnxSession(write_onnx(tmp_path / "old.onnx", license="old"), "cpu")
    (old,) = entries(kept)
    past = time.time() - (cache.DAYS + 1) * 86400
    os.utime(old, (past, past))
    OnnxSession(write_onnx(tmp_path / "psp.onnx"), "cpu")
    assert len(entries(kept)) == 1 and not old.exists()


def test_use_keeps_an_entry_young(tmp_path: Path, kept: Path) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OnnxSession(path, "cpu")
    (entry,) = entries(kept)
    past = time.time() - (cache.DAYS + 1) * 86400
    os.utime(entry, (past, past))
    OnnxSession(path, "cpu")
    assert entry.stat().st_mtime > past + 86400


def test_an_entry_of_somebody_else_is_used(tmp_path: Path, kept: Path, opened: list[Path]) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OnnxSession(path, "cpu")

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr("os.utime", refuse)
        OnnxSession(path, "cpu")
    assert opened[-1].name == "graph.onnx"


def test_the_first_of_two_processes_wins(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    OnnxSession(path, "cpu")
    (entry,) = entries(kept)
    before = (entry / cache.GRAPH).stat().st_ino

    def late(graph: Path, weights: str) -> None:
        graph.write_bytes(b"late")

    cache._write_entry(entry, 0, late)
    assert (entry / cache.GRAPH).stat().st_ino == before
    assert not list(kept.glob(".new-*"))


def test_nothing_half_written_stays(tmp_path: Path, kept: Path) -> None:
    def fail(graph: Path, weights: str) -> None:
        graph.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.optimised_graph(write_onnx(tmp_path / "psp.onnx"), "1", fail)
    assert not entries(kept)


@pytest.mark.parametrize("obstacle", ["a file in the way", "full disk"])
def test_what_cannot_be_kept_costs_a_warning_only(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    if obstacle == "full disk":
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1}))
    else:
        kept.parent.write_text("a file")
    with pytest.warns(UserWarning, match="optimised anew at every start"):
        session = OnnxSession(path, "cpu")
    assert session.run(inputs(1))["output"].shape == (1, 64, 64, 3)


def test_a_damaged_entry_is_made_anew(tmp_path: Path, kept: Path) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    expected = OnnxSession(path, "cpu").run(inputs(1))["output"]
    (entry,) = entries(kept)
    (entry / cache.GRAPH).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"kept of psp\.onnx was damaged"):
        np.testing.assert_array_equal(OnnxSession(path, "cpu").run(inputs(1))["output"], expected)
    assert not entries(kept)
    OnnxSession(path, "cpu")
    assert (entry / cache.GRAPH).stat().st_size > len(b"damaged")


def test_small_engines_and_psp_cache_off_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_CACHE", str(tmp_path / "cache"))
    OnnxSession(write_onnx(tmp_path / "psp.onnx"), "cpu")
    monkeypatch.setattr(cache, "SMALLEST", 0)
    monkeypatch.setenv("PSP_CACHE", "off")
    OnnxSession(tmp_path / "psp.onnx", "cpu")
    assert not (tmp_path / "cache").exists()


def test_the_folder_is_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PSP_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert disk.cache_folder() == tmp_path / "psp-toolkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert disk.cache_folder() == tmp_path / ".cache" / "psp-toolkit"
