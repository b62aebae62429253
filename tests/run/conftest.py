"""Engines of every task, a working folder with their inputs, and psp as called there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun, runner
from PIL import Image
from tiny_family import STYLE_DIM, STYLES, write_family
from working_folder import DIRECTION, LABELS, PIXELS, RNG, TASKS


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
