"""Whole photos on the page."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ui_pages import asked, run_command

from psp_runtime.engines.info import read_info
from psp_runtime.errors import PspError
from psp_runtime.ui.choices import as_options
from psp_runtime.ui.runs import Runs
from psp_train.drawn.samples import draw_scene


def test_a_face_of_a_photo_is_chosen_and_put_back(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(draw_scene(1, 540)).save("party.jpg", quality=95)
    info = read_info("engines/psp.onnx")
    faces = runs.faces("party.jpg", info)
    assert [Image.open(path).size for path in faces] == [(256, 256)] * 4
    with pytest.raises(PspError, match="a.png: no face"):
        runs.faces("a.png", info)
    photo = dict(picture="party.jpg", align=True, faces="2nd", paste_back=True)
    shown = runs.run(Path("engines/psp.onnx"), asked("Translate", **photo))
    assert shown.command.endswith("--align --faces 2nd --paste-back face")
    run_command(shown.command, monkeypatch)
    assert Path(shown.pictures[0][0]).read_bytes() == Path("party_out.jpg").read_bytes()
    assert shown.compared is not None
    before, after = (np.asarray(Image.open(path)) for path in shown.compared)
    np.testing.assert_array_equal(before, Image.open("party.jpg"))
    np.testing.assert_array_equal(after, Image.open("party_out.jpg"))


def test_another_visitor_looks_at_a_photo_while_a_run_works(runs: Runs) -> None:
    Image.fromarray(draw_scene(1, 360)).save("party.png")
    with ThreadPoolExecutor(1) as visitor, runs.one_at_a_time:
        faces = visitor.submit(runs.faces, "party.png", read_info("engines/psp.onnx")).result(timeout=60)
    assert len(faces) == 4


def test_every_face_of_a_photo(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(draw_scene(1, 360)).save("party.png")
    photo = dict(picture="party.png", align=True, faces="all", paste_back=False)
    shown = runs.run(Path("engines/psp.onnx"), asked("Variations", **photo))
    run_command(shown.command, monkeypatch)
    made = {Path(path).name: Path(path).read_bytes() for path, _ in shown.pictures}
    assert len(made) == 12 and made == {path.name: path.read_bytes() for path in Path().glob("party_face?_out_?.png")}
    assert [text for _, text in shown.pictures[:4]] == ["style 1", "style 2", "style 3", "style 1"]
    plain = as_options(Path("psp.onnx"), asked("Translate", **photo | {"align": False}))
    assert not plain.align and plain.faces is None
