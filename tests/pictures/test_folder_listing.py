"""Folders as people have them: every format, links, names of systems, names too long, names in two Unicode forms."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from cli_runs import PspRun, runner
from PIL import Image, features
from tiny_engines import STYLE_DIM, STYLES, write_onnx

from psp_runtime.errors import PictureError, PspError
from psp_runtime.pictures import folders, heif
from psp_runtime.pictures.loading import load
from psp_runtime.run import files
from psp_train.data.folders import pairs, pictures

PIXELS = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
E_COMPOSED, E_DECOMPOSED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def plain(folder: Path) -> list[Path]:
    return files.find_pictures([folder]).pictures


def on_ray(folder: Path) -> list[Path]:
    storage = pytest.importorskip("psp_runtime.cluster.storage")
    pytest.importorskip("pyarrow")
    found = storage.find_pictures([str(folder)], [storage.open_place(str(folder.parent / "elsewhere"))]).pictures
    return sorted(Path(picture.path) for picture in found)


READERS = pytest.mark.parametrize("read", [plain, on_ray, pictures])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "psp.onnx")
    return tmp_path


@pytest.fixture
def psp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    return runner(monkeypatch, capsys, "psp")


def test_every_format_that_pillow_reads_is_made(here: Path, psp_run: PspRun) -> None:
    endings = ["png", "jfif", "gif", "jp2", "ppm", "tga", "qoi", "pcx", *(["avif"] if features.check("avif") else [])]
    kinds = {"jfif": "JPEG", "jp2": "JPEG2000"}
    Path("photos").mkdir()
    for number, ending in enumerate(endings):
        Image.fromarray(PIXELS).save(f"photos/p{number}.{ending}", kinds.get(ending, ending.upper()))
    touch(Path("photos/notes.txt"), Path("photos/list.txt"), Path("photos/z.npy"))
    code, out, err = psp_run("photos", "-e", "psp.onnx", "-o", "made")
    assert (code, err) == (0, "")
    assert sorted(os.listdir("made")) == sorted(f"p{number}_out.png" for number in range(len(endings)))
    assert out.splitlines()[1:] == ["left out: 3 files (no pictures: 2 .txt, 1 .npy)"]
    assert psp_run("photos", "-e", "psp.onnx", "-o", "made", "-q") == (0, "", "")


def test_outputs_among_the_pictures_are_counted(here: Path, psp_run: PspRun) -> None:
    Image.fromarray(PIXELS).save("a.png")
    assert psp_run(".", "-e", "psp.onnx")[1].splitlines()[1] == "left out: 1 file (no pictures: 1 .onnx)"
    out = psp_run(".", "-e", "psp.onnx")[1]
    assert "left out: 2 files (no pictures: 1 .onnx; outputs of ours: 1)" in out.splitlines()


def test_list_pictures_is_sorted_and_free_of_our_outputs(tmp_path: Path) -> None:
    kept = ["_out.png", "a.JPG", "b.png", "c_out.png", "made/d_out.png", "sub.png/d.png", "v1.2.png"]
    left_out = ["a_out.png", "b_out.webp", "v1.2_out.png", "a_out_out.png", ".hidden.png", "note.txt"]
    left_out += ["a_out_2.png", "b_out_input.png", "sub.png/d_out.png"]
    left_out += ["made/a_out.png", "made/deeper/sub.png/d_out_3.png"]
    touch(*(tmp_path / name for name in kept[::-1] + left_out))
    assert folders.list_pictures(tmp_path).pictures == [tmp_path / name for name in kept]


@READERS
def test_links_are_followed_once(tmp_path: Path, read: Callable[[Path], list[Path]]) -> None:
    """Two links to the folder itself once made 41 outputs of a picture, or no end."""
    top = tmp_path / "top"
    touch(top / "a.png", top / "real" / "b.png", tmp_path / "other" / "deep" / "c.png", tmp_path / "outside.png")
    for link, target in {
        "l": ".",
        "m": ".",
        "up": "..",
        "real/back": "../../top",
        "also": "real",
        "b": "../other/deep",
        "z": "../other",
        "self": "self",
        "gone.png": "nowhere.png",
        "named.png": "real/b.png",
    }.items():
        (top / link).symlink_to(target)
    (tmp_path / "other" / "loop").symlink_to(top)
    names = ["a.png", "b/c.png", "named.png", "real/b.png"]
    assert [path.relative_to(top).as_posix() for path in read(top)] == names
    assert (folders.BROKEN, "") in folders.list_pictures(top).left_out


@READERS
def test_what_systems_leave_among_pictures_is_not_there(tmp_path: Path, read: Callable[[Path], list[Path]]) -> None:
    unseen = ["@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", ".thumbnails/b.png", "__MACOSX/c.png", "._d.png", "#recycle/e.png"]
    touch(*(tmp_path / "sub" / name for name in [*unseen, "Thumbs.db", "desktop.ini", ".DS_Store", "f.png"]))
    assert read(tmp_path) == [tmp_path / "sub" / "f.png"]
    assert folders.list_pictures(tmp_path).words() == ""
    assert folders.sort_out(PurePosixPath(name) for name in unseen).pictures == []


def test_sub_folders_are_kept_and_outputs_in_them_not_read(here: Path, psp_run: PspRun) -> None:
    for name in ("a.png", "sub/a.png", "sub/deep/b.png"):
        (here / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(f"photos/{name}")
    asked = ["photos", "-e", "psp.onnx", "-o", "photos/made/", "--save-latents", "latents/"]
    for _ in range(2):
        code, out, _ = psp_run(*asked)
        assert code == 0 and out.startswith("3 pictures in ")
    made = {path.relative_to("photos/made").as_posix() for path in Path("photos/made").rglob("*.*")}
    assert made == {"a_out.png", "sub/a_out.png", "sub/deep/b_out.png"}
    assert {path.as_posix() for path in Path("latents").rglob("*.npy")} == {
        "latents/a.npy",
        "latents/sub/a.npy",
        "latents/sub/deep/b.npy",
    }


def test_a_name_too_long_for_its_output_is_one_failed_picture(here: Path, psp_run: PspRun) -> None:
    Path("photos").mkdir()
    longest = "x" * (255 - len("_out.png"))
    for name in (longest, f"{longest}y", "z"):
        Image.fromarray(PIXELS).save(f"photos/{name}.png")
    code, out, err = psp_run("photos", "-e", "psp.onnx", "-o", "made")
    assert code == 1 and out.startswith("2 pictures in ") and sorted(os.listdir("made"))[1] == "z_out.png"
    first, last = err.splitlines()
    assert first.startswith(f"error: photos/{longest}y.png: the name of its output would take 256 bytes")
    assert first.endswith("allows 255: rename it") and last.startswith("error: 1 of 3 pictures could not be used")
    code, out, err = psp_run(f"photos/{longest}y.png", "-e", "psp.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1) and "would take 256 bytes" in err


def test_a_folder_that_may_not_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.png", tmp_path / "closed" / "b.png")
    real = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = folders.list_pictures(tmp_path)
    assert found.pictures == [tmp_path / "a.png"] and found.words() == f"left out: 1 file ({folders.CLOSED}: 1)"
    with pytest.raises(PermissionError):
        folders.list_pictures(tmp_path / "closed")


def test_names_in_two_unicode_forms_are_pairs(tmp_path: Path) -> None:
    source, target = tmp_path / "in" / f"{E_COMPOSED}.png", tmp_path / "out" / f"{E_DECOMPOSED}.jpg"
    touch(source, target)
    assert pairs(tmp_path / "in", tmp_path / "out") == [(source, target)]


def test_a_table_names_its_pictures_in_any_unicode_form(here: Path, psp: PspRun) -> None:
    Path(f"f{E_DECOMPOSED}").mkdir()
    rows = []
    for number in range(4):
        name = f"f{E_DECOMPOSED}/p{number}{E_DECOMPOSED}"
        np.save(f"{name}.npy", np.full((STYLES, STYLE_DIM), number, np.float32))
        rows.append(f"{unicodedata.normalize('NFC', name)}.npy,{number % 2}\n")
    Path("table.csv").write_text("".join(rows), encoding="utf-8")
    code, out, err = psp("direction", "table.csv", "-e", "psp.onnx")
    assert code == 0 and "error" not in err and out.startswith("table.npy")


def test_training_says_what_it_leaves_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.avif", tmp_path / "a_out.png", tmp_path / "notes.txt")
    with pytest.warns(UserWarning, match=r"left out: 2 files \(no pictures: 1 \.txt; outputs of ours: 1"):
        assert pictures(tmp_path) == [tmp_path / "a.avif"]


def test_a_folder_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt", tmp_path / "b")
    for read in (plain, pictures):
        with pytest.raises(PspError, match=r"no pictures in .*\(no pictures: 1 \.txt, 1 without an ending\)"):
            read(tmp_path)


def write_heic(path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(PIXELS).resize((64, 64))).save(path, quality=90)


def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow as it is where pillow-heif is not installed."""
    monkeypatch.setitem(Image.OPEN, "HEIF", (heif._open, heif._has_box))
    monkeypatch.setattr(heif, "is_readable", lambda: False)


def test_heic_is_read(here: Path, psp_run: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Image.OPEN, "HEIF", (heif._open, heif._has_box))
    Path("photos").mkdir()
    write_heic(here / "photos" / "IMG_1.HEIC")
    pixels = load("photos/IMG_1.HEIC", "rgb", 64)
    wanted = np.asarray(Image.fromarray(PIXELS).resize((64, 64)), np.float32)
    assert np.abs(pixels - wanted).mean() < 12, "noise in HEVC, but the same picture"
    assert psp_run("photos", "-e", "psp.onnx", "-o", "made")[0] == 0 and os.listdir("made") == ["IMG_1_out.png"]


def test_heic_is_named_where_it_cannot_be_read(here: Path, psp_run: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photos").mkdir()
    write_heic(here / "photos" / "IMG_1.HEIC")
    Image.fromarray(PIXELS).save("photos/a.png")
    without_heif(monkeypatch)
    code, out, err = psp_run("photos", "-e", "psp.onnx", "-o", "made")
    assert (code, err) == (0, "") and f"left out: 1 file ({folders.HEIC}: 1)" in out.splitlines()
    with pytest.raises(PictureError, match=r"^cannot read photos/IMG_1\.HEIC: it is HEIC, .*pip install '.*\[heif\]'"):
        load("photos/IMG_1.HEIC", "rgb")


def test_a_film_is_no_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_heif(monkeypatch)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\1isomavc1" + bytes(50))
    with pytest.raises(PictureError, match="not a picture of a known format"):
        load(tmp_path / "a.jpg", "rgb")


@pytest.mark.parametrize("name", ["run", "mix", "morph", "transfer", "edit"])
def test_every_verb_warns_of_a_label_map_for_an_inversion_engine(here: Path, psp: PspRun, name: str) -> None:
    write_onnx(here / "psp.mapping.onnx", part="mapping")
    Image.fromarray((np.arange(256 * 256).reshape(256, 256) // 4000).astype(np.uint8)).save("labels.png")
    Image.fromarray(PIXELS).save("face.png")
    np.save("way.npy", np.ones(STYLE_DIM, np.float32))
    more = {"morph": ["--to", "face.png"], "transfer": ["--style-of", "face.png"], "edit": ["-d", "way.npy"]}
    err = psp(name, "labels.png", "-e", "psp.onnx", *more.get(name, []))[2]
    assert "warning: a picture is grey with few, dark shades, as label maps are" in err
