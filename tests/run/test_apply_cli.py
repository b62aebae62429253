"""Every application from the command line, and every mistake: one line, exit 2, nothing written."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Outcome, PspRun, runner
from PIL import Image
from tiny_family import STYLE_DIM, STYLES, write_family

import psp_runtime
from psp_runtime.directions import fit_direction as fit
from psp_runtime.pictures import previews, sheets
from psp_runtime.pictures.loading import COLOURED, LOSSY_LABELS
from psp_runtime.pictures.sketching import sketch
from psp_runtime.pictures.transforms import degrade, hide, triangle

RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (3, 4, 4, 3), np.uint8), np.ones((1, 64, 64, 1), np.uint8))
LABELS = np.kron(RNG.integers(1, 19, (16, 16), np.uint8), np.ones((16, 16), np.uint8))
DIRECTION = RNG.normal(0, 0.2, (STYLES, STYLE_DIM)).astype(np.float32)
TASKS = {
    "psp": ("rgb", {}),
    "sketch": ("sketch", {}),
    "seg": ("labels", {}),
    "sr": ("rgb", {"task": "super_resolution", "mix_layers": (4, 5, 6, 7), "mix_alpha": 0.5}),
    "inpaint": ("rgb", {"task": "inpainting"}),
}


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    for name, (kind, changes) in TASKS.items():
        write_family(folder, name, kind, parts=name != "sketch", **changes)
    return folder


@pytest.fixture
def here(engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures a, b and c, a label map, a direction and latents."""
    monkeypatch.chdir(tmp_path)
    Path("engines").symlink_to(engines)
    for name, pixels in zip("abc", PIXELS, strict=True):
        Image.fromarray(pixels).save(f"{name}.png")
    Image.fromarray(LABELS).save("map.png")
    np.save("smile.npy", DIRECTION)
    np.save("latents.npy", RNG.normal(0, 0.3, (2, STYLES, STYLE_DIM)).astype(np.float32))
    return tmp_path


@pytest.fixture
def psp(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    """Run psp in this process: exit code, stdout, stderr. `engine` is the name of one of TASKS."""
    run = runner(monkeypatch, capsys, "psp")
    return lambda *arguments, engine="psp": run(*arguments, "--engine", f"engines/{engine}.onnx")


@pytest.fixture
def good(psp: PspRun) -> Callable[..., str]:
    """Run what must succeed without a word on stderr; what it prints."""

    def run(*arguments: object, engine: str = "psp") -> str:
        code, out, err = psp(*arguments, engine=engine)
        assert (code, err) == (0, "")
        return out

    return run


def read(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


def new(*known: str) -> list[str]:
    """The files in the working folder that a run has made."""
    before = {"engines", "a.png", "b.png", "c.png", "map.png", "smile.npy", "latents.npy", *known}
    return sorted(path.name for path in Path().iterdir() if path.name not in before)


def note(name: str) -> dict:
    return json.loads(Image.open(name).text["psp"])


def pipeline(engine: str = "psp") -> psp_runtime.Pipeline:
    return psp_runtime.load(f"engines/{engine}.onnx", "cpu")


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= 1


# ---- Applications ---------------------------------------------------------------------------------------------


def test_mixing_makes_several_faces_and_says_how(good: Callable[..., str]) -> None:
    out = good("mix", "a.png", "-n", 5, "--seed", 7)
    names = [f"a_out_{n}.png" for n in range(1, 6)]
    assert re.fullmatch(rf"5 pictures in \d+\.\d\d s \(.* pictures/s, cpu\): {', '.join(names)}\n", out)
    assert new() == names
    with pipeline() as p:
        mixed = p.mix(PIXELS[:1], p.styles(5, 7))[0]
    assert all(close(read(f"a_out_{n}.png"), picture) for n, picture in enumerate(mixed, 1))
    how = note("a_out_3.png")
    assert how["application"] == "mix" and how["seed"] == 7 and how["style"] == 3 and how["psi"] == 1
    assert how["layers"] == list(range(8, 14)) and how["alpha"] == 1 and how["input"] == "a.png"
    assert how["engine"] == "psp.onnx" and how["checkpoint"] == "ab" * 32 and how["task"] == "inversion"


def test_the_same_seed_gives_the_same_files(good: Callable[..., str]) -> None:
    for folder in ("r1", "r2"):
        good("mix", "a.png", "-n", 2, "--seed", 3, "--psi", 0.5, "--out", folder)
    for name in ("a_out_1.png", "a_out_2.png"):
        assert Path("r1", name).read_bytes() == Path("r2", name).read_bytes()
    assert read("r1/a_out_1.png").tolist() != read("r1/a_out_2.png").tolist()


def test_mixing_some_layers_and_a_contact_sheet_alone(good: Callable[..., str]) -> None:
    out = good("mix", "map.png", "-n", 4, "--layers", "8-11", "--alpha", 0.7, "--grid", "grid.png", engine="seg")
    assert new() == ["grid.png"] and out.endswith(": grid.png\n")
    sheet, step = read("grid.png"), 16 + sheets.GAP
    assert sheet.shape == (step + sheets.GAP, 5 * step + sheets.GAP, 3)
    with pipeline("seg") as p:
        mixed = p.mix(LABELS[None], p.styles(4), range(8, 12), 0.7)[0]
    for column, picture in enumerate(mixed, 1):
        x = sheets.GAP + column * step
        assert close(sheet[sheets.GAP : sheets.GAP + 16, x : x + 16], picture)
    left = sheet[sheets.GAP : sheets.GAP + 16, sheets.GAP : sheets.GAP + 16]
    np.testing.assert_array_equal(left, previews.preview(LABELS[None, 8::16, 8::16], "labels")[0])
    told = note("grid.png")
    assert (told["inputs"], told["seed"], told["style"], told["layers"]) == (1, 0, [1, 2, 3, 4], [8, 9, 10, 11])


def test_layers_to_the_last(good: Callable[..., str]) -> None:
    good("mix", "a.png", "-n", 1, "--layers", "2,9-")
    assert note("a_out.png")["layers"] == [2, *range(9, 14)]


def test_sketches_on_any_paper_are_no_photos(good: Callable[..., str]) -> None:
    drawn = sketch(PIXELS[0])
    Image.fromarray(drawn).save("drawn.png")
    Image.fromarray((drawn[..., None] * np.array([1, 0.93, 0.8])).astype(np.uint8)).save("scan.png")
    good("run", "drawn.png", "scan.png", engine="sketch")


@pytest.mark.parametrize("line", ["run a.png", "transfer map.png --style-of a.png", "morph map.png --to b.png"])
def test_photos_given_as_sketches_are_warned_about(psp: PspRun, line: str) -> None:
    code, _, err = psp(*line.split(), engine="sketch")
    assert code == 0 and err == f"warning: {COLOURED}\n"


def test_label_maps_as_jpeg_are_warned_about(psp: PspRun) -> None:
    Image.fromarray(np.full((256, 256), 7, np.uint8)).save("map.jpg")
    code, _, err = psp("run", "map.jpg", engine="seg")
    assert code == 0 and err == f"warning: {LOSSY_LABELS}\n"


def test_truncation_to_the_average_face(good: Callable[..., str]) -> None:
    good("mix", "a.png", "-n", 2, "--psi", 0, "--layers", "0-13", "--alpha", 1)
    with pipeline() as p:
        average = p.decode(np.tile(p.average_style(), (1, STYLES, 1)))[0]
    assert close(read("a_out_1.png"), average) and close(read("a_out_2.png"), average)


@pytest.mark.parametrize(("psi", "warned"), [(1, False), (2, True), (-0.5, True)])
def test_truncation_beyond_its_range_is_said(psp: PspRun, psi: float, warned: bool) -> None:
    code, _, err = psp("mix", "a.png", "-n", 2, "--psi", psi)
    assert code == 0 and err.count("\n") == warned
    assert err.startswith(f"warning: psi {psi:g} is outside 0") is warned


def test_interpolation_as_pictures_and_as_animations(good: Callable[..., str]) -> None:
    good("morph", "a.png", "--to", "b.png", "--steps", 4, "--gif", "m.gif", "--webp", "m.webp", "--out", "r")
    assert sorted(p.name for p in Path("r").iterdir()) == [f"a_out_{n}.png" for n in range(1, 5)]
    with pipeline() as p:
        translated = p.translate(PIXELS[:1]).output[0], p.translate(PIXELS[1:2]).output[0]
    np.testing.assert_array_equal(read("r/a_out_1.png"), translated[0])
    np.testing.assert_array_equal(read("r/a_out_4.png"), translated[1])
    assert note("r/a_out_2.png")["share"] == pytest.approx(1 / 3, abs=1e-6)
    for name in ("m.gif", "m.webp"):
        with Image.open(name) as animation:
            assert animation.n_frames == 6 and animation.info["loop"] == 0
            grey = np.asarray(Image.fromarray(translated[0]).convert("L")).astype(int)
            assert np.abs(np.asarray(animation.convert("L")) - grey).mean() < 25


def test_an_animation_alone_writes_no_pictures(good: Callable[..., str]) -> None:
    assert good("morph", "a.png", "--to", "b.png", "--gif", "new/m.gif").endswith(": new/m.gif\n")
    assert new() == ["new"] and Image.open("new/m.gif").n_frames == 16


def test_the_style_of_another_picture(good: Callable[..., str]) -> None:
    good("transfer", "a.png", "b.png", "--style-of", "c.png", "--layers", "8-13", "--grid", "g.png", "--out", "./")
    assert new() == ["a_out.png", "b_out.png", "g.png"]
    with pipeline() as p:
        pictures = p.transfer(PIXELS[:2], PIXELS[2:])
    assert close(read("a_out.png"), pictures[0]) and close(read("b_out.png"), pictures[1])
    assert read("g.png").shape[1] == 3 * 20 + 4  # input, style, output
    assert note("b_out.png")["style_of"] == "c.png"


def test_edits_swept(good: Callable[..., str]) -> None:
    good("edit", "a.png", "--direction", "smile.npy", "--strength", "-3:3:7")
    assert new() == [f"a_out_{n}.png" for n in range(1, 8)]
    with pipeline() as p:
        pictures = p.edit(PIXELS[:1], DIRECTION, range(-3, 4))[0]
        assert close(pictures[3], p.translate(PIXELS[:1]).output[0])
    assert all(close(read(f"a_out_{n}.png"), picture) for n, picture in enumerate(pictures, 1))
    assert note("a_out_1.png")["strength"] == -3 and note("a_out_1.png")["direction"] == "smile.npy"


def test_an_edit_of_one_strength_and_of_some_layers(psp: PspRun) -> None:
    code, _, err = psp("edit", "a.png", "--direction", "smile.npy", "--layers", "2,4-5", "--alpha", 2)
    assert code == 0 and err == "warning: alpha 2 is outside 0..1: the edit goes beyond its strength\n"
    assert new() == ["a_out.png"] and note("a_out.png")["layers"] == [2, 4, 5]


def test_super_resolution_saves_what_it_restored(good: Callable[..., str]) -> None:
    good("run", "a.png", "--downsample", 8, engine="sr")
    assert new() == ["a_out.png", "a_out_input.png"]
    np.testing.assert_array_equal(read("a_out_input.png"), degrade(PIXELS[0], 8))
    with pipeline("sr") as p:
        np.testing.assert_array_equal(read("a_out.png"), p.translate(degrade(PIXELS[0], 8)[None]).output[0])
    assert note("a_out.png")["downsample"] == 8
    good("mix", "a.png", "--downsample", 8, "-n", 2, "--out", "r/x.png", engine="sr")
    assert sorted(p.name for p in Path("r").iterdir()) == ["x_1.png", "x_2.png", "x_input.png"]
    assert note("r/x_1.png")["layers"] == [4, 5, 6, 7] and note("r/x_1.png")["alpha"] == 0.5


def test_inpainting_with_the_triangle_and_with_a_mask(good: Callable[..., str]) -> None:
    good("run", "a.png", "--mask", "triangle", engine="inpaint")
    np.testing.assert_array_equal(read("a_out_input.png"), hide(PIXELS[0], triangle()))
    drawn = Image.new("L", (256, 256))
    drawn.paste(255, (0, 0, 100, 256))
    drawn.save("mask.png")
    good("run", "a.png", "--mask", "mask.png", "--out", "m.png", engine="inpaint")
    hidden = PIXELS[0].copy()
    hidden[:, :100] = 0
    np.testing.assert_array_equal(read("m_input.png"), hidden)
    assert note("m.png")["mask"] == "mask.png"


def test_sketches_from_photos(good: Callable[..., str]) -> None:
    good("run", "a.png", "--sketch-from-photo", "--couple", engine="sketch")
    drawn = sketch(PIXELS[0])
    np.testing.assert_array_equal(read("a_out_input.png")[..., 0], drawn)
    with pipeline("sketch") as p:
        np.testing.assert_array_equal(read("a_out.png")[:, 16:], p.translate(drawn[None, ..., None]).output[0])


def test_couples_show_the_map_in_colours(good: Callable[..., str]) -> None:
    good("run", "map.png", "--couple", "--size", 64, engine="seg")
    picture = read("map_out.png")
    assert picture.shape == (64, 128, 3)
    np.testing.assert_array_equal(picture[:, :64], previews.preview(LABELS[None, 2::4, 2::4], "labels")[0])


def test_swapping_a_class_shows_both(good: Callable[..., str], psp: PspRun) -> None:
    good("swap", "map.png", "--classes", "13=0", "--couple", engine="seg")
    assert new() == ["map_out_1.png", "map_out_2.png"]
    swapped = np.where(LABELS == 13, 0, LABELS).astype(np.uint8)
    with pipeline("seg") as p:
        translated = p.translate(np.stack([LABELS, swapped])).output
    for number, (labels, output) in enumerate(zip((LABELS, swapped), translated, strict=True), 1):
        picture = read(f"map_out_{number}.png")
        np.testing.assert_array_equal(picture[:, 16:], output)
        np.testing.assert_array_equal(picture[:, :16], previews.preview(labels[None, 8::16, 8::16], "labels")[0])
    assert note("map_out_2.png")["swap"] == {"13": 0}
    code, _, err = psp("swap", "map.png", "--classes", "0=13", engine="seg")
    assert code == 0 and err == "warning: map.png has no pixel of class 0: nothing is replaced there\n"


def test_latents_saved_and_decoded_again(good: Callable[..., str]) -> None:
    good("run", "a.png", "b.png", "c.png", "--save-latents", "saved.npy")
    translated = {name: read(f"{name}_out.png") for name in "abc"}
    good("decode", "saved.npy")
    for number, name in enumerate("abc", 1):
        assert close(read(f"saved_{number}_out.png"), translated[name])
    good("run", "a.png", "b.png", "--save-latents", "folder/")
    good("decode", "folder", "--out", "again")
    for name in "ab":
        assert close(read(f"again/{name}_out.png"), translated[name])
    good("decode", "folder/a.npy", "--out", "single.webp")
    assert Image.open("single.webp").format == "WEBP"


def test_latents_are_mixed_edited_and_interpolated_too(good: Callable[..., str]) -> None:
    for arguments, made in (
        (("mix", "-n", 3), 6),
        (("edit", "--direction", "smile.npy", "--strength", "1,2"), 4),
        (("morph", "--to", "a.png"), 18),
    ):
        assert good(*arguments, "latents.npy", "--out", "r").startswith(f"{made} pictures")
    good("mix", "latents.npy", "-n", 3, "--grid", "g.png")
    assert read("g.png").shape == (2 * 20 + 4, 3 * 20 + 4, 3)


@pytest.mark.parametrize("verb", ["morph --to", "transfer --style-of"])
def test_the_other_one_may_be_latents(good: Callable[..., str], psp: PspRun, verb: str) -> None:
    name, option = verb.split()
    good("run", "b.png", "--save-latents", "b.npy", "--out", "b_made.png")
    for other in ("b.png", "b.npy"):
        good(name, "a.png", option, other, "--out", f"by_{other[2:]}/", "--grid", f"{other[2:]}_sheet.png")
    for picture in Path("by_png").iterdir():
        assert np.array_equal(read(str(picture)), read(f"by_npy/{picture.name}"))
    assert read("npy_sheet.png").size < read("png_sheet.png").size  # without the other one
    assert "has the latents of 2 pictures, expected one" in psp(name, "a.png", option, "latents.npy")[2]


def test_a_folder_on_a_sheet_and_what_could_not_be_read(psp: PspRun) -> None:
    Path("photos").mkdir()
    for name in "abc":
        Path(f"{name}.png").rename(f"photos/{name}.png")
    Path("photos/d.png").write_text("not a picture")
    code, out, err = psp("run", "photos", "--couple", "--grid", "g.webp", "--out", "r")
    assert code == 1 and out.startswith("3 pictures") and "photos/d.png" in err
    assert Image.open("g.webp").size == (2 * 20 + 4, 3 * 20 + 4)
    assert read("r/a_out.png").shape == (16, 32, 3)


def test_a_rerun_in_the_same_folder_reads_no_outputs(good: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photos").mkdir()
    Path("a.png").rename("photos/a.png")
    for _ in range(2):
        out = good("mix", "photos", "--downsample", 4, "-n", 2, "--out", "photos", engine="sr")
        assert out.startswith("2 pictures")
    assert len(list(Path("photos").iterdir())) == 4


def test_numbers_are_padded(good: Callable[..., str]) -> None:
    good("mix", "a.png", "-n", 12)
    assert new()[0] == "a_out_01.png" and new()[-1] == "a_out_12.png"


# ---- Directions -----------------------------------------------------------------------------------------------


def test_learning_a_direction_from_pictures(good: Callable[..., str]) -> None:
    """Pictures that are redder on one side; the direction makes them so."""
    rows = ["picture,red"]
    for index in range(24):
        pixels = np.kron(RNG.integers(0, 100, (4, 4, 3), np.uint8), np.ones((64, 64, 1), np.uint8))
        pixels[:, :64, 0] += np.uint8(100 * (index % 2))
        Image.fromarray(pixels).save(f"p{index}.png")
        rows.append(f"p{index}.png,{index % 2}")
    Path("red.csv").write_text("\n".join(rows))
    out = good("direction", "red.csv")
    assert re.fullmatch(
        r"red\.npy: a direction \[14,8\] from 24 examples, 12 of label 1; 100% of held-out ones right, penalty .*\n"
        r"next: psp edit PICTURE --engine engines/psp\.onnx --direction red\.npy\n",
        out,
    )
    first = Path("red.npy").read_bytes()
    direction = np.load("red.npy")
    assert direction.shape == (STYLES, STYLE_DIM) and direction.dtype == np.float32
    with pipeline() as p:
        latents = p.encode(p.prepare([f"p{index}.png" for index in range(24)]))
    along = (latents * direction).sum((1, 2)) / np.square(direction).sum()
    assert along[1::2].min() > along[::2].max()
    assert along.std() == pytest.approx(1, abs=1e-3)  # strength 1 is one standard deviation
    good("direction", "red.csv")
    assert Path("red.npy").read_bytes() == first
    good("edit", "p0.png", "--direction", "red.npy", "--strength", "0,2")


def test_learning_a_direction_from_saved_codes(good: Callable[..., str]) -> None:
    latents = RNG.normal(size=(40, STYLES, STYLE_DIM)).astype(np.float32)
    labels = (latents[:, 3, 2] > 0.5).astype(int)
    latents[labels == 1, 3, 2] += 6
    np.save("many.npy", latents)
    Path("l.csv").write_text("\n".join(map(str, labels)))
    good("direction", "l.csv", "--latents", "many.npy", "--out", "d/way.npy")
    way = np.load("d/way.npy")
    assert np.unravel_index(np.abs(way).argmax(), way.shape) == (3, 2) and way[3, 2] > 0


def test_pictures_and_codes_in_one_table_keep_their_order(psp: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some lines name pictures, some latents; they are encoded a batch at a time."""
    with pipeline() as p:
        latents = p.encode(PIXELS)
    np.save("c0.npy", latents[1])
    names = ["a.png", "b.png", "c.png", "a.png", "c0.npy", "c.png", "c0.npy"]
    Path("t.csv").write_text("\n".join(f"{name},{index % 2}" for index, name in enumerate(names)))
    seen = []
    monkeypatch.setattr(
        "psp_runtime.run.find_direction.fit_direction", lambda *given: seen.append(given) or fit(*given)
    )
    assert psp("direction", "t.csv", "--batch", 3)[0] == 0
    np.testing.assert_allclose(seen[0][0], latents[[0, 1, 2, 0, 1, 2, 1]], atol=1e-5)
    assert seen[0][1].tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_a_direction_does_not_replace_an_example(psp: PspRun) -> None:
    for name in ("t.npy", "u.npy"):
        np.save(name, RNG.normal(size=(1, STYLES, STYLE_DIM)).astype(np.float32))
    before = Path("t.npy").read_bytes()
    Path("t.csv").write_text("t.npy,0\nu.npy,1\nt.npy,0\nu.npy,1\n")
    assert "t.npy, the output of psp direction, is an input too" in mistake(
        psp("direction", "t.csv"), "t.csv", "t.npy", "u.npy"
    )
    assert Path("t.npy").read_bytes() == before


def test_hidden_files_in_a_folder_of_codes_are_left_alone(good: Callable[..., str]) -> None:
    """macOS puts a ._X beside each X on other file systems."""
    Path("latents").mkdir()
    np.save("latents/a.npy", RNG.normal(size=(STYLES, STYLE_DIM)).astype(np.float32))
    Path("latents/._a.npy").write_bytes(b"\0\5\x16\7")
    assert good("decode", "latents").startswith("1 picture in ")


def test_a_direction_no_better_than_guessing_is_warned_about(psp: PspRun) -> None:
    np.save("many.npy", np.random.default_rng(0).normal(size=(40, STYLES, STYLE_DIM)))
    Path("l.csv").write_text("\n".join("01" * 20))
    code, out, err = psp("direction", "l.csv", "--latents", "many.npy")
    assert code == 0 and out.startswith("l.npy: a direction")
    assert err.startswith("warning: only ") and "guessing gets 50%" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "t.csv has no rows"),
        ("name,label", "t.csv has no rows"),
        ("a.png,2\na.png,1\nb.png,1\nc.png,0\nd.png,0", "line 1: expected PICTURE,0 or PICTURE,1, given 'a.png,2'"),
        ("a.png,-1.0\na.png,1", "line 1: expected PICTURE,0"),
        ("a.png,1\nb.png,2", "line 2: expected PICTURE,0 or PICTURE,1, given 'b.png,2'"),
        ("a.png,1,0\n", "line 1: expected PICTURE,0"),
        ("a.png,1\nb.png,0", "1 examples of label 0 and 1 of label 1: expected at least 2 of each"),
        ("a.png,1\nb.png,1\nc.png,1\n", "0 examples of label 0 and 3 of label 1"),
        ("a.png,1\na.png,1\na.png,0\na.png,0\n", "latents of all examples are alike"),
        ("a.png,1\nnone.png,0", "cannot read none.png: No such file"),
        ("1\n0\n", "labels only: add the picture to each line, or give their latents with --latents"),
        ("latents.npy,1\n", "latents.npy has the latents of 2 pictures, expected one per line"),
    ],
)
def test_tables_that_teach_nothing(psp: PspRun, table: str, message: str) -> None:
    Path("t.csv").write_text(table)
    assert message in mistake(psp("direction", "t.csv"), "t.csv")


def test_a_large_table_is_answered_at_its_first_wrong_row(psp: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with wrong labels, of files that are not there, of names that can be none; one long row."""
    looked: list[Path] = []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: (looked.append(path), exists(path))[1])
    for count, row, message in (
        (300_000, "a.png,2\n", "line 1: expected PICTURE,0 or PICTURE,1, given 'a.png,2'"),
        (10_000, "none.png,1\n", "cannot read none.png: No such file"),
        (300_000, "a\0.png,1\n", "line 1: expected PICTURE,0" if sys.version_info > (3, 11) else "line contains NUL"),
    ):
        Path("t.csv").write_text(row * count)
        assert message in mistake(psp("direction", "t.csv"), "t.csv")
    assert 1 <= looked.count(Path("none.png")) <= 3
    Path("t.csv").write_text("x" * 100_000 + ",2")
    assert len(mistake(psp("direction", "t.csv"), "t.csv")) < 300


# ---- Mistakes -------------------------------------------------------------------------------------------------


def mistake(outcome: Outcome, *known: str) -> str:
    """The one line of a mistake, and no new file."""
    code, out, err = outcome
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, outcome
    assert new(*known) == []
    return err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # values
        ("mix a.png -n 0", "Invalid value for '--count' / '-n'"),
        ("mix a.png -n 1001", "Invalid value for '--count' / '-n'"),
        (
            "mix a.png -n 2 --layers 8-14",
            "--layers 8-14: expected layers such as 8-13, 4,6,8-9 or 8-, this engine",
        ),
        ("mix a.png -n 2 --layers 0-999999999999", "this engine has 0..13"),
        ("mix a.png -n 2 --layers 14-", "--layers 14-: expected layers"),
        ("mix a.png -n 2 --layers 9-8", "--layers 9-8: expected layers such as 8-13"),
        ("mix a.png -n 2 --layers -1", "--layers -1: expected layers"),
        ("mix a.png -n 2 --layers x", "--layers x: expected layers"),
        ("mix a.png -n 2 --alpha 1.5", "alpha 1.5: expected 0"),
        ("transfer a.png --style-of b.png --alpha -0.5", "alpha -0.5: expected 0"),
        ("mix a.png -n 2 --psi nan", "psi nan: expected a number"),
        ("mix a.png -n 2 --seed -1", "seed -1: expected 0 to"),
        ("morph a.png --to b.png --steps 1", "Invalid value for '--steps'"),
        ("edit a.png --direction smile.npy --strength 1:2", "--strength 1:2: expected a number"),
        ("edit a.png --direction smile.npy --strength 1:2:1", "--strength 1:2:1: expected a number"),
        ("edit a.png --direction smile.npy --strength 1:2:999999999", "2 to 1000 steps"),
        ("edit a.png --direction smile.npy --strength inf", "--strength inf: expected numbers"),
        ("edit a.png --direction smile.npy --strength 0:inf:3", "--strength 0:inf:3: expected a number"),
        ("edit a.png --direction smile.npy --strength 0,1e40", "--strength 0,1e+40: expected numbers"),
        (
            "edit a.png --direction latents.npy",
            "--direction latents.npy holds several directions: choose one with --component (0 to 1)",
        ),
        ("edit a.png --direction lost.npy", "cannot read lost.npy: No such file"),
        ("edit a.png --direction a.png", "cannot read a.png: not a .npy, .npz or .pt file"),
        (
            "edit smile.npy --direction wide.npy",
            "--direction wide.npy: expected numbers [8] or [14,8], given float64 [512]",
        ),
        (
            "decode wide.npy",
            "wide.npy: expected latents [B,14,8] or [14,8] of this engine, given float64 [512]",
        ),
        ("decode engines", "engines: no latents in this folder"),
        ("decode none.npy", "none.npy: the latents of no picture at all, [0, 14, 8]"),
        # other pictures
        ("morph a.png --to none.png", "cannot read none.png: No such file"),
        ("morph a.png --to latents.npy", "latents.npy has the latents of 2 pictures, expected one"),
        ("transfer a.png --style-of wide.npy", "wide.npy: expected"),
        # contradictions
        ("mix a.png --direction smile.npy", "No such option: --direction"),
        ("morph a.png --to b.png --style-of c.png", "No such option: --style-of"),
        ("run a.png --seed 3", "No such option: --seed"),
        ("edit a.png --direction smile.npy --psi 1", "No such option: --psi"),
        ("morph a.png", "Missing option '--to'"),
        ("edit a.png", "Missing option '--direction'"),
        ("swap map.png", "Missing option '--classes'"),
        ("mix --seed 3", "expected pictures: psp mix INPUTS --engine ENGINE"),
        ("decode --device cpu", "expected saved latents: psp decode INPUTS"),
        ("mix a.png --url http://127.0.0.1:1", "expected one of --engine ENGINE and --url URL"),
        ("mixx a.png", "there is no psp mixx: did you mean psp mix?"),
        ("morph a.png --to b.png --strength 2", "No such option: --strength"),
        ("morph a.png --to b.png --layers 8", "No such option: --layers"),
        ("mix a.png -n 2 --gif x.gif", "No such option: --gif"),
        (
            "edit a.png --direction smile.npy --gif x.gif",
            "--gif animates one input in several steps, given one picture",
        ),
        ("morph a.png b.png --to c.png --webp x.webp", "--webp animates one input in several steps, given 2 inputs"),
        ("morph a.png --to b.png --gif x.webp", "--gif x.webp: expected a name that ends in .gif"),
        ("mix a.png latents.npy", "latents.npy holds latents, the other inputs are pictures"),
        ("run latents.npy", "latents.npy holds latents, expected pictures: psp decode latents.npy"),
        ("decode a.png", "cannot read a.png: not a .npy, .npz or .pt file"),
        ("decode latents.npy --couple", "No such option: --couple"),
        ("mix latents.npy --couple", "--couple needs pictures, and latents.npy holds latents"),
        ("mix latents.npy --ray", "--ray takes pictures, latents.npy holds latents"),
        ("run a.png --ray --grid g.png", "--ray and --grid contradict each other"),
        ("run a.png --actors 2", "--actors goes with --ray, which is not given"),
        ("decode latents.npy --save-latents x.npy", "No such option: --save-latents"),
        ("mix a.png -n 2 --save-latents x.npy", "No such option: --save-latents"),
        ("direction a.png t.csv", "Got unexpected extra argument"),
        ("direction t.csv --sefa", "--sefa computes directions from the engine alone: leave out the examples"),
        ("direction t.csv --count 3", "--count goes with --sefa, which is not given"),
        ("direction t.csv --rows-before", "--rows-before goes with --sefa, which is not given"),
        ("direction", "expected examples or --sefa: psp direction TABLE.csv --engine ENGINE"),
        ("direction --sefa --count 9", "--count 9: expected 1 to 8, the directions there are"),
        ("direction --sefa", "has 0 of the 13 style weights under the names of psp export"),
        ("direction --sefa --out x.txt", "--out x.txt: expected a name that ends in .npy"),
        (
            "edit a.png --direction smile.npy --component 1",
            "--component 1: smile.npy holds one direction, leave it out",
        ),
        ("direction t.csv --grid g.png", "No such option: --grid"),
        ("direction t.csv", "cannot read t.csv: No such file"),
        (
            "run a.png --couple --grid g.png",
            "--couple is for pictures and animations, and a sheet shows its inputs anyway",
        ),
        ("run a.png --batch 99999999999999999999", "Invalid value for '--batch'"),
        # the engine's task
        (
            "run a.png --downsample 8",
            "--downsample is for super_resolution engines, engines/psp.onnx is one of inversion",
        ),
        ("run a.png --mask triangle", "--mask is for inpainting engines"),
        ("run a.png --sketch-from-photo", "--sketch-from-photo is for sketch engines"),
        ("swap a.png --classes 13=0", "psp swap is for segmentation engines"),
        # names
        ("run a.png --grid g.gif", "cannot write g.gif: its name must end in one of"),
        (
            "run a.png --grid a.png",
            "a.png, the output of --grid, is an input too: choose another name or folder for it",
        ),
        ("transfer a.png --style-of b.png --out b.png", "b.png, the output of a.png, is an input too"),
        ("mix a.png -n 2 --out r.png --grid r_1.png", "a.png and --grid would both become r_1.png"),
        ("run a.png --out latents.npy", "must end in one of"),
        ("run a.png --grid engines", "must end in one of"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(psp: PspRun, arguments: str, message: str) -> None:
    np.save("wide.npy", np.zeros(512))
    np.save("none.npy", np.zeros((0, STYLES, STYLE_DIM)))
    assert message in mistake(psp(*arguments.split()), "wide.npy", "none.npy")


@pytest.mark.parametrize(
    ("engine", "arguments", "message"),
    [
        ("seg", "swap map.png --classes 13", "--classes 13: expected class ids OLD=NEW"),
        (
            "seg",
            "swap map.png --classes 4=5,4=6",
            "--classes 4=5,4=6: expected class ids OLD=NEW, such as 13=0 or 4=5,5=4, each",
        ),
        ("seg", "swap map.png --classes 13=19", "--classes 13=19: there is no class 19, this engine knows 0..18"),
        ("seg", "morph map.png --to a.png", "a.png is a colour picture, expected a label map"),
        ("seg", "transfer map.png --style-of b.png", "b.png is a colour picture, expected a label map"),
        ("seg", "mix map.png --classes 13=0", "No such option: --classes"),
        ("seg", "run bad.png", "bad.png has class id 77 at (x=3, y=2), this engine knows 0..18"),
        ("sr", "run a.png --downsample 0", "downsample 0: expected a factor of 1 to 64"),
        ("inpaint", "run a.png --mask none.png", "cannot read none.png: No such file"),
        ("inpaint", "run a.png --mask bad.png", "bad.png is black all over: expected white where"),
    ],
)
def test_mistakes_that_depend_on_the_engine(psp: PspRun, engine: str, arguments: str, message: str) -> None:
    bad = np.zeros((256, 256), np.uint8)
    bad[2, 3] = 77
    Image.fromarray(bad).save("bad.png")
    assert message in mistake(psp(*arguments.split(), engine=engine), "bad.png")


def test_random_styles_without_the_mapping_network(psp: PspRun, tmp_path: Path) -> None:
    write_family(tmp_path, "alone")
    (tmp_path / "alone.mapping.onnx").unlink()
    (tmp_path / "engines").unlink()
    (tmp_path / "engines").mkdir()
    for path in tmp_path.glob("alone*.onnx"):
        path.rename(tmp_path / "engines" / path.name)
    message = mistake(psp("mix", "a.png", "-n", 2, engine="alone"))
    assert "random styles need engines/alone.mapping.onnx, which is not there" in message
