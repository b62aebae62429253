"""The page of `psp-ui`: what it asks of `psp`, what is drawn on it, and the page itself in a real browser."""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_engines import write_onnx, write_plan
from tiny_family import picture_of, write_family
from tiny_steps import CARS, write_steps

from psp_runtime.cli import psp
from psp_runtime.errors import EngineError, PspError
from psp_runtime.pictures.label_classes import IDS, NAMES, PALETTE
from psp_runtime.pictures.loading import SQUEEZED, load
from psp_runtime.run.verbs import Translate
from psp_runtime.ui.canvas import _MEANT, brush_colours, class_ids, coloured, face_labels, legend, pencilled
from psp_runtime.ui.cli import main
from psp_runtime.ui.demo_engines import TASKS, demo_engines
from psp_runtime.ui.runs import KEPT, MAKES, Runs, as_options, command
from psp_train.drawn.samples import draw_scene

REPOSITORY = Path(__file__).parents[2]
RNG = np.random.default_rng(2)
PIXELS = np.kron(RNG.integers(0, 256, (2, 4, 4, 3), np.uint8), np.ones((1, 64, 64, 1), np.uint8))
#: What every control of a page says.
CONTROLS = dict(count=3, seed=0, psi=0.0, layers="4-9", alpha=0.5, steps=4, to="b.png", style_of="b.png")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_family(folder, "psp")
    write_family(folder, "sr", task="super_resolution")
    write_family(folder, "inpaint", task="inpainting")
    write_family(folder, "seg", kind="labels", task="segmentation")
    write_family(folder, "int8", precision="int8", processor="cpu")
    write_steps(folder)
    return folder


@pytest.fixture
def here(engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures a and b, and a folder for the page."""
    monkeypatch.chdir(tmp_path)
    Path("engines").symlink_to(engines)
    Path("page").mkdir()
    for name, pixels in zip("ab", PIXELS, strict=True):
        Image.fromarray(pixels).save(f"{name}.png")
    return tmp_path


@pytest.fixture
def runs(here: Path) -> Iterator[Runs]:
    one = Runs(here / "page")
    yield one
    one.close()


def asked(make: str, **values: Any) -> dict[str, Any]:
    return {"picture": "a.png", "make": make, **CONTROLS, **values}


def run_command(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(text))
    with pytest.raises(SystemExit) as caught:
        psp()
    assert caught.value.code == 0


@pytest.mark.parametrize("make", MAKES)
def test_the_command_makes_the_very_files_on_the_page(make: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = runs.run(Path("engines/psp.onnx"), asked(make))
    run_command(shown.command, monkeypatch)
    made = {Path(path).name: Path(path).read_bytes() for path, _ in shown.pictures}
    assert made == {path.name: path.read_bytes() for path in Path().glob("a_out*.png")}
    assert len(made) == {"random styles": 3, "the way to another picture": 4}.get(make, 1)


@pytest.mark.parametrize("make", MAKES)
def test_steps_of_restyle_on_the_page(make: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = runs.run(Path("engines/steps.onnx"), asked(make, iterations=2.0))
    assert "--iterations 2" in shown.command
    run_command(shown.command, monkeypatch)
    made = {Path(path).name: Path(path).read_bytes() for path, _ in shown.pictures}
    assert made == {path.name: path.read_bytes() for path in Path().glob("a_out*.png")}
    again = runs.run(Path("engines/steps.onnx"), asked(make))  # as many as the engine says
    assert "--iterations" not in again.command
    if make == "one picture":
        assert Path(again.pictures[0][0]).read_bytes() != Path(shown.pictures[0][0]).read_bytes()


def test_runs_of_the_page_show_no_progress_in_the_terminal(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = runs.run(Path("engines/steps.onnx"), asked("one picture"))
    assert capsys.readouterr().err == "" and "quiet" not in shown.command


@pytest.mark.parametrize(("engine", "change"), [("sr", {"downsample": 8.0}), ("inpaint", {"mask": True})])
def test_a_changed_input_is_shown_first(
    engine: str, change: dict[str, Any], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = runs.run(Path(f"engines/{engine}.onnx"), asked("one picture", **change))
    run_command(shown.command, monkeypatch)
    assert [text for _, text in shown.pictures] == ["input", ""]
    assert [Path(path).read_bytes() for path, _ in shown.pictures] == [
        Path(f"a_out{ending}.png").read_bytes() for ending in ("_input", "")
    ]


def test_a_face_of_a_photo_is_chosen_and_put_back(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(draw_scene(1, 540)).save("party.jpg", quality=95)
    assert runs.count_faces("party.jpg") == 4 and runs.count_faces("a.png") == 0
    photo = dict(picture="party.jpg", align=True, faces="2nd", paste_back=True)
    shown = runs.run(Path("engines/psp.onnx"), asked("one picture", **photo))
    assert shown.command.endswith("--align --faces 2nd --paste-back face")
    run_command(shown.command, monkeypatch)
    assert Path(shown.pictures[0][0]).read_bytes() == Path("party_out.jpg").read_bytes()
    assert shown.compared is not None
    before, after = (np.asarray(Image.open(path)) for path in shown.compared)
    np.testing.assert_array_equal(before, Image.open("party.jpg"))
    np.testing.assert_array_equal(after, Image.open("party_out.jpg"))


def test_every_face_of_a_photo(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(draw_scene(1, 360)).save("party.png")
    photo = dict(picture="party.png", align=True, faces="all", paste_back=False)
    shown = runs.run(Path("engines/psp.onnx"), asked("random styles", **photo))
    run_command(shown.command, monkeypatch)
    made = {Path(path).name: Path(path).read_bytes() for path, _ in shown.pictures}
    assert len(made) == 12 and made == {path.name: path.read_bytes() for path in Path().glob("party_face?_out_?.png")}
    assert [text for _, text in shown.pictures[:4]] == ["style 1", "style 2", "style 3", "style 1"]
    plain = as_options(Path("psp.onnx"), asked("one picture", **photo | {"align": False}))
    assert not plain.align and plain.faces is None


def test_the_words_of_a_command() -> None:
    options = as_options(Path("my engines/psp.onnx"), asked("random styles", picture="up/a b.png"), "cpu")
    words = "psp mix 'a b.png' --engine 'my engines/psp.onnx' --layers 4-9 --alpha 0.5"
    assert command(options) == f"{words} --count 3 --psi 0.0 --device cpu"
    plain = as_options(Path("psp.onnx"), asked("one picture", mask=False, layers=""))
    assert plain == Translate(inputs=["a.png"], engine=Path("psp.onnx"))


def test_captions_timing_and_warnings(runs: Runs) -> None:
    Image.fromarray(PIXELS[0, :100]).save("a.png")
    shown = runs.run(Path("engines/psp.onnx"), asked("the way to another picture"))
    assert [text for _, text in shown.pictures] == ["share 0", "share 0.33", "share 0.67", "share 1"]
    assert re.fullmatch(r"4 pictures in \d+\.\d\d s of engine time \(\d+\.\d pictures/s, fp32, cpu\)", shown.timing)
    assert shown.warnings == [SQUEEZED]
    assert warnings.showwarning.__module__ != "psp_runtime.ui.runs"


def test_the_page_says_what_an_int8_engine_computes_in(here: Path) -> None:
    page = Runs(here / "page", precision="int8")
    assert page.run(Path("engines/int8.onnx"), asked("random styles")).timing.endswith(", int8, cpu)")
    page.close()


def test_bf16_that_cannot_be_is_one_line_on_the_page(here: Path) -> None:
    page = Runs(here / "page", precision="bf16")
    with pytest.raises(EngineError, match=r"psp\.onnx cannot run in bf16: PSP_CPU=onnxruntime computes in FP32: .*$"):
        page.run(Path("engines/psp.onnx"), asked("one picture"))
    page.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"picture": None}, "one picture: give a picture first"),
        ({"make": "the way to another picture", "to": None}, "the way to another picture: give both pictures first"),
        ({"make": "random styles", "layers": "99"}, "--layers 99: expected layers such as"),
        ({"downsample": 8}, "--downsample is for super_resolution engines"),
    ],
)
def test_what_cannot_be_made_is_one_line(values: dict[str, Any], message: str, runs: Runs) -> None:
    with pytest.raises(PspError, match=re.escape(message)):
        runs.run(Path("engines/psp.onnx"), asked("one picture") | values)


def test_messages_name_files_not_folders(runs: Runs) -> None:
    bad = runs.new_folder() / "bad.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(PspError) as caught:
        runs.run(Path("engines/psp.onnx"), asked("one picture", picture=str(bad)))
    assert runs.worded(caught.value).startswith("cannot read bad.png: not a picture of a known format")


def test_only_the_last_runs_are_kept(runs: Runs) -> None:
    folders = [runs.new_folder() for _ in range(KEPT + 2)]
    assert [folder.is_dir() for folder in folders] == [False] * 2 + [True] * KEPT


def test_a_face_of_the_generators_own(runs: Runs) -> None:
    engine = Path("engines/psp.onnx")
    face = load(runs.random_face(engine, 3), "rgb", 16)
    codes = runs.pipeline(engine).styles(1, 3, psi=0.7)[0]
    assert np.abs(face - picture_of(codes)).max() <= 1
    assert runs.pipeline(engine) is runs.pipeline(engine)


def test_label_maps_survive_the_canvas(runs: Runs) -> None:
    labels = RNG.integers(0, 19, (64, 64), np.uint8).repeat(4, 0).repeat(4, 1)
    saved = runs.save_drawing(coloured(labels), "labels")
    assert np.array_equal(load(saved, "labels", 256), labels)


def test_the_rim_of_a_brush_makes_no_third_class() -> None:
    """Half way between two colours of the palette another one can be nearest: here every pair is blended."""
    for inner, outer in ((1, 0), (13, 0), (4, 1), (11, 18)):
        share = np.clip((np.arange(40) - 17) / 5, 0, 1)[None, :, None]
        stroke = (PALETTE[outer] * (1 - share) + PALETTE[inner] * share).round().astype(np.uint8).repeat(8, 0)
        ids = class_ids(stroke)
        assert set(np.unique(ids)) == {inner, outer} and ids[0, 0] == outer and ids[0, -1] == inner


def test_a_brush_at_one_edge_paints_nothing_at_the_other() -> None:
    picture = np.full((40, 40, 3), PALETTE[0], np.uint8)
    picture[-2:] = PALETTE[18]
    picture[0] = (PALETTE[0].astype(int) + PALETTE[13]) // 2  # the rim of a stroke beyond the upper edge
    assert set(np.unique(class_ids(picture)[:20])) == {0}


def test_the_palette_of_the_brush() -> None:
    assert [tuple(bytes.fromhex(colour[1:])) for colour in brush_colours()] == [tuple(c) for c in PALETTE]
    assert len(NAMES) == len(PALETTE) and all(name in legend() for name in NAMES)
    far = np.abs(PALETTE[:, None].astype(int) - PALETTE).max(-1) + 255 * np.eye(len(PALETTE), dtype=int)
    assert far.min() > 2 * _MEANT


def test_the_face_to_paint_on() -> None:
    labels = face_labels()
    assert labels.shape == (256, 256) and {"skin", "hair", "nose", "left eye", "mouth"} <= {
        NAMES[label] for label in np.unique(labels)
    }
    assert NAMES[labels[128, 128]] == "nose"
    left, right = (np.argwhere(labels == IDS[f"{side} eye"])[:, 1].mean() for side in ("left", "right"))
    assert left < 128 < right


def test_a_photo_in_pencil_is_no_longer_in_colours(runs: Runs) -> None:
    saved = runs.save_drawing(pencilled(PIXELS[0]), "sketch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sketch = load(saved, "sketch")
    assert sketch.shape == (256, 256, 1) and sketch.std() > 1


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line `psp-ui` prints instead of a page."""
    monkeypatch.setattr(sys, "argv", ["psp-ui", *arguments])
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found("json" if name == "gradio" else name))
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").strip()


def test_mistakes_before_there_is_a_page(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(here / "part.trt", part="encoder")
    write_onnx(here / "psp.onnx")
    assert "no engine at none.onnx" in refused(monkeypatch, capsys, "--engine", "none.onnx")
    assert "part.trt is only the encoder" in refused(monkeypatch, capsys, "--engine", "part.trt")
    twice = ("--engine", "psp.onnx") * 2
    assert refused(monkeypatch, capsys, *twice) == "--engine psp.onnx is given twice"
    assert "cannot listen on 192.0.2.1 port" in refused(monkeypatch, capsys, *twice[:2], "--host", "192.0.2.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in refused(monkeypatch, capsys, *twice[:2], "--port", port)


def test_without_gradio_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["psp-ui"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == "error: psp-ui needs Gradio: pip install 'psp-toolkit[cpu,ui]'\n"


def test_demo_engines_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(PspError, match=r"which needs torch: pip install .*, or give --engine"):
        demo_engines(tmp_path)
    assert not list(tmp_path.iterdir())


def test_demo_engines_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an exporter that writes tiny engines: the real one is tested in test_export_cli."""
    started = []

    def export(words: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        started.append(words[words.index("--task") + 1])
        output = Path(words[words.index("--output") + 1])
        write_family(output.parent, output.name, task=output.name)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", export)
    monkeypatch.setenv("PSP_CACHE", str(tmp_path))
    engines = demo_engines(Path("unused"))
    assert started == list(TASKS) and all(engine.is_relative_to(tmp_path) for engine in engines)
    assert capsys.readouterr().err.count("making the demo engine") == len(engines)
    engines[2].with_name(f"{engines[2].stem}.encoder.onnx").unlink()
    assert demo_engines(Path("unused")) == engines and started[len(engines) :] == [TASKS[2]]


def test_a_failing_export_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 2, "", "  0.1 s loading\nerror: no space left\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(PspError, match="^psp-export --task inversion failed: no space left$"):
        demo_engines(tmp_path)


def test_there_is_a_bundled_model_for_every_demo_task() -> None:
    bundled = {path.stem.removeprefix("demo_") for path in (REPOSITORY / "psp_train" / "weights").glob("demo_*")}
    assert set(TASKS) == bundled - {"generator"}


# ---- In a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page on a loopback port, served by a process of its own; it must end without a trace."""
    pytest.importorskip("gradio", reason="needs the extra ui")
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "psp_runtime.ui", "--engine", "psp.onnx", "--engine", "seg.onnx", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=engines,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder), "PSP_CPU": "onnxruntime"},
    )  # fmt: skip
    try:
        line = server.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, server.communicate(timeout=20)[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, err) == (130, "interrupted\n")
    assert not list(folder.glob("psp-ui-*"))  # nothing of what was uploaded stays


@contextmanager
def browsing(url: str, **context: Any) -> Iterator[Any]:
    """The page in a headless Chromium; nothing may be loaded from elsewhere, and no script may fail."""
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    wrong: list[str] = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(25_000)
        page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else wrong.append(r.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    assert wrong == []


def shown_command(page: Any) -> str:
    """The command under the pictures of the visible tab."""
    texts = page.locator("textarea:visible").evaluate_all("boxes => boxes.map(box => box.value)")
    return str(next(text for text in texts if text.startswith("psp ")))


def download(page: Any, button: Any) -> Path:
    """The file behind a button, under the name it comes with, in the working folder."""
    with page.expect_download() as started:
        button.click()
    started.value.save_as(started.value.suggested_filename)
    return Path(started.value.suggested_filename)


COPY = """async bytes => {
    const blob = new Blob([new Uint8Array(bytes)], {type: 'image/png'})
    await navigator.clipboard.write([new ClipboardItem({'image/png': blob})])
}"""


def test_paste_interpolate_and_download_in_a_browser(url: str, here: Path) -> None:
    with browsing(url, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_label("Paste from clipboard").first.wait_for()
        page.evaluate(COPY, list(Path("a.png").read_bytes()))
        page.get_by_label("Paste from clipboard").first.click()
        page.get_by_text("1 picture in").wait_for()
        pasted = download(page, page.get_by_text("The picture it was made of, as a file").first)
        assert np.array_equal(np.asarray(Image.open(pasted).convert("RGB")), PIXELS[0])
        page.get_by_label("the way to another picture").first.check()
        page.get_by_role("button", name="A face of the generator's own").nth(1).click()
        page.get_by_text("7 pictures in").wait_for()
        command = rf"psp morph {pasted} --engine psp.onnx --to face_\d+.png --steps 7"
        assert re.fullmatch(command, shown_command(page))
        assert page.get_by_text("share 0.17").count() == 1
        page.get_by_label("Thumbnail 3 of 7").first.click()
        made = download(page, page.get_by_label("Download", exact=True).first)
        assert made.name == f"{pasted.stem}_out_3.png" and Image.open(made).size == (16, 16)


def test_a_painted_label_map_is_what_the_command_runs_on(
    url: str, here: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with browsing(url, device_scale_factor=0.5) as page:  # the canvas is drawn without a GPU
        page.get_by_role("tab", name="seg (segmentation)").click()
        canvas = page.locator("canvas:visible").first
        canvas.wait_for()
        page.wait_for_timeout(1000)  # it is drawn and scaled after it is there
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.2 * box["height"], steps=2)
        page.mouse.up()
        page.get_by_role("button", name="Make", exact=True).click()
        page.get_by_text("1 picture in").wait_for()
        labels = download(page, page.locator("button:visible", has_text="The picture it was made of"))
        page.get_by_label("Thumbnail 1 of 1").first.click()
        made = download(page, page.locator("[aria-label=Download]:visible").last)
        text = shown_command(page)
    painted = np.asarray(Image.open(labels)) != face_labels().repeat(2, 0).repeat(2, 1)
    shown = made.read_bytes()
    made.unlink()
    shutil.copy(engines / "seg.onnx", "seg.onnx")
    run_command(text, monkeypatch)
    assert painted.any() and made.read_bytes() == shown


def test_upload_mix_and_a_bad_file_in_a_browser(url: str, here: Path) -> None:
    Path("bad.png").write_bytes(b"not a picture")
    with browsing(url) as page:
        made = page.locator(".gallery-item img, .grid-wrap img")
        upload = page.locator("input[type=file]").first
        upload.set_input_files("a.png")
        page.get_by_text("1 picture in").wait_for()
        first = made.first.get_attribute("src")
        upload.set_input_files("b.png")
        page.wait_for_function("first => document.querySelector('.grid-wrap img')?.src !== first", arg=first)
        page.get_by_label("random styles").check()
        page.get_by_text("6 pictures in").wait_for()
        assert made.count() == 6
        slider = page.get_by_label("range slider for Variants")
        slider.focus()
        slider.press("ArrowRight")
        page.get_by_text("7 pictures in").wait_for()
        assert shown_command(page).startswith("psp mix b.png --engine psp.onnx --alpha 1.0 --count 7 --seed 7")
        upload.set_input_files("bad.png")
        page.get_by_text("cannot read bad.png: not a picture of a known format").first.wait_for()
        assert made.count() == 7


def test_the_page_serves_only_its_own_files(url: str, here: Path) -> None:
    """A request with a path of its own making gets nothing."""
    httpx = pytest.importorskip("httpx")
    assert httpx.get(f"{url}/gradio_api/file={here / 'a.png'}").status_code in (403, 404)
    assert httpx.get(url).status_code == 200


def test_the_page_is_only_for_those_who_know_its_name(url: str, tmp_path: Path) -> None:
    """A page whose name leads to 127.0.0.1 (DNS rebinding), or of another site, sees nothing and stores nothing."""
    httpx = pytest.importorskip("httpx")
    upload = {"files": ("stored.png", b"by a stranger")}
    for strange in ({"Host": "evil.com"}, {"Origin": "http://evil.com"}, {"Origin": "null"}):
        assert httpx.get(url, headers=strange).status_code == 403
        assert httpx.post(f"{url}/gradio_api/upload", files=upload, headers=strange).status_code == 403
    own = httpx.post(f"{url}/gradio_api/upload", files=upload, headers={"Origin": url})
    assert own.status_code == 200 and Path(own.json()[0]).name == "stored.png"
    assert httpx.post(f"{url}/gradio_api/upload", files={"files": ("big.png", bytes(21 << 20))}).status_code == 413
    assert httpx.post(f"{url}/gradio_api/upload", content=iter([b"no length"])).status_code == 411


def test_photos_are_offered_for_faces_alone(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui")
    from psp_runtime.ui.page import make_page

    for name, facts, offered in (("faces", {}, True), ("cars", CARS, False)):
        page = make_page([write_steps(tmp_path, name, **facts)], Runs(tmp_path))
        labels = {getattr(block, "label", None) for block in page.blocks.values()}
        assert "Picture" in labels and ("A whole photo: find the face" in labels) == offered


def test_a_page_of_a_part_is_refused_where_it_is_made(engines: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui")
    from psp_runtime.ui.page import make_page

    with pytest.raises(EngineError, match="no engine at"):
        make_page([tmp_path / "none.onnx"], Runs(tmp_path))
