"""The optimised graphs ONNX Runtime makes of engines, kept in the user's cache folder."""

import os
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
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
    assert not list(kept.glob(".psp-*"))


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


def test_the_one_used_longest_ago_makes_room_for_another(tmp_path: Path, kept: Path, monkeypatch) -> None:
    for number, ago in enumerate((20, 300, 10)):
        OnnxSession(write_onnx(tmp_path / f"{number}.onnx", license=str(number)), "cpu")
        (entry,) = set(entries(kept)) - {path for path in entries(kept) if path.stat().st_mtime < time.time() - 5}
        os.utime(entry, (time.time() - ago,) * 2)
    by_age = sorted(entries(kept), key=lambda entry: entry.stat().st_mtime)
    each = max(sum(file.stat().st_size for file in entry.iterdir()) for entry in by_age)
    monkeypatch.setattr(cache, "LARGEST", int(3.5 * each))
    OnnxSession(write_onnx(tmp_path / "psp.onnx"), "cpu")
    left = entries(kept)
    assert len(left) == 3 and by_age[0] not in left and set(by_age[1:]) < set(left)


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
    assert not list(kept.glob(".psp-*"))


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


def test_a_graph_onnx_runtime_refuses_is_made_anew(tmp_path: Path, kept: Path, monkeypatch) -> None:
    path = write_onnx(tmp_path / "psp.onnx")
    expected = OnnxSession(path, "cpu").run(inputs(1))["output"]
    (entry,) = entries(kept)
    (entry / cache.GRAPH).write_bytes(b"damaged")
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match=r"kept of psp\.onnx was damaged"):
        patch.setattr(cache, "_is_whole", lambda entry: True)
        np.testing.assert_array_equal(OnnxSession(path, "cpu").run(inputs(1))["output"], expected)
    assert not entries(kept)
    OnnxSession(path, "cpu")
    assert (entry / cache.GRAPH).stat().st_size > len(b"damaged")


def with_weights(path: Path, shade: int) -> Path:
    """A tiny engine whose weights are kept in a file of their own: it makes pictures of one shade."""
    model = onnx.load(write_onnx(path))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 64, 64, 3), shade, np.float32), "shade"))
    last = next(node for node in model.graph.node if "output" in node.output)
    last.input[0] = "shaded"
    flat = onnx.helper.make_node("Mul", ["clipped", "low"], ["flat"])
    model.graph.node.insert(len(model.graph.node) - 1, flat)
    model.graph.node.insert(len(model.graph.node) - 1, onnx.helper.make_node("Add", ["flat", "shade"], ["shaded"]))
    onnx.save(model, path)
    return path


def flipped(content: bytes, at: float) -> bytes:
    place = int(at * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


#: What becomes of a file, given its content and that of the same file of another engine.
DAMAGES = {
    "empty": lambda own, other: b"",
    "half": lambda own, other: own[: len(own) // 2],
    "longer": lambda own, other: own + b"\0",
    "zeros": lambda own, other: bytes(len(own)),
    "text": lambda own, other: b"x" * 64,
    "deep": lambda own, other: b"[" * 60_000,
    "first": lambda own, other: flipped(own, 0),
    "early": lambda own, other: flipped(own, 0.2),
    "middle": lambda own, other: flipped(own, 0.5),
    "late": lambda own, other: flipped(own, 0.8),
    "last": lambda own, other: flipped(own, 1),
    "other": lambda own, other: other,
    "gone": None,
}


def test_any_damage_of_the_cache_gives_the_engine_s_own_picture(tmp_path: Path, kept: Path) -> None:
    """65 damages, each with the times of the file as they were; at most one line is said."""
    one, two = with_weights(tmp_path / "one.onnx", 50), with_weights(tmp_path / "two.onnx", 200)
    OnnxSession(two, "cpu")
    theirs, their_note = entries(kept), list(kept.glob("*.sha256"))
    OnnxSession(one, "cpu")
    (mine,) = set(entries(kept)) - set(theirs)
    (note,) = set(kept.glob("*.sha256")) - set(their_note)
    pairs = [(mine / name, theirs[0] / name) for name in (cache.GRAPH, cache.WEIGHTS, cache.DIGESTS, cache.SEEN)]
    for path, other in [*pairs, (note, their_note[0])]:
        for name, damage in DAMAGES.items():
            own, stat = path.read_bytes(), path.stat()
            path.unlink() if damage is None else path.write_bytes(damage(own, other.read_bytes()))
            if path.exists():
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                output = OnnxSession(one, "cpu").run(inputs(1))["output"]
            assert (output == 50).all() and len(said) <= 1, f"{path.name}, {name}"
            assert all("damaged and is made anew" in str(one.message) for one in said)
            assert path.read_bytes() == own or path.name == cache.SEEN, f"{path.name}, {name}"


def test_an_entry_under_the_name_of_another_is_made_anew(tmp_path: Path, kept: Path) -> None:
    one, two = with_weights(tmp_path / "one.onnx", 50), with_weights(tmp_path / "two.onnx", 200)
    OnnxSession(one, "cpu")
    (mine,) = entries(kept)
    OnnxSession(two, "cpu")
    (theirs,) = set(entries(kept)) - {mine}
    shutil.rmtree(mine)
    theirs.rename(mine)
    with pytest.warns(UserWarning, match="made anew"):
        assert (OnnxSession(one, "cpu").run(inputs(1))["output"] == 50).all()


def test_entries_are_read_again_once_a_day(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a disk changes by itself changes no time."""
    read: list[str] = []
    path = with_weights(tmp_path / "psp.onnx", 50)
    OnnxSession(path, "cpu")
    real = cache.sha256_of
    monkeypatch.setattr(cache, "sha256_of", lambda file: (read.append(file.name), real(file))[1])
    OnnxSession(path, "cpu")
    assert read == []
    now = time.time()
    monkeypatch.setattr(cache.time, "time", lambda: now + cache.CHECK_AFTER + 1)
    OnnxSession(path, "cpu")
    assert read == [cache.GRAPH, cache.WEIGHTS]


def test_weights_beside_an_engine_are_part_of_it(tmp_path: Path, kept: Path) -> None:
    """The .onnx file stays the same, the file of its weights does not."""
    for shade in (50, 200):
        model = onnx.load(with_weights(tmp_path / "plain.onnx", shade))
        (tmp_path / "weights").unlink(missing_ok=True)
        onnx.save(model, tmp_path / "psp.onnx", save_as_external_data=True, location="weights", size_threshold=1024)
        assert (OnnxSession(tmp_path / "psp.onnx", "cpu").run(inputs(1))["output"] == shade).all()
    assert len(entries(kept)) == 2


def test_entries_reach_the_disk_before_their_name(tmp_path: Path, kept: Path, monkeypatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda place: (done.append(os.readlink(f"/proc/self/fd/{place}")), fsync(place)))
    monkeypatch.setattr(Path, "rename", lambda path, target: (done.append("rename"), rename(path, target))[1])
    OnnxSession(with_weights(tmp_path / "psp.onnx", 50), "cpu")
    before = [Path(place).name for place in done[: done.index("rename")]]
    assert {cache.GRAPH, cache.WEIGHTS, cache.DIGESTS, cache.SEEN} <= set(before) and before[-1].startswith(".psp-")
    assert done[-1] == str(kept)


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
