"""Finished files take their places all together or not at all, whatever stops them on the way."""

import os
from pathlib import Path

import pytest
from models import tiny_checkpoint

from psp_export.export import Options, export
from psp_export.output_files import files_of, put_in_place, stem
from psp_runtime.errors import PspError

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


def stopping_at(move: int, error: BaseException, after: bool = False):
    """An os.replace that fails at the n-th call, before or after it did its work, and works again from then on."""
    calls, real = [], os.replace

    def replace(source, place):
        calls.append(source)
        if len(calls) == move and not after:
            raise error
        real(source, place)
        if len(calls) == move:
            raise error

    return replace


def test_new_files_replace_the_old_and_nothing_else_stays(tmp_path):
    made = drafts(tmp_path)
    earlier_export(tmp_path)
    assert put_in_place(made, tmp_path) == [tmp_path / name for name in NAMES]
    (tmp_path / ".staging").rmdir()
    assert contents(tmp_path) == {
        "psp.onnx": b"new psp.onnx",
        "psp.mapping.onnx": b"new psp.mapping.onnx",
        "psp.trt": b"new psp.trt",
        "model/1/model.onnx": b"new model",
    }
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


@pytest.mark.parametrize("move", range(1, 8))
@pytest.mark.parametrize("interrupted", [False, True])
def test_any_move_that_fails_takes_all_of_them_back(tmp_path, monkeypatch, move, interrupted):
    """Seven moves: three names are there twice, old and new. Ctrl-C may come right after one was made."""
    made = drafts(tmp_path)
    earlier_export(tmp_path)
    before = contents(tmp_path)
    error = KeyboardInterrupt() if interrupted else PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "replace", stopping_at(move, error, after=interrupted))
    with pytest.raises(KeyboardInterrupt if interrupted else PspError) as caught:
        put_in_place(made, tmp_path)
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob(".earlier-*"))
    if not interrupted:
        name = ("psp.onnx", "psp.onnx", "psp.mapping.onnx", "psp.mapping.onnx", "psp.trt", "model", "model")[move - 1]
        assert str(caught.value).startswith(f"cannot write {tmp_path / name}: Permission denied; nothing was changed")


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
    (kept,) = tmp_path.glob(".earlier-*")
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
    monkeypatch.setattr(os, "replace", stopping_at(4, PermissionError(13, "Permission denied")))
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
