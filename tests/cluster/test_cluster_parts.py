"""The parts of a run on a cluster that need none: where files lie, what is done, what shapes an output, who answers."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cluster_runs import free_port, write_pictures
from PIL import Image
from tiny_engines import tiny_info, write_onnx

from psp_runtime.cluster import connection, driver, manifest
from psp_runtime.cluster.artifacts import pack
from psp_runtime.cluster.storage import Picture, find_pictures, open_place
from psp_runtime.errors import PspError
from psp_runtime.run.options import Options


def test_what_is_not_an_input(tmp_path: Path) -> None:
    names = ["a.png", "a_out.png", "sub/a.png", ".hidden/a.png", "sub/.a.png", "r/sub/b_out.png", "notes.txt", "c.JPG"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    places, pictures, left_out = find_pictures([str(tmp_path)], [open_place(f"{tmp_path}/r")])
    assert [picture.name for picture in pictures] == ["a.png", "c.JPG", "sub/a.png"]
    assert list(places) == [str(tmp_path)] and {(one.folder, one.size) for one in pictures} == {(str(tmp_path), 5)}
    assert left_out == "left out: 2 files (no pictures: 1 .txt; outputs of ours: 1)"
    for start in ("", "fsspec+file://"):  # crops too
        written = [open_place(f"{start}{tmp_path}/{name}") for name in ("r", "sub")]
        assert [one.name for one in find_pictures([f"{start}{tmp_path}"], written)[1]] == ["a.png", "c.JPG"]
    assert pictures[0].modified == (tmp_path / "a.png").stat().st_mtime_ns
    assert pictures[1].output(Options(format="webp")) == "c_out.webp"
    assert (
        pictures[2].output(Options()) == "sub/a_out.png" and pictures[1].output(Options(format="auto")) == "c_out.JPG"
    )


def test_what_is_done_depends_on_picture_engine_and_options(tmp_path: Path) -> None:
    out = open_place(str(tmp_path / "out"))
    write_pictures(tmp_path / "photos", 3)
    _, (first, second, third), _ = find_pictures([str(tmp_path / "photos")], [out])
    manifest.write(out, [row_of(first), row_of(second, status="failed")])
    manifest.write(out, [row_of(third, modified=third.modified - 1)])
    pictures = [first, second, third]
    assert manifest.without_done(pictures, manifest.read(out), "E", "O") == [second, third]
    assert manifest.without_done(pictures, manifest.read(out), "E", "other") == pictures
    manifest.write(out, [row_of(first), row_of(second, status="failed")])
    assert len(list((tmp_path / "out" / manifest.FOLDER).iterdir())) == 2, "a block done again replaces its file"
    manifest.write(out, [row_of(first, engine="E2", finished=9.0)])
    assert manifest.without_done(pictures, manifest.read(out), "E", "O") == pictures, "E2 wrote over what E had made"
    assert manifest.without_done(pictures, manifest.read(out), "E2", "O") == [second, third]
    assert manifest.done_before(pictures, manifest.read(out)) == 2, "of second there is no output"
    (tmp_path / "out" / manifest.FOLDER / "x.parquet").write_bytes(b"damaged")
    with pytest.raises(PspError, match="delete it to do every picture again"):
        manifest.read(out)


def test_names_too_long_for_their_outputs_are_not_dealt_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = open_place(str(tmp_path / "out"))
    pictures = [Picture("/photos", f"{'x' * length}.png", 1, 1) for length in (10, 247, 248)]
    one = driver._Targets(out, None, 1)
    assert driver._without_long_names(Options(), pictures, one) == (pictures[:2], 1)
    assert driver._without_long_names(Options(), pictures, replace(one, count=5)) == (pictures[:1], 2)
    assert driver._without_long_names(Options(format="webp"), pictures, one) == (pictures[:1], 2)
    assert driver._without_long_names(Options(align=True, faces="all"), pictures, one) == (pictures[:1], 2)
    back = Options(align=True, faces="12", paste_back="face", save_aligned="crops", format="png")
    assert driver._without_long_names(back, pictures, one) == (pictures[:2], 1)
    crops = replace(one, crops=out)
    assert driver._without_long_names(replace(back, faces=None), pictures, crops) == (pictures[:2], 1)
    assert driver._without_long_names(back, pictures, crops) == (pictures[:1], 2)
    err = capsys.readouterr().err
    assert err.startswith(f"error: /photos/{'x' * 248}.png: the name of its output would take 256 bytes")
    assert err.count("error: ") == len(err.splitlines()) == 11


def test_what_is_made_again_is_said() -> None:
    outcome = driver.Outcome(3, 3, 0, 1, 1.0, 1, "out", "left out: 1 file (no pictures: 1 .txt)", 2)
    again, left_out = outcome.remarks()
    assert again == "made again, of another engine, picture or options than before: 2"
    assert left_out == outcome.left_out and replace(outcome, again=0, left_out="").remarks() == []


def row_of(picture: Picture, **changes: object) -> manifest.Row:
    facts = manifest.Row(picture.path, "done", "", 0.5, 1.0, picture.size, picture.modified, "E", "O", "m:1")
    return replace(facts, **changes)


@pytest.mark.parametrize("folder", ["_out", ".out", "a=1%2F", "größe"])
def test_manifests_take_any_name(tmp_path: Path, folder: str) -> None:
    out = open_place(str(tmp_path / "p" / folder))
    write_pictures(tmp_path / "p", 1)
    for name in ("a=1%20b.png", "日本 ä.png", "line\nbreak.png"):
        (tmp_path / "p" / name).write_bytes(b"12345")
    _, pictures, _ = find_pictures([str(tmp_path / "p")], [out])
    manifest.write(out, [row_of(picture) for picture in pictures])
    (tmp_path / "p" / folder / "p00_out.png").write_bytes(b"an output, which is no input")
    assert len(pictures) == 4 and find_pictures([str(tmp_path / "p")], [out])[1] == pictures
    assert manifest.without_done(pictures, manifest.read(out), "E", "O") == []


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this filesystem takes only names in UTF-8")
    with pytest.raises(PspError, match=r"rename b.*\\xff\.png' in it, which is not UTF-8"):
        find_pictures([str(tmp_path)], [open_place(str(tmp_path / "out"))])


def test_places_do_not_tell_keys() -> None:
    for given, name, root in [
        ("s3://key:secret@bucket/a%20b/?region=eu-west-1", "s3://bucket/a b", "bucket/a b"),
        ("s3://bucket/ä b?region=eu-west-1", "s3://bucket/ä b", "bucket/ä b"),
        ("s3://bucket?region=eu-west-1", "s3://bucket", "bucket"),
        ("gs://anonymous@bucket/a", "gs://bucket/a", "bucket/a"),
        ("fsspec+file:///a b/100%", "fsspec+file:///a b/100%", "/a b/100%"),
    ]:
        place = open_place(given)
        assert (place.name, place.root) == (name, root)
    with pytest.raises(PspError, match="expected the name of a bucket after s3://"):
        open_place("s3://?region=eu-west-1")


def test_the_key_is_of_what_shapes_outputs(tmp_path: Path) -> None:
    engine, mask = write_onnx(tmp_path / "psp.onnx"), tmp_path / "mask.png"
    Image.new("L", (8, 8), 255).save(mask)
    options = Options(engine=engine, mask=str(mask))

    def key(**changes: object) -> tuple[str, str]:
        changed = replace(options, **changes)
        return pack(changed).key(changed)

    assert key() == key(batch=4, threads=7, out="x", device="cpu", ray="auto", actors=9)
    assert len({key(), key(mask="triangle"), key(size=64), key(couple=True), key(mask=None)}) == 5
    before = key()
    Image.new("L", (8, 8), 0).save(mask)
    assert key()[0] == before[0] and key()[1] != before[1]
    write_onnx(engine, mix_alpha=0.25)
    assert key()[0] != before[0]


def test_blocks_are_whole_batches_and_enough_for_all() -> None:
    info = tiny_info()
    pictures = [Picture("f", f"{index:04}.png", 1, 1) for index in range(100)]
    for batch, actors, sizes in [(info.max_batch, 1, [27, 27, 27, 19]), (1, 2, [13] * 7 + [9]), (64, 8, [64, 36])]:
        blocks = driver._blocks(pictures, batch, actors)
        assert [len(block) for block in blocks] == sizes
        assert [name.as_py() for block in blocks for name in block["name"]] == [one.name for one in pictures]
    assert max(map(len, driver._blocks(pictures * 40, 4, 1))) == 4 * driver.BATCHES


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_there_is_said_at_once(scheme: str) -> None:
    started = time.monotonic()
    with pytest.raises(PspError, match=rf"no Ray at {scheme}127\.0\.0\.1:\d+ \(.*refused.*ray start --head"):
        connection._check_reachable(f"{scheme}127.0.0.1:{free_port()}")
    assert time.monotonic() - started < connection.PATIENCE
    connection._check_reachable("auto")


@pytest.mark.parametrize(("variable", "there"), [("RAY_AUTH_TOKEN", True), ("", True), ("", False)])
def test_a_token_is_shown_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, there: bool
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    if variable:
        monkeypatch.setenv(variable, "0123")
    elif there:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("0123")
    connection._show_token()
    assert os.environ.get("RAY_AUTH_MODE") == ("token" if there else None)
