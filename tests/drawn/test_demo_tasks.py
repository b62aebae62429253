"""The bundled demo encoders do their task on drawn faces that no training saw, and better than a mean face would.

`tools/judge_demo.py` measures more, on more faces; docs/training.md has its numbers.
"""

import numpy as np
import pytest
import torch

from psp_runtime.tasks import TASKS, get_task
from psp_train import demo
from psp_train.data.samples import degrade
from psp_train.drawn import draw, parameters, sample
from psp_train.drawn.judges import load_judges
from psp_train.networks.psp import to_input

TASKS_SHOWN = [name for name in TASKS if name not in ("toonify", "cars")]
COUNT, HELD_OUT_SEED = 8, 2


@pytest.fixture(scope="module")
def drawn():
    """Vectors, and the drawings' pictures, labels and sketches as arrays [N,256,256,...]."""
    vectors = sample(COUNT, HELD_OUT_SEED)
    drawings = [draw(z) for z in vectors]
    return vectors, *(np.stack([drawing[i] for drawing in drawings]) for i in range(3))


@torch.no_grad()
def translate(task: str, source: np.ndarray) -> torch.Tensor:
    """Pictures [N,3,256,256] of the demo model."""
    x = to_input(torch.from_numpy(source), get_task(task).input, get_task(task).channels)
    return demo.load_demo(task)(x)[0].clamp(-1, 1)


def rgb(pictures: np.ndarray) -> torch.Tensor:
    return to_input(torch.from_numpy(pictures), "rgb", 3)


@pytest.mark.parametrize("task", TASKS_SHOWN)
def test_each_task_has_a_small_encoder_over_the_shared_generator(task):
    generator, encoder = demo.weight_files(task)
    assert generator.name == "demo_generator.safetensors" and generator.stat().st_size <= 2e6
    assert encoder.stat().st_size <= 4e6
    assert sum(file.stat().st_size for file in demo.WEIGHTS.iterdir()) <= 30e6


@pytest.mark.parametrize("task, factor", [("inpainting", 1), ("super_resolution", 8), ("super_resolution", 16)])
def test_restores_more_than_the_mean_face(drawn, task, factor):
    pictures = drawn[1]
    source = np.stack([degrade(get_task(task), p, np.random.default_rng(0), (factor,)) for p in pictures])
    error = (translate(task, source) - rgb(pictures)).square().mean()
    assert error < 0.5 * (rgb(pictures).mean(0) - rgb(pictures)).square().mean()


@pytest.mark.parametrize("task", ["segmentation", "sketch"])
def test_the_result_has_the_label_map_of_the_input(drawn, task):
    _, pictures, labels, sketches = drawn
    segmenter = load_judges().segmenter
    truth = torch.from_numpy(labels[:, ::2, ::2]).long()
    accuracy = (segmenter(translate(task, labels if task == "segmentation" else sketches[..., None])) == truth).float()
    mean_face = (segmenter(rgb(pictures).mean(0, keepdim=True)) == truth).float()
    assert 1 - accuracy.mean() < 0.6 * (1 - mean_face.mean())


def test_frontalization_turns_faces_to_the_camera_and_keeps_who_they_are(drawn):
    vectors, pictures = drawn[:2]
    turned = np.abs([parameters(z)["yaw"] for z in vectors]).mean()
    judges, output = load_judges(), translate("frontalization", pictures)
    assert judges.yaw(output).abs().mean() < turned / 3
    others = torch.roll(rgb(pictures), 1, dims=0)
    assert judges.identity(output, rgb(pictures)).mean() < 0.7 * judges.identity(output, others).mean()
