"""Inputs of the tiny engine, and ONNX Runtime's word on what it makes of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tiny_engines import STYLE_DIM, STYLES, write_onnx

from psp_runtime.engines.session import OnnxSession

# Every batch size plainly, recorded and replayed, the others in between.
BATCHES = (1, 3, 1, 2, 1, 3, 1, 3, 2, 2, 1)
Inputs = dict[str, np.ndarray]


def inputs(batch: int, seed: int = 0) -> Inputs:
    """Random inputs of a batch."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (batch, 256, 256, 3), np.uint8),
        "style": rng.standard_normal((batch, STYLES, STYLE_DIM), np.float32),
        "alpha": rng.random((batch, STYLES), np.float32),
    }


def onnx_check(folder: Path) -> Callable[[Inputs, Inputs], None]:
    """Writes psp.onnx into a folder; what it returns compares outputs for some inputs with those of that file."""
    onnx = OnnxSession(write_onnx(folder / "psp.onnx"), "cpu")

    def check(given: Inputs, outputs: Inputs) -> None:
        expected = onnx.run(given)
        np.testing.assert_allclose(outputs["latents"], expected["latents"], rtol=1e-4)
        assert np.abs(outputs["output"].astype(int) - expected["output"]).max() <= 1

    return check
