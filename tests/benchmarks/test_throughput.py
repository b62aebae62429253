"""The benchmark of a folder: every combination is run and reported, and its numbers belong together."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import throughput
from PIL import Image
from tiny_engines import MAX_BATCH, write_onnx

from psp_runtime.engines.session import open_session


def test_rows_of_every_format_and_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Batches beyond the engine's largest are left out."""
    engine = write_onnx(tmp_path / "psp.onnx")
    asked = f"--engine {engine} --pictures 4 --batches 1 {MAX_BATCH} {MAX_BATCH + 1} --formats png jpg --repeats 2"
    throughput.main(asked.split())
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert (report["pictures"], report["size"], report["device"]) == (4, 64, "cpu")
    rows = report["rows"]
    assert [(row["format"], row["batch"]) for row in rows] == [(f, b) for f in ("png", "jpg") for b in (1, MAX_BATCH)]
    assert len(table) == 1 + len(rows)
    for row in rows:
        rates = row["end_to_end"]
        assert 0 < rates["least"] <= rates["median"] <= rates["most"]
        assert row["busy"][row["limits"]] == max(row["busy"].values()) <= 1
        for name, rate in row["rate"].items():  # a stage is as much faster as it waits
            assert rate * row["busy"][name] == pytest.approx(rates["median"], rel=0.1)


def test_pictures_are_noisy_jpegs_of_different_faces(tmp_path: Path) -> None:
    throughput.draw_pictures(tmp_path / "photos", 2)
    first, second = (
        np.asarray(Image.open(tmp_path / "photos" / name)).astype(int) for name in ("0000.jpg", "0001.jpg")
    )
    assert first.shape == (1024, 1024, 3) and np.abs(first - second).mean() > 5
    assert np.abs(np.diff(first[:64, :64], axis=0)).mean() > 1  # a corner of a drawing alone is smooth


def test_pictures_that_cannot_be_used_stop_it(tmp_path: Path) -> None:
    engine = write_onnx(tmp_path / "psp.onnx")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("no picture")
    with (
        contextlib.closing(open_session(engine)) as session,
        pytest.raises(SystemExit, match="1 pictures could not be used"),
    ):
        throughput.run_folder(session, tmp_path, "png", 1, 2)
