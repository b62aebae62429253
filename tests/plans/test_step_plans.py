"""Steps of ReStyle on a GPU that is not there (conftest.py): their state stays on it, one graph is replayed."""

from pathlib import Path

import numpy as np
import pytest
from fake_gpu import FakeGpu
from tiny_engines import MAX_BATCH, write_plan
from tiny_family import FACTS, MIX, STYLE_DIM, STYLES
from tiny_steps import expected_steps, picture_of

from psp_runtime.engines.refinement import RefiningSession
from psp_runtime.engines.tensorrt.session import TensorRTSession
from psp_runtime.pipeline import Pipeline

PIXELS = np.random.default_rng(4).integers(0, 120, (MAX_BATCH, 256, 256, 3), np.uint8)
PIXELS[1] *= 2


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Over the plan of the fixture `gpu`, which comes first."""
    backend = "tensorrt_rtx" if b"tensorrt_rtx" in (tmp_path / "psp.trt").read_bytes() else "tensorrt"
    changes = {**FACTS, **MIX, "max_batch": MAX_BATCH, "part": "step", "iterations": 5, "backend": backend}
    return write_plan(tmp_path / "psp.trt", **changes)


def test_every_step_and_the_last_one(gpu: FakeGpu, plan: Path) -> None:
    with Pipeline(TensorRTSession(plan)) as pipeline:
        for batch in (1, MAX_BATCH, 2):
            pixels = PIXELS[:batch]
            each, last = pipeline.refine(pixels), pipeline.translate(pixels)
            for one in range(batch):
                for step, (latents, _) in enumerate(expected_steps(pixels[one], 5)):
                    np.testing.assert_allclose(each.latents[one, step], latents, atol=2e-4)
            np.testing.assert_allclose(last.latents, each.latents[:, -1], atol=1e-6)
            np.testing.assert_array_equal(last.output, each.output[:, -1])


def test_styles_are_mixed_in_after_the_last_step_alone(gpu: FakeGpu, plan: Path) -> None:
    style, alpha = np.full((2, STYLES, STYLE_DIM), 0.5, np.float32), np.ones((2, STYLES), np.float32)
    with Pipeline(TensorRTSession(plan), iterations=3) as pipeline:
        done = pipeline.translate(PIXELS[:2], style, alpha)
    for one in range(2):
        np.testing.assert_allclose(done.latents[one], expected_steps(PIXELS[one], 3)[-1][0], atol=2e-4)
        np.testing.assert_array_equal(done.output[one], picture_of(style[one]).astype(np.uint8))


def test_one_graph_is_replayed(gpu10: FakeGpu, plan: Path) -> None:
    session = RefiningSession(TensorRTSession(plan))
    inputs = {
        "image": PIXELS[:1],
        "style": np.zeros((1, STYLES, STYLE_DIM), np.float32),
        "alpha": np.zeros((1, STYLES), np.float32),
    }
    session.run(inputs)
    assert (gpu10.count("plain"), gpu10.count("recorded"), gpu10.count("replay")) == (1, 1, 4)
    session.run(inputs)
    session.run(inputs)
    assert (gpu10.count("plain"), gpu10.count("recorded"), gpu10.count("replay")) == (1, 1, 14)
    session.close()
    assert gpu10.released_with == [0]
