"""The bundled demo model: small, and faithful through the exported FP16 engine."""

import numpy as np
import pytest

from psp_export.export import Options, export
from psp_export.verify.parity import psnr
from psp_runtime import load
from psp_train import demo
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.drawn import draw, sample

HELD_OUT_SEED = 2  # tools/train_demo.py trains on seed 1


def test_weights_are_small():
    generator, encoder = demo.weight_files("inversion")
    assert generator.stat().st_size <= 2e6
    assert encoder.stat().st_size <= 4e6


@pytest.mark.slow
def test_inverts_held_out_faces_through_the_fp16_engine(tmp_path):
    """Mean PSNR of at least 25 dB over 200 faces; a mean face, as a baseline, is far below."""
    export(load_demo_checkpoint(), Options(tmp_path / "psp", "fp16", "onnx"))
    inputs = np.stack([draw(z).image for z in sample(200, HELD_OUT_SEED)])
    with load(tmp_path / "psp.onnx") as pipeline:
        outputs = np.concatenate([pipeline.translate(part).output for part in np.array_split(inputs, 25)])

    def mean_psnr(pictures):
        return np.mean([psnr(difference) for difference in inputs.astype(np.float64) - pictures])

    assert mean_psnr(outputs) >= 25
    assert mean_psnr(inputs.mean(0)) < 18
