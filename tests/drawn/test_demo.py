"""The bundled demo model: small, and faithful through the exported FP16 engine."""

import dataclasses

import numpy as np
import pytest
import torch

from psp_export.export import Options, export
from psp_export.verify.parity import psnr
from psp_runtime import load
from psp_train import demo
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.drawn import draw, sample
from psp_train.drawn.judges import load_judges
from psp_train.networks import GeneratorConfig

HELD_OUT_SEED = 2  # tools/train_demo.py trains on seed 1


def test_weights_are_small():
    generator, encoder = demo.weight_files("inversion")
    assert generator.stat().st_size <= 2e6
    assert encoder.stat().st_size <= 4e6


@pytest.mark.slow
def test_inverts_held_out_faces_through_the_fp16_engine(tmp_path):
    """Mean PSNR of at least 25 dB over 20 faces; a mean face, as a baseline, is far below."""
    export(load_demo_checkpoint(), Options(tmp_path / "psp", "fp16", "onnx", verify=False))
    inputs = np.stack([draw(z).image for z in sample(20, HELD_OUT_SEED)])
    with load(tmp_path / "psp.onnx") as pipeline:
        outputs = np.concatenate([pipeline.translate(part).output for part in np.array_split(inputs, 4)])

    def mean_psnr(pictures):
        return np.mean([psnr(difference) for difference in inputs.astype(np.float64) - pictures])

    assert mean_psnr(outputs) >= 25
    assert mean_psnr(inputs.mean(0)) < 18


def test_random_styles_keep_the_label_map_and_change_the_colours() -> None:
    """From MIX_FROM on, as measured on other faces; from one layer more they would not."""
    generator, _ = demo.load_generator()
    segmenter, styles = load_judges().segmenter, demo.GENERATOR.styles
    with torch.no_grad():
        w, other = (generator.map(torch.from_numpy(sample(8, seed))) for seed in (2, 77))
        latents = w[:, None].repeat(1, styles, 1)
        before = generator(latents)
        kept = {}
        for first in (demo.MIX_FROM - 1, demo.MIX_FROM):
            latents[:, first:] = other[:, None]
            mixed = generator(latents)
            kept[first] = float((segmenter(mixed) == segmenter(before)).float().mean())
            latents[:, first:] = w[:, None]
    assert kept[demo.MIX_FROM] >= 0.95 > kept[demo.MIX_FROM - 1]
    assert float((mixed.clamp(-1, 1) - before.clamp(-1, 1)).abs().mean()) * 127.5 > 20  # levels


@pytest.mark.parametrize(("task", "layers"), [("inversion", range(4, 14)), ("super_resolution", range(4, 8))])
def test_demo_engines_mix_the_layers_of_their_generator(task: str, layers: range) -> None:
    checkpoint = load_demo_checkpoint(task)
    assert checkpoint.mix_layers == tuple(layers)
    published = dataclasses.replace(checkpoint, generator=GeneratorConfig(1024))
    assert published.mix_layers == published.task.mix_layers(18)
