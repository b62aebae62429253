"""Exports that several files of tests look at: each takes seconds."""

from pathlib import Path

import pytest
from models import tiny_checkpoint

from psp_export.export import Options, export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a verified FP32 and FP16 export of the tiny model, parts included; nobody writes into it."""
    folder = tmp_path_factory.mktemp("engines")
    for precision in ("fp32", "fp16"):
        export(tiny_checkpoint(), Options(folder / precision, precision, "onnx", max_batch=4, parts=True))
    return folder
