"""The settings of a training, stored and read back."""

import json
from pathlib import Path

import pytest
from training import make_settings

from psp_runtime.errors import PspError
from psp_train.recipes import Recipe
from psp_train.training.settings import Settings


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
