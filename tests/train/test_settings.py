"""The settings of a training, stored and read back."""

import json
from pathlib import Path

import pytest
from training import make_settings

from psp_runtime.errors import PspError
from psp_train.drawn.dataset import FACES, draw_folder
from psp_train.recipes import Recipe, make_recipe
from psp_train.training.settings import Settings
from psp_train.training.start import faces_needed


def test_settings_through_json(drawn, tmp_path):
    settings = make_settings(drawn, tmp_path / "run", "sketch", amp="bf16", weights=tmp_path, variant="w")
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_settings_hold_absolute_paths(drawn, monkeypatch):
    monkeypatch.chdir(drawn)
    values = Settings(Recipe(), out=Path("run"), data=Path("faces")).to_json()
    assert values["data"] == str(drawn.resolve() / "faces") and values["target"] is None


def test_settings_of_another_version(drawn, tmp_path):
    values = make_settings(drawn, tmp_path / "run").to_json()
    with pytest.raises(PspError, match="another version: it differs in colour"):
        Settings.from_json(values | {"colour": 1})


@pytest.mark.parametrize(("steps", "expected"), [(2, 100 + 2 * 4 * 3 * 2), (100_000, FACES)])
def test_a_demo_draws_what_its_steps_need(steps: int, expected: int) -> None:
    recipe = make_recipe("sketch", overrides=dict(steps=steps, batch_size=4, accumulate=3))
    assert faces_needed(recipe, held_out=100, world=2) == expected


def test_runs_from_before_faces_were_counted_drew_them_all() -> None:
    values = Settings(Recipe(), out=Path("run"), demo=True, faces=7).to_json()
    assert Settings.from_json(values).faces == 7
    del values["faces"]
    assert Settings.from_json(values).faces == FACES


def test_a_folder_of_more_faces_serves_a_run_that_needs_fewer(tmp_path: Path) -> None:
    draw_folder(tmp_path / "drawn", 3)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "drawn").rglob("*.png")}
    draw_folder(tmp_path / "drawn", 2)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "drawn").rglob("*.png")} == before
    draw_folder(tmp_path / "drawn", 4)
    assert len(list((tmp_path / "drawn" / "faces").iterdir())) == 4
    first = (tmp_path / "drawn" / "faces" / "00000.png").read_bytes()
    draw_folder(tmp_path / "again", 1)
    assert (tmp_path / "again" / "faces" / "00000.png").read_bytes() == first
