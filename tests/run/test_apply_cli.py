"""Every application from the command line."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun
from PIL import Image
from tiny_family import STYLES
from working_folder import DIRECTION, LABELS, PIXELS, close, new, note, pipeline, read

from psp_runtime.pictures import previews, sheets
from psp_runtime.pictures.loading import COLOURED, LOSSY_LABELS
from psp_runtime.pictures.sketching import sketch
from psp_runtime.pictures.transforms import degrade, hide, triangle


def test_mixing_makes_several_faces_and_says_how(good: Callable[..., str]) -> None:
    out = good("mix", "a.png", "-n", 5, "--seed", 7)
    names = [f"a_out_{n}.png" for n in range(1, 6)]
    assert re.fullmatch(rf"5 pictures in \d+\.\d\d s \(.* pictures/s, fp32, cpu\): {', '.join(names)}\n", out)
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


def test_latents_of_sub_folders_are_decoded_into_such(good: Callable[..., str]) -> None:
    Path("photos/more").mkdir(parents=True)
    Path("a.png").rename("photos/a.png")
    Path("b.png").rename("photos/more/b.png")
    good("run", "photos", "--save-latents", "w/", "--out", "seen/")
    Path("w/.trash").mkdir()
    Path("w/.trash/c.npy").write_bytes(b"")
    good("decode", "w/", "--out", "made/")
    names = sorted(str(path.relative_to("made")) for path in Path("made").rglob("*.png"))
    assert names == ["a_out.png", "more/b_out.png"]
    for name in names:
        assert close(read(f"made/{name}"), read(f"seen/{name}"))


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
