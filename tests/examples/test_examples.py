"""The examples run, and make the picture that ONNX Runtime makes: Python, C++, and the page in a real browser."""

import os
import runpy
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from psp_export.export import Options, export
from psp_export.verify.parity import psnr
from psp_runtime import load
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.drawn import draw, sample

EXAMPLES = Path(__file__).parents[2] / "examples"
PIXELS = draw(sample(1, 2)[0]).image
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: WebAssembly and CPU round an FP16 file's values at other places: PSNR of the picture, dB.
NEAR = 50.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundled engine and a drawn face."""
    folder = tmp_path_factory.mktemp("examples")
    export(load_demo_checkpoint("inversion"), Options(folder / "psp", "fp16", "onnx", verify=False))
    Image.fromarray(PIXELS).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """The picture that ONNX Runtime makes, uint8 [256,256,3]."""
    session = onnxruntime.InferenceSession(folder / "psp.onnx")
    styles = next(one.shape[1:] for one in session.get_inputs() if one.name == "style")
    zeros = {"style": np.zeros((1, *styles), np.float32), "alpha": np.zeros((1, styles[0]), np.float32)}
    return session.run(["output"], {"image": PIXELS[None], **zeros})[0][0]


def test_python(folder: Path, expected: np.ndarray) -> None:
    runpy.run_path(str(EXAMPLES / "variations.py"))["main"](str(folder / "psp.onnx"), str(folder / "image.png"))
    made = [np.asarray(Image.open(folder / f"image_{number}.png")).astype(int) for number in range(6)]
    assert (made[0] == expected).all()
    assert all(np.abs(one - expected).mean() > 0.5 for one in made[1:])
    with load(folder / "psp.onnx") as pipeline:
        assert np.abs(pipeline.decode(np.load(folder / "image.npy"))[0].astype(int) - expected).max() <= 1


def compiled(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-I/usr/include/onnxruntime", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    """The C++ example, over the library of the Python package."""
    if shutil.which("g++") is None or compiled("-E", "-x", "c++", header(folder)).returncode:
        pytest.skip("needs g++ and onnxruntime_cxx_api.h: libonnxruntime-dev, or its folder in CPLUS_INCLUDE_PATH")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    done = compiled(
        "-O1", EXAMPLES / "translate.cpp", library, f"-Wl,-rpath,{library.parent}", "-o", folder / "translate"
    )
    assert not done.returncode and not done.stderr, done.stderr
    (folder / "libonnxruntime.so.1").symlink_to(library)  # as the library calls itself
    return folder / "translate"


def header(folder: Path) -> Path:
    """A source that needs the header and nothing else."""
    source = folder / "header.cpp"
    source.write_text("#include <onnxruntime_cxx_api.h>\n")
    return source


def run(program: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    variables = os.environ | {"LD_LIBRARY_PATH": str(program.parent)}
    return subprocess.run([program, *names], cwd=program.parent, env=variables, capture_output=True, text=True)


def test_cpp(program: Path, folder: Path, expected: np.ndarray) -> None:
    Image.fromarray(PIXELS).save(folder / "image.ppm")
    done = run(program, "psp.onnx", "image.ppm", "made.ppm")
    assert done.returncode == 0, done.stderr
    assert psnr(np.asarray(Image.open(folder / "made.ppm")).astype(int) - expected) > 60


@pytest.mark.parametrize(("name", "words"), [("image.png", "no binary PPM of 256x256"), ("cut.ppm", "ends before")])
def test_cpp_names_what_is_wrong_with_a_picture(program: Path, folder: Path, name: str, words: str) -> None:
    (folder / "cut.ppm").write_bytes(b"P6\n256 256\n255\n1234")
    done = run(program, "psp.onnx", name, "none.ppm")
    assert done.returncode == 2 and words in done.stderr and not (folder / "none.ppm").exists()


def onnxruntime_web() -> Path | None:
    """The npm package, where NODE_PATH leads to it."""
    folders = map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))
    return next((path / "onnxruntime-web" for path in folders if (path / "onnxruntime-web").is_dir()), None)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def page(folder: Path) -> Iterator[str]:
    """The address of the browser's example, beside an engine, on a server of plain files."""
    package = onnxruntime_web()
    if CHROMIUM is None or package is None:
        pytest.skip("needs Chromium, and the npm package onnxruntime-web in NODE_PATH")
    site = folder / "site"
    shutil.copytree(EXAMPLES / "browser", site)
    (site / "node_modules").mkdir()
    (site / "node_modules" / "onnxruntime-web").symlink_to(package)
    (site / "psp.onnx").symlink_to(folder / "psp.onnx")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


#: The pixels of the result on the page, RGBA.
RESULT = "() => [...output.getContext('2d').getImageData(0, 0, output.width, output.height).data]"


def test_browser(page: str, folder: Path, expected: np.ndarray) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.method + request.url))
        tab.goto(page)
        tab.get_by_text("Ready.").wait_for(timeout=60_000)
        before = len(asked)
        tab.get_by_label("Picture").set_input_files(folder / "image.png")
        tab.get_by_text("Done in").wait_for(timeout=60_000)
        made = np.array(tab.evaluate(RESULT)).reshape(*expected.shape[:2], 4)[..., :3]
        assert all("blob:" in one for one in asked[before:]), "the picture leaves the page"
        tab.get_by_label("Picture").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"none"})
        tab.get_by_text("This picture could not be used").wait_for()
        browser.close()
    assert psnr(made - expected) > NEAR
