"""Whole photos from the command line: faces found, translated, put back; and every mistake."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun, runner
from PIL import Image, ImageCms, ImageOps
from tiny_family import STYLE_DIM, STYLES, write_family
from tiny_steps import CARS, write_steps

import psp_runtime
from psp_runtime import alignment
from psp_runtime.alignment import finding
from psp_runtime.errors import PspError
from psp_runtime.pictures.photos import open_photo
from psp_train.drawn.faces import draw, sample
from psp_train.drawn.samples import draw_scene

#: How the engines of these tests frame faces.
SCALE = 1.28
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_family(folder, "psp", crop_scale=SCALE)
    write_family(folder, "front", task="frontalization")
    write_family(folder, "sketch", "sketch")
    write_family(folder, "seg", "labels")
    return folder


@pytest.fixture(scope="session")
def party() -> bytes:
    """A photo of four people, lying as cameras store it."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    lying = Image.fromarray(draw_scene(1, 540)).transpose(Image.Transpose.ROTATE_90)
    lying.save(file, "JPEG", quality=95, exif=exif, icc_profile=PROFILE)
    return file.getvalue()


@pytest.fixture
def here(engines: Path, party: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with that photo and one of nobody."""
    monkeypatch.chdir(tmp_path)
    Path("engines").symlink_to(engines)
    Path("party.jpg").write_bytes(party)
    Image.new("RGB", (320, 200), "pink").save("nobody.png")
    np.save("smile.npy", np.full((STYLES, STYLE_DIM), 0.1, np.float32))
    return tmp_path


@pytest.fixture
def psp(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    run = runner(monkeypatch, capsys, "psp")
    return lambda *words, engine="psp": run(*words, "--engine", f"engines/{engine}.onnx")


def upright(path: str) -> Image.Image:
    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def crops(photo: Image.Image, most: int | None = None) -> list[alignment.Crop]:
    return [alignment.crop(photo, face.framed(SCALE), 256) for face in alignment.find(photo, most)]


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_a_face_is_put_back_into_its_photo(psp: PspRun) -> None:
    code, out, err = psp("run", "party.jpg", "--align", "--paste-back", "--format", "png")
    assert code == 0 and out.startswith("1 picture in ") and "party_out.png" in out
    assert re.fullmatch(r"warning: party.jpg: \d faces, the largest is taken \(--faces all takes every one\)\n", err)
    photo = upright("party.jpg")
    crop = crops(photo, most=1)[0]
    with psp_runtime.load("engines/psp.onnx") as pipeline:
        expected = alignment.paste(photo, crop, pipeline(crop.picture))
        np.testing.assert_array_equal(pipeline.translate_photo("party.jpg"), expected)
        assert [one.corners.tolist() for one in pipeline.align("party.jpg", None)] == [
            one.corners.tolist() for one in crops(photo)
        ]
    with Image.open("party_out.png") as found:
        assert found.info["icc_profile"] == PROFILE and '"paste_back": "face"' in found.info["psp"]
        np.testing.assert_array_equal(found, expected)


def test_a_photo_keeps_format_size_and_profile(psp: PspRun) -> None:
    assert psp("run", "party.jpg", "--align", "--faces", "all", "--paste-back", "square")[::2] == (0, "")
    with Image.open("party_out.jpg") as found:
        assert (found.format, found.size, found.info["icc_profile"]) == ("JPEG", (960, 540), PROFILE)
        assert 0x0112 not in found.getexif()
    assert psp("run", "party.jpg", "--align", "--faces", "1", "--format", "auto", "--out", "crops/")[0] == 0
    assert pixels("crops/party_out.jpg").shape == (16, 16, 3)


def test_every_face_has_files_of_its_own(psp: PspRun) -> None:
    words = ("--align", "--faces", "all", "--save-aligned", "aligned", "--grid", "grid.png", "--save-latents", "l/")
    code, out, err = psp("run", ".", *words, "--out", "r/")
    assert code == 1 and out.startswith("4 pictures in ") and "nobody.png: no face found" in err
    assert sorted(path.name for path in Path("r").iterdir()) == [f"party_face{n}_out.png" for n in (1, 2, 3, 4)]
    for number, crop in enumerate(crops(upright("party.jpg")), start=1):
        np.testing.assert_array_equal(pixels(f"aligned/party_face{number}.png"), crop.picture)
        assert np.load(f"l/party_face{number}.npy").shape == (STYLES, STYLE_DIM)
        with psp_runtime.load("engines/psp.onnx") as pipeline:
            np.testing.assert_array_equal(pixels(f"r/party_face{number}_out.png"), pipeline(crop.picture))
    width = 16 + 4  # 4 groups of input and output
    assert pixels("grid.png").shape[0] * pixels("grid.png").shape[1] >= 8 * width**2


def test_what_was_written_is_named(psp: PspRun) -> None:
    """Crops are not counted among what was made, and where there are many files their folder is named."""
    words = ("--align", "--faces", "all", "--save-aligned", "a")
    out = psp("run", "party.jpg", *words, "--grid", "g.png", "--out", "r/")[1]
    assert out.endswith(": r/party_face1_out.png to party_face4_out.png, the crops in a/, g.png\n")
    out = psp("run", "party.jpg", *words, "--sketch-from-photo", "--paste-back", engine="sketch")[1]
    changed = ", ".join(f"party_face{n}_out_input.jpg" for n in (1, 2, 3, 4))
    assert out.endswith(f": party_out.jpg, {changed}, the crops in a/\n")
    upright("party.jpg").save("more.jpg")
    out = psp("run", "party.jpg", "more.jpg", *words, "--grid", "h.png")[1]
    assert out.endswith(": the crops in a/, h.png\n")
    out = psp("run", "party.jpg", "more.jpg", *words, "--out", "r/")[1]
    assert out.endswith(": r/, the crops in a/\n")


def test_one_of_them_by_its_size(psp: PspRun) -> None:
    words = ("--align", "--faces", "2nd", "--save-aligned", "aligned", "--save-latents", "l.npy")
    assert psp("run", "party.jpg", *words)[::2] == (0, "")
    np.testing.assert_array_equal(pixels("aligned/party.png"), crops(upright("party.jpg"))[1].picture)
    assert np.load("l.npy").shape == (1, STYLES, STYLE_DIM)
    with Image.open("party_out.png") as found:
        assert json.loads(found.info["psp"])["face"] == 2, "1 is the largest"
    assert "only 4 faces found" in psp("run", "party.jpg", "--align", "--faces", "9th")[2]
    assert psp("run", "party.jpg", "--align", "--faces", "3", "--out", "three/")[0] == 0
    assert len(list(Path("three").iterdir())) == 3


def test_outputs_of_faces_are_not_read_back(psp: PspRun) -> None:
    Path("nobody.png").unlink()
    for _ in range(2):
        code, out, _ = psp("mix", ".", "--align", "--faces", "2", "-n", 2)
        assert code == 0 and out.startswith("4 pictures")
    names = {path.name for path in Path().glob("*_out*")}
    assert names == {f"party_face{face}_out_{n}.png" for face in (1, 2) for n in (1, 2)}


def test_a_morph_in_the_photo(psp: PspRun) -> None:
    Image.fromarray(draw(sample(1, 9)[0], 320).image).save("other.png")
    words = ("--to", "other.png", "--steps", 3, "--align", "--faces", "all", "--paste-back", "--size", 320)
    assert psp("morph", "party.jpg", *words, "--gif", "m.gif", "--out", "m.png")[::2] == (0, "")
    with Image.open("m.gif") as film:
        assert (film.size, film.n_frames) == ((320, 180), 4)
    frames = [pixels(f"m_{n}.png").astype(int) for n in (1, 2, 3)]
    assert frames[0].shape == (180, 320, 3)
    assert (frames[0][:10] == frames[2][:10]).all() and (frames[0] != frames[2]).any()


def test_edits_before_and_after(psp: PspRun) -> None:
    words = ("-d", "smile.npy", "--strength", "0,2", "--align", "--paste-back", "--couple", "--faces", "1")
    assert psp("edit", "party.jpg", *words)[::2] == (0, "")
    first, second = (pixels(f"party_out_{n}.jpg") for n in (1, 2))
    assert first.shape == (540, 1920, 3) and (first != second).any()


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "I;16", "CMYK", "P"])
def test_photos_of_every_mode(psp: PspRun, mode: str) -> None:
    scene = Image.fromarray(draw_scene(2, 360))
    if mode == "I;16":
        scene = Image.fromarray(np.asarray(scene.convert("L"), np.uint16) * 257)
    name = f"scene.{'tif' if mode == 'CMYK' else 'png'}"
    (scene if mode == "I;16" else scene.convert(mode)).save(name)
    assert psp("run", name, "--align", "--faces", "1", "--paste-back", "--format", "png", "--out", "out.png")[0] == 0
    found = pixels("out.png")
    read = np.asarray(open_photo(name).picture)
    assert found.shape == read.shape == (360, 640, 3)
    np.testing.assert_array_equal(found[:40], read[:40])
    assert (found != read).any()


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (8200, ("--paste-back", "--couple", "--format", "webp")),
        (16400, ("--paste-back", "--format", "webp")),
    ],
)
def test_a_photo_too_wide_for_its_format_is_one_line(
    psp: PspRun, monkeypatch: pytest.MonkeyPatch, width: int, words: tuple[str, ...]
) -> None:
    # In all of so wide a photo, faces are too small to be found.
    look = lambda photo, most: finding.look(photo.crop((0, 0, 480, 270)), most)  # noqa: E731
    monkeypatch.setattr("psp_runtime.alignment.photos.look", look)
    small = upright("party.jpg").resize((480, 270))
    canvas = Image.new("RGB", (width, 270), "pink")
    canvas.paste(small)
    small.save("small.png")
    canvas.save("wide.png")
    words = ("--align", "--faces", "1", *words)
    code, out, err = psp("run", "wide.png", *words)
    assert (code, out) == (2, "") and not list(Path().glob("wide_out*")), err
    name = f"wide_out.{words[-1]}"
    assert re.search(rf"^error: cannot write {name}: \d+x270, a \w+ picture has at most \d+ pixels a side", err, re.M)
    assert psp("run", "wide.png", *words, "--size", 640)[0] == 0
    Path(name).unlink()
    code, out, err = psp("run", "wide.png", "small.png", *words)
    assert code == 1 and out.startswith("1 picture in ") and "1 of 2 pictures could not be used" in err


@pytest.mark.parametrize(
    "words", [(), ("--paste-back", "--save-latents", "l/"), ("--paste-back", "--save-aligned", "a")]
)
def test_there_is_room_in_names_for_the_number_of_every_face(psp: PspRun, words: tuple[str, ...]) -> None:
    long = f"{'x' * (os.pathconf('.', 'PC_NAME_MAX') - 10)}.jpg"  # with room for _out.png, not for _face1
    Path("photos").mkdir()
    upright("party.jpg").save(f"photos/{long}")
    upright("party.jpg").save("photos/short.jpg")
    code, out, err = psp("run", "photos", "--align", "--faces", "all", "--out", "r/", *words)
    assert code == 1 and f"{long}: the name of its output would take" in err
    assert out.startswith(f"{1 if words else 4} picture") and {path.name[:6] for path in Path("r").iterdir()} == {
        "short_"
    }


def test_crops_are_no_inputs_of_the_next_run(psp: PspRun) -> None:
    for _ in range(2):
        code, out, _ = psp("run", ".", "--align", "--save-aligned", "crops", "--out", "r/", "--faces", "1")
        assert code == 1 and out.startswith("1 picture in "), "and one of nobody"
    assert [path.name for path in Path("crops").iterdir()] == ["party.png"]


def test_names_of_several_lines(psp: PspRun) -> None:
    Path("party.jpg").rename("new\nline.jpg")
    Path("nobody.png").unlink()
    for _ in range(2):
        code, out, _ = psp("run", ".", "--align", "--faces", "2")
        assert code == 0 and out.startswith("2 pictures in "), "outputs are left out"
    assert {path.name for path in Path().glob("*_out*")} == {f"new\nline_face{n}_out.png" for n in (1, 2)}


def test_a_grey_profile_does_not_describe_what_is_in_colours(psp: PspRun) -> None:
    grey = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    Image.fromarray(draw_scene(2, 180)).convert("L").save("grey.png", icc_profile=grey)
    assert open_photo("grey.png").profile == b"" and open_photo("party.jpg").profile == PROFILE


def test_small_faces_are_told_of(psp: PspRun) -> None:
    upright("party.jpg").resize((480, 270)).save("small.png")
    err = psp("run", "small.png", "--align", "--faces", "1", "--out", "b.png")[2]
    assert re.fullmatch(r"warning: small.png: a face's square is \d+ pixels wide, the engine takes 256\n", err)


def test_served_engines_align_on_the_client(
    psp: PspRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient.http", reason="needs tritonclient")
    words = ("run", "party.jpg", "--align", "--faces", "1", "--paste-back", "--format", "png")
    assert psp(*words, "--out", "here.png")[0] == 0
    served = lambda *given, **named: psp_runtime.load("engines/psp.onnx")  # noqa: E731
    monkeypatch.setattr("psp_runtime.serving.client.connect", served)
    run = runner(monkeypatch, capsys, "psp")
    assert run(*words, "--url", "http://127.0.0.1:8000", "--out", "there.png")[0] == 0
    assert pixels("there.png").tobytes() == pixels("here.png").tobytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "nobody.png", "--align"), "nobody.png: no face found, expected a photo of people"),
        (("run", "party.jpg", "--paste-back"), "--paste-back goes with --align, which is not given"),
        (("run", "party.jpg", "--faces", "all"), "--faces goes with --align"),
        (("run", "party.jpg", "--save-aligned", "a"), "--save-aligned goes with --align"),
        (("run", "party.jpg", "--align", "--faces", "some"), "--faces some: expected largest, all, a number"),
        (("run", "party.jpg", "--align", "--paste-back=oval"), "oval"),
        (
            ("morph", "party.jpg", "--to", "party.jpg", "--align", "--faces", "all", "--gif", "a.gif"),
            "add --paste-back",
        ),
        (("run", "smile.npy", "--align"), "holds latents"),
        (("mix", "smile.npy", "--align"), "--align needs pictures"),
        (("run", "party.jpg", "--align", "--paste-back", "--grid", "g.png"), "--paste-back is for pictures"),
        (("run", "a.png", "b.png", "--align", "--save-aligned", "."), "is an input too"),
    ],
)
def test_mistakes(psp: PspRun, words: tuple[object, ...], said: str) -> None:
    before = {path.name for path in Path().iterdir()}
    code, out, err = psp(*words)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err
    assert {path.name for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--save-aligned", "photos"), "is an input too: choose another folder for it"),
        (("--save-aligned", "photos", "--faces", "all"), "is an input too: choose another folder for it"),
        (("--save-aligned", "new"), "new/a.png: rename one, or run them apart"),
        (("--save-aligned", "nobody.png"), "nobody.png is a file, expected a folder"),
    ],
)
def test_crops_of_a_cluster_replace_no_photo(psp: PspRun, words: tuple[str, ...], said: str) -> None:
    pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install '.[ray]'")
    Path("photos").mkdir()
    for name in ("b.png", "b_face1.png", *(["a.png", "a.jpg"] if words[1] == "new" else [])):
        Image.new("RGB", (64, 64)).save(f"photos/{name}")
    before = {path: path.read_bytes() for path in Path("photos").iterdir()}
    code, out, err = psp("run", "photos", "--ray", "--align", "--format", "auto", "--out", "out", *words)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err
    assert {path: path.read_bytes() for path in Path("photos").iterdir()} == before


@pytest.mark.parametrize(
    ("engine", "words", "said"),
    [
        ("front", ("--align", "--paste-back"), "turns heads to the camera"),
        ("seg", ("--align",), "--align is for photos"),
        ("sketch", ("--align",), "add --sketch-from-photo"),
    ],
)
def test_tasks_where_it_makes_no_sense(psp: PspRun, engine: str, words: tuple[str, ...], said: str) -> None:
    code, out, err = psp("run", "party.jpg", *words, engine=engine)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err


def test_in_python_too(here: Path) -> None:
    with psp_runtime.load(write_steps(here, "cars", **CARS)) as pipeline:
        with pytest.raises(PspError, match=r"align finds faces, .*cars.onnx is an engine of cars"):
            pipeline.align("party.jpg")
        with pytest.raises(PspError, match=r"translate_photo finds faces"):
            pipeline.translate_photo("party.jpg")
    with psp_runtime.load("engines/front.onnx") as pipeline, pytest.raises(PspError, match="turns heads to the camera"):
        pipeline.translate_photo("party.jpg")
    photo = upright("party.jpg")
    with pytest.raises(PspError, match="a picture of 16x12 fits no crop: expected a square"):
        alignment.paste(photo, crops(photo, most=1)[0], Image.new("RGB", (16, 12)))


def test_photos_are_sketched_aligned(psp: PspRun) -> None:
    words = ("--align", "--faces", "1", "--sketch-from-photo", "--paste-back")
    assert psp("run", "party.jpg", *words, engine="sketch")[::2] == (0, "")
    assert Path("party_out.jpg").exists() and Path("party_out_input.jpg").exists()
