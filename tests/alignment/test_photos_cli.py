"""Whole photos from the command line: faces found, translated, put back; and every mistake."""

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


@pytest.fixture
def here(engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a photo of four people, lying as cameras store it, and one of nobody."""
    monkeypatch.chdir(tmp_path)
    Path("engines").symlink_to(engines)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(draw_scene(1, 540)).transpose(Image.Transpose.ROTATE_90)
    lying.save("party.jpg", quality=95, exif=exif, icc_profile=PROFILE)
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


def test_one_of_them_by_its_size(psp: PspRun) -> None:
    words = ("--align", "--faces", "2nd", "--save-aligned", "aligned", "--save-latents", "l.npy")
    assert psp("run", "party.jpg", *words)[::2] == (0, "")
    np.testing.assert_array_equal(pixels("aligned/party.png"), crops(upright("party.jpg"))[1].picture)
    assert np.load("l.npy").shape == (1, STYLES, STYLE_DIM) and Path("party_out.png").exists()
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
        (("run", "a.png", "b.png", "--align", "--save-aligned", "."), "is an input too"),
    ],
)
def test_mistakes(psp: PspRun, words: tuple[object, ...], said: str) -> None:
    before = {path.name for path in Path().iterdir()}
    code, out, err = psp(*words)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err
    assert {path.name for path in Path().iterdir()} == before


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
