"""psp-run as a user meets it: what it writes, where, and what it says."""

import contextlib
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun
from PIL import Image
from tiny_engines import STYLE_DIM, STYLES, write_plan
from translation_folder import PIXELS, is_output_of, names, one_error

from psp_runtime.commands import run as app
from psp_runtime.errors import PictureError
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.loading import SQUEEZED
from psp_runtime.run.options import MOST_PIXELS


def test_one_picture_goes_to_the_working_folder(psp_run: PspRun) -> None:
    code, out, err = psp_run("photos/p3.png", "--engine", "psp.onnx")
    assert (code, err) == (0, "") and is_output_of("p3_out.png", PIXELS[3])
    assert re.fullmatch(r"1 picture in \d+\.\d\d s \(\d+\.\d pictures/s, fp32, cpu\): p3_out\.png\n", out)


def test_a_precision_that_cannot_be_had_is_one_line(psp_run: PspRun) -> None:
    words = one_error(psp_run("image.png", "--engine", "psp.onnx", "--precision", "bf16"))
    assert words.startswith("psp.onnx cannot run in bf16: PSP_CPU=onnxruntime computes in FP32")  # of the tests
    words = one_error(psp_run("image.png", "--engine", "psp.onnx", "--precision", "int8"))
    assert words.endswith("has no INT8 form: make one with psp export --int8 --calibrate FOLDER")
    assert psp_run("image.png", "--engine", "psp.onnx", "--precision", "fp32")[0] == 0
    with Image.open("image_out.png") as picture:
        assert json.loads(picture.text["psp"])["computed"] == "fp32"


def test_out_names_the_picture_and_its_format(psp_run: PspRun, here: Path) -> None:
    assert psp_run("image.png", "--engine", "psp.onnx", "--out", "new/result.JPG")[0] == 0
    assert Image.open("new/result.JPG").format == "JPEG" and names("new") == ["result.JPG"]


def test_quiet_prints_nothing_where_all_went_well(psp_run: PspRun) -> None:
    assert psp_run("photos/p3.png", "--engine", "psp.onnx", "-q") == (0, "", "")
    assert is_output_of("p3_out.png", PIXELS[3])
    assert one_error(psp_run("missing.png", "--engine", "psp.onnx", "-q"))


def test_verbose_names_every_file_before_the_summary(psp_run: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_DEBUG", "")  # -v sets it: the test's end takes it back
    assert len(psp_run("photos", "--engine", "psp.onnx", "-o", "results")[1].splitlines()) == 1
    code, out, _ = psp_run("photos", "--engine", "psp.onnx", "-o", "results", "-v")
    *files, summary = out.splitlines()
    assert code == 0 and summary.startswith("6 pictures in ")
    assert sorted(files) == [str(Path("results", name)) for name in names("results")]


def test_verbose_shows_what_is_behind_an_error(psp_run: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSP_DEBUG", "")
    code, out, err = psp_run("missing.png", "--engine", "psp.onnx", "-v")
    assert (code, out) == (2, "") and err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: ") and "missing.png" in err.splitlines()[-1]


@pytest.mark.parametrize("out", ["results", "results/", "made/before"])
def test_out_names_a_folder(psp_run: PspRun, out: str) -> None:
    Path("made/before").mkdir(parents=True)
    assert psp_run("image.png", "--engine", "psp.onnx", "--out", out)[0] == 0
    assert names(out) == ["image_out.png"]


def test_an_existing_folder_wins_over_a_picture_suffix(psp_run: PspRun) -> None:
    Path("odd.png").mkdir()
    assert psp_run("image.png", "--engine", "psp.onnx", "--out", "odd.png")[0] == 0
    assert names("odd.png") == ["image_out.png"]


def test_a_folder_with_every_option(psp_run: PspRun) -> None:
    code, out, err = psp_run(
        *("photos", "--engine", "psp.onnx", "--out", "results/", "--batch", 4, "--threads", 2, "--size", 32),
        *("--save-latents", "latents.npy", "--device", "cpu"),
    )
    first = out.splitlines()[0]
    assert (code, err) == (0, "") and first.startswith("6 pictures in ") and first.endswith("results/, latents.npy")
    assert names("results") == [f"p{index}_out.png" for index in range(6)]
    assert Image.open("results/p5_out.png").size == (32, 32)
    latents = np.load("latents.npy")
    assert latents.shape == (6, STYLES, STYLE_DIM) and latents.dtype == np.float32
    np.testing.assert_allclose(latents[:, -1, -1], PIXELS.mean(axis=(1, 2, 3)) * 31 / 2550, rtol=1e-4)


def test_a_folder_without_out_and_in_order(psp_run: PspRun) -> None:
    assert psp_run("photos", "--engine", "psp.onnx")[0] == 0
    assert all(is_output_of(f"p{index}_out.png", pixels) for index, pixels in enumerate(PIXELS))


def test_latents_into_a_folder(psp_run: PspRun) -> None:
    assert psp_run("photos", "image.png", "--engine", "psp.onnx", "--out", "r", "--save-latents", "latents")[0] == 0
    assert names("latents") == ["image.npy", *(f"p{index}.npy" for index in range(6))]
    assert np.load("latents/p1.npy").shape == (STYLES, STYLE_DIM)


def test_a_folder_says_what_limited_it(psp_run: PspRun) -> None:
    out = psp_run("photos", "--engine", "psp.onnx", "--out", "r")[1]
    match = re.search(r"cpu; busy: decode (\d+)%, engine (\d+)%, encode (\d+)%; (\w+) limits\): r/", out)
    shares = dict(zip(("decode", "engine", "encode"), map(int, match.groups()[:3]), strict=True))
    assert shares[match[4]] == max(shares.values()) and 0 < max(shares.values()) <= 100


@pytest.mark.parametrize(
    ("ending", "quality", "compression"), [("jpg", 20, 3), ("webp", 20, 3), ("png", None, 9), (None, None, 9)]
)
def test_a_folder_in_another_format(
    psp_run: PspRun, here: Path, ending: str | None, quality: int | None, compression: int | None
) -> None:
    """Both sides of each option: quality and compression make files smaller, and sheets have formats of their own."""
    for index in range(6):
        Image.linear_gradient("L").rotate(30 * index).convert("RGB").save(f"photos/p{index}.png")
    named = ["--format", ending] if ending else []
    assert psp_run("photos", "--engine", "psp.onnx", "--out", "r1", *named, "--grid", "g1.png")[0] == 0
    small = ["--compression", compression, *(["--quality", quality] if quality else [])]
    assert psp_run("photos", "--engine", "psp.onnx", "--out", "r2", *named, *small, "--grid", "g2.png")[0] == 0
    kind = {"jpg": "JPEG", "webp": "WEBP"}.get(ending, "PNG")
    for index in range(6):
        name = f"p{index}_out.{ending or 'png'}"
        assert Image.open(f"r1/{name}").format == Image.open(f"r2/{name}").format == kind
    size = {folder: sum(path.stat().st_size for path in Path(folder).iterdir()) for folder in ("r1", "r2")}
    assert names("r1") == names("r2") and len(names("r1")) == 6 and size["r2"] < size["r1"]
    np.testing.assert_array_equal(np.asarray(Image.open("g1.png")), np.asarray(Image.open("g2.png")))
    assert Path("g2.png").stat().st_size < Path("g1.png").stat().st_size


def test_a_single_picture_in_another_format(psp_run: PspRun) -> None:
    assert psp_run("image.png", "--engine", "psp.onnx", "--format", "webp")[0] == 0
    assert Image.open("image_out.webp").format == "WEBP"
    assert psp_run("image.png", "--engine", "psp.onnx", "--format", "jpg", "--out", "x.jpeg")[0] == 0
    assert Image.open("x.jpeg").format == "JPEG"


def test_no_compression_stores(psp_run: PspRun) -> None:
    assert psp_run("image.png", "--engine", "psp.onnx", "--compression", 0)[0] == 0
    assert 64 * 64 * 3 < Path("image_out.png").stat().st_size < 64 * 64 * 3 + 2000


def test_codes_of_two_pictures_of_one_name(psp_run: PspRun, here: Path) -> None:
    Image.fromarray(PIXELS[0]).save("p0.png")
    arguments = ["p0.png", "photos/p0.png", "--engine", "psp.onnx", "--grid", "g.png", "--save-latents", "latents/"]
    assert "p0.png and photos/p0.png would both become latents/p0.npy" in one_error(psp_run(*arguments))
    assert not Path("latents").exists()


def test_latents_by_another_name(psp_run: PspRun) -> None:
    outcome = psp_run("image.png", "--engine", "psp.onnx", "--save-latents", "latents.npz")
    assert "latents.npz: expected a name that ends in .npy, or a folder" in one_error(outcome)


def test_a_rerun_overwrites_and_reads_no_outputs(psp_run: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("photos")
    for _ in range(2):
        code, out, _ = psp_run(".", "--engine", "../psp.onnx")
        assert code == 0 and out.startswith("6 pictures")
    assert len(names(".")) == 12
    Path("p0_out.png").write_bytes(b"stale")
    assert psp_run(*sorted(Path().glob("*.png")), "--engine", "../psp.onnx")[0] == 0
    assert len(names(".")) == 12 and is_output_of("p0_out.png", PIXELS[0])


def test_a_single_picture_named_like_an_output_is_read(psp_run: PspRun) -> None:
    assert psp_run("image.png", "--engine", "psp.onnx")[0] == 0
    assert psp_run("image_out.png", "--engine", "psp.onnx")[0] == 0
    assert Path("image_out_out.png").exists()


def test_one_bad_file_of_a_folder_is_skipped(psp_run: PspRun) -> None:
    Path("photos/p2.png").write_text("not a picture")
    code, out, err = psp_run("photos", "--engine", "psp.onnx", "--out", "r", "--save-latents", "latents.npy")
    assert code == 1 and out.startswith("5 pictures")
    assert err.splitlines()[0].startswith("error: cannot read photos/p2.png: ")
    assert err.splitlines()[1:] == ["error: 1 of 6 pictures could not be used and was skipped"]
    assert len(names("r")) == 5 and len(np.load("latents.npy")) == 5


def test_a_missing_file_among_several_is_skipped(psp_run: PspRun) -> None:
    code, _, err = psp_run("image.png", "none.png", "--engine", "psp.onnx")
    assert code == 1 and "cannot read none.png: No such file" in err and Path("image_out.png").exists()


def test_all_bad_exits_with_1_and_a_single_bad_picture_with_2(psp_run: PspRun) -> None:
    for path in Path("photos").iterdir():
        path.write_bytes(b"")
    code, out, err = psp_run("photos", "--engine", "psp.onnx", "--save-latents", "c.npy")
    assert (code, out) == (1, "") and "6 of 6 pictures" in err and not Path("c.npy").exists()
    assert "cannot read photos/p0.png" in one_error(psp_run("photos/p0.png", "--engine", "psp.onnx"))


def test_nothing_at_all_shows_the_help(psp_run: PspRun) -> None:
    code, out, err = psp_run()
    assert code in (0, 2) and "psp-run [OPTIONS] [INPUTS]" in out + err and "--engine" in out + err


def test_the_widest_couple_fits_into_a_webp(tmp_path: Path) -> None:
    for width, fits in ((2 * MOST_PIXELS, True), (2 * MOST_PIXELS + 2, False)):
        with contextlib.nullcontext() if fits else pytest.raises(PictureError, match="give a --size"):
            save(Image.new("RGB", (width, 1)), tmp_path / "wide.webp")


def test_links_that_lead_to_themselves(psp_run: PspRun) -> None:
    Path("loop.png").symlink_to("loop.png")
    assert "cannot read loop.png: " in one_error(psp_run("loop.png", "--engine", "psp.onnx"))
    assert psp_run("image.png", "--engine", "psp.onnx", "--out", "loop.png")[0] == 0
    assert is_output_of("loop.png", PIXELS[0])


def test_a_plan_without_a_gpu_says_what_runs_instead(
    psp_run: PspRun, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psp_runtime.engines.devices.cuda_devices", lambda: 0)
    write_plan(here / "psp.trt")
    code, _, err = psp_run("image.png", "--engine", "psp.trt")
    assert code == 0 and is_output_of("image_out.png", PIXELS[0])
    assert err == "warning: psp.trt needs an NVIDIA GPU with its driver: running psp.onnx on the CPU instead\n"
    assert "needs an NVIDIA GPU" in one_error(psp_run("image.png", "--engine", "psp.trt", "--device", "cuda"))


def test_long_pictures_are_warned_about_in_one_line(psp_run: PspRun) -> None:
    for name in ("image.png", "photos/p0.png"):
        Image.fromarray(PIXELS[0, :90]).save(name)
    code, _, err = psp_run("image.png", "photos", "--engine", "psp.onnx")
    assert code == 0 and err == f"warning: {SQUEEZED}\n"


def test_a_failing_save_keeps_earlier_outputs(psp_run: PspRun, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("image_out.png").write_bytes(b"earlier")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    message = one_error(psp_run("image.png", "--engine", "psp.onnx"))
    assert message == "cannot write image_out.png: No space left on device"
    assert Path("image_out.png").read_bytes() == b"earlier" and not list(here.glob(".*"))


def test_the_app_has_one_command() -> None:
    assert len(app.registered_commands) == 1
