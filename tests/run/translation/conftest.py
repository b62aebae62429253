"""A working folder for psp-run, and psp-run as called there."""

from pathlib import Path

import pytest
from cli_runs import PspRun, runner
from PIL import Image
from tiny_engines import write_onnx
from translation_folder import PIXELS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an engine, a picture, and a folder of pictures."""
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "psp.onnx")
    Image.fromarray(PIXELS[0]).save("image.png")
    Path("photos").mkdir()
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(f"photos/p{index}.png")
    return tmp_path


@pytest.fixture
def psp_run(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    """Run psp-run in this process: exit code, stdout, stderr."""
    return runner(monkeypatch, capsys)
