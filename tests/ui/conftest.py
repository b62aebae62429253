"""Tiny engines of several tasks, a folder to work in, and a page of the demo models."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_family import STYLE_DIM, write_family
from tiny_steps import write_steps
from ui_pages import PIXELS, serving

from psp_runtime.ui.demo_engines import demo_engines
from psp_runtime.ui.runs import Runs


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
    np.save("direction.npy", np.linspace(-1, 1, STYLE_DIM, dtype=np.float32))
    return tmp_path


@pytest.fixture
def runs(here: Path) -> Iterator[Runs]:
    one = Runs(here / "page")
    yield one
    one.close()


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of the demo models: two are tiny engines in the cache, and an export of the others takes a minute."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("psp ui without --engine needs PyTorch")
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PSP_CACHE", str(folder))
        cache = next(iter(demo_engines(folder))).parent
    cache.mkdir()
    write_family(cache, "inversion")
    write_family(cache, "segmentation", kind="labels", task="segmentation")
    (folder / "psp_export").mkdir()
    (folder / "psp_export" / "__init__.py").touch()
    (folder / "psp_export" / "__main__.py").write_text("import time\ntime.sleep(60)\n")
    with serving(folder) as address:
        yield address
