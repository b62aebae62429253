"""An exported model makes the same pictures from its parts as whole, in every application."""

import shutil
from pathlib import Path

import numpy as np

import psp_runtime
from psp_runtime.pictures.loading import load

GOLDEN = Path(__file__).parents[1] / "golden"


def levels(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference between uint8 pictures."""
    assert one.dtype == other.dtype == np.uint8 and one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def test_an_exported_model_gives_the_same_pictures_from_parts(exported: Path, tmp_path: Path) -> None:
    for file in exported.glob("fp32.*"):
        shutil.copyfile(file, tmp_path / file.name)
    pixels = load(GOLDEN / "picture.png", "rgb")[None]
    with psp_runtime.load(tmp_path / "fp32.onnx", "cpu") as split:
        assert split.parts.usable and split.info.styles == 10
        styles = split.styles(3, seed=7, psi=0.7)
        from_parts = (
            split.mix(pixels, styles),
            split.decode(split.encode(pixels)),
            split.edit(pixels, styles[0], (1, 2)),
        )
        ends = split.interpolate(pixels, pixels[:, ::-1].copy(), 3)[0]
        np.testing.assert_array_equal(ends[0], split.translate(pixels).output[0])
        np.testing.assert_array_equal(ends[2], split.translate(pixels[:, ::-1].copy()).output[0])
        average = split.mix(pixels, split.styles(1, psi=0), layers=range(10), alpha=1)[0]
        assert levels(average, split.decode(np.tile(split.average_style(), (1, 10, 1)))) <= 1
    for part in ("encoder", "generator"):
        (tmp_path / f"fp32.{part}.onnx").unlink()
    with psp_runtime.load(tmp_path / "fp32.onnx", "cpu") as whole:
        assert not whole.parts.usable
        np.testing.assert_array_equal(whole.styles(3, seed=7, psi=0.7), styles)
        plain = whole.translate(pixels).output
        fused = whole.mix(pixels, styles), whole.decode(whole.encode(pixels)), whole.edit(pixels, styles[0], (1, 2))
        np.testing.assert_array_equal(fused[1], plain)
        np.testing.assert_array_equal(whole.mix(pixels, styles, alpha=0)[0, 2], plain[0])
    for one, other in zip(from_parts, fused, strict=True):
        assert levels(one, other) <= 1
    assert levels(from_parts[1], plain) <= 1
    assert levels(fused[0][0, :1], plain) > 1
