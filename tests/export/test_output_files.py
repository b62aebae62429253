"""Finished files take their places all together or not at all, whatever stops them on the way."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from models import tiny_checkpoint
from tiny_engines import write_onnx

from psp_export import output_files
from psp_export.export import Options, export
from psp_export.output_files import files_of, put_in_place, staging, stem
from psp_runtime.disk import delete_unfinished
from psp_runtime.engines.info import read_info
from psp_runtime.engines.parts import check_mapping
from psp_runtime.errors import EngineError, PspError

NAMES = ("psp.onnx", "psp.mapping.onnx", "psp.trt", "model")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def drafts(folder: Path) -> list[Path]:
    """Finished files, the last one a folder as in a Triton repository."""
    staging = folder / ".staging"
    (staging / "model" / "1").mkdir(parents=True)
    for name in NAMES[:3]:
        (staging / name).write_bytes(b"new " + name.encode())
    (staging / "model" / "1" / "model.onnx").write_bytes(b"new model")
    return [staging / name for name in NAMES]


def earlier_export(folder: Path) -> None:
    """Files of an earlier export; psp.trt was not in it."""
    (folder / "psp.onnx").write_bytes(b"old engine")
    (folder / "psp.mapping.onnx").write_bytes(b"old mapping")
    (folder / "model").mkdir()
    (folder / "model" / "config.pbtxt").write_bytes(b"old model")


class Steps:
    """The moves of `put_in_place`, one of which, the n-th, is stopped: before or after it did its work."""

    def __init__(self, monkeypatch, stop: int, error: BaseException, after: bool = False) -> None:
        self.done = 0
        for module, name in ((os, "replace"), (os, "link"), (output_files, "exchange")):
            real = getattr(module, name)

            def step(*places, real=real, **options):
                self.done += 1
                if self.done == stop and not after:
                    raise error
                real(*places, **options)
                if self.done == stop:
                    raise error

            monkeypatch.setattr(module, name, step)


def test_new_files_replace_the_old_and_nothing_else_stays(tmp_path):
    made = drafts(tmp_path)
    earlier_export(tmp_path)
    assert put_in_place(made, tmp_path) == [tmp_path / name for name in NAMES]
    assert contents(tmp_path / ".staging") == {"model/config.pbtxt": b"old model"}
    shutil.rmtree(tmp_path / ".staging")
    assert contents(tmp_path) == {
        "psp.onnx": b"new psp.onnx",
        "psp.mapping.onnx": b"new psp.mapping.onnx",
        "psp.trt": b"new psp.trt",
        "model/1/model.onnx": b"new model",
    }
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


@pytest.mark.parametrize("move", range(1, 7))
@pytest.mark.parametrize("interrupted", [False, True])
def test_any_move_that_fails_takes_all_of_them_back(tmp_path, monkeypatch, move, interrupted):
    """Six: two older files get a second name, three files and a folder their places. Ctrl-C may come after one."""
    made = drafts(tmp_path)
    earlier_export(tmp_path)
    before = contents(tmp_path)
    error = KeyboardInterrupt() if interrupted else PermissionError(13, "Permission denied")
    Steps(monkeypatch, move, error, after=interrupted)
    refused = not interrupted and move not in (1, 3)  # a link that cannot be made is a copy
    with (
        pytest.raises(KeyboardInterrupt)
        if interrupted
        else pytest.raises(PspError)
        if refused
        else nullcontext() as caught
    ):
        put_in_place(made, tmp_path)
    assert not list(tmp_path.glob(".psp-*"))
    if refused or interrupted:
        after = contents(tmp_path)
        assert {name: after[name] for name in before if not name.startswith(".staging")} == {
            name: content for name, content in before.items() if not name.startswith(".staging")
        }
        assert not (tmp_path / "psp.trt").exists()
    if refused:
        name = ("", "psp.onnx", "", "psp.mapping.onnx", "psp.trt", "model")[move - 1]
        assert str(caught.value).startswith(f"cannot write {tmp_path / name}: Permission denied; nothing was changed")


KILLED = """
import os, signal, sys
from pathlib import Path
from psp_export import output_files
home, stop, after = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "after"
done = 0
def killing(module, name):
    real = getattr(module, name)
    def step(*places, **options):
        global done
        done += 1
        if done == stop and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*places, **options)
        if done == stop:
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(module, name, step)
for module, name in ((os, "replace"), (os, "link"), (output_files, "exchange")):
    killing(module, name)
with output_files.staging(home) as staging:
    (staging / "model" / "1").mkdir(parents=True)
    for name in ("psp.onnx", "psp.mapping.onnx", "psp.trt"):
        (staging / name).write_bytes(b"new " + name.encode())
    (staging / "model" / "1" / "model.onnx").write_bytes(b"new model")
    output_files.put_in_place([staging / n for n in ("psp.onnx", "psp.mapping.onnx", "psp.trt", "model")], home)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="folders change their names at once on Linux only")
def test_a_kill_at_any_move_leaves_every_name_whole(tmp_path):
    """Before and after each of the six moves: what is under a name is the older file or the newer, and is there."""
    older = {"psp.onnx": b"old engine", "psp.mapping.onnx": b"old mapping", "model/config.pbtxt": b"old model"}
    newer = {"psp.onnx": b"new psp.onnx", "psp.mapping.onnx": b"new psp.mapping.onnx", "psp.trt": b"new psp.trt"}
    for stop in range(1, 7):
        for when in ("before", "after"):
            home = tmp_path / f"{stop}{when}"
            home.mkdir()
            earlier_export(home)
            done = subprocess.run([sys.executable, "-c", KILLED, str(home), str(stop), when], capture_output=True)
            assert done.returncode == -signal.SIGKILL, done.stderr
            found = {name: content for name, content in contents(home).items() if not name.startswith(".psp-")}
            for name in ("psp.onnx", "psp.mapping.onnx"):
                assert found[name] in (older[name], newer[name])
            assert found.get("psp.trt", b"new psp.trt") == b"new psp.trt"
            assert {name for name in found if name.startswith("model/")} in (
                {"model/config.pbtxt"},
                {"model/1/model.onnx"},
            )
            assert list(home.glob(".psp-*"))
            with staging(home) as folder:  # the next export
                assert list(home.glob(".psp-*")) == [folder]
            assert not list(home.glob(".*"))


def test_an_engine_with_the_mapping_network_of_another_export_is_noticed(tmp_path):
    """What a kill between two moves leaves."""
    write_onnx(tmp_path / "psp.onnx", checkpoint="cd" * 32)
    write_onnx(tmp_path / "psp.mapping.onnx", part="mapping", checkpoint="ab" * 32)
    with pytest.raises(EngineError, match=r"psp\.mapping\.onnx does not belong to psp\.onnx: checkpoint"):
        check_mapping(tmp_path / "psp.onnx", read_info(tmp_path / "psp.onnx"))


def test_what_cannot_be_put_back_is_kept_and_named(tmp_path, monkeypatch):
    """A folder that becomes read-only in the middle: the only copy of the old files is not thrown away."""
    made = drafts(tmp_path)
    earlier_export(tmp_path)
    real, calls = os.replace, []

    def replace(source, place):
        calls.append(source)
        if len(calls) > 1:
            raise OSError(30, "Read-only file system")
        real(source, place)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PspError, match="Read-only file system; move the earlier files back from") as caught:
        put_in_place(made, tmp_path)
    (kept,) = tmp_path.glob("psp-earlier-*")
    delete_unfinished(tmp_path)
    assert str(kept) in str(caught.value)
    assert (kept / "psp.onnx").read_bytes() == b"old engine"


def test_a_link_is_replaced_not_followed(tmp_path):
    made = drafts(tmp_path)[:1]
    (tmp_path / "psp.onnx").symlink_to(tmp_path / "store.onnx")
    put_in_place(made, tmp_path)
    assert not (tmp_path / "psp.onnx").is_symlink() and not (tmp_path / "store.onnx").exists()


def test_an_export_the_system_stops_leaves_the_earlier_one_whole(tmp_path, monkeypatch):
    earlier_export(tmp_path)
    before = contents(tmp_path)
    Steps(monkeypatch, 4, PermissionError(13, "Permission denied"))
    with pytest.raises(PspError, match=r"psp\.mapping\.onnx: Permission denied; nothing was changed"):
        export(tiny_checkpoint(), Options(tmp_path / "psp", backend="onnx", verify=False))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("output", "base"),
    [("psp", "psp"), ("a/psp.trt", "a/psp"), ("psp.v1", "psp.v1"), ("my ü.plan", "my ü"), ("psp.ONNX", "psp")],
)
def test_stem_drops_only_the_ending_of_an_engine(output, base):
    assert stem(Path(output)) == Path(base)
    assert files_of(Path(base))[0] == Path(f"{base}.onnx")
