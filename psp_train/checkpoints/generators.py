"""StyleGAN2 generators in files of their own: to train an encoder for, or to put under an encoder.

rosinality   {"g_ema": ..., "latent_avg": tensor}, and what is trained with that code: StyleGAN-NADA and others
NVIDIA       network pickles (.pkl)
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from psp_runtime.disk import sha256_of
from psp_train.checkpoints.architecture import generator_config
from psp_train.checkpoints.layouts import as_tensor, unwrapped
from psp_train.checkpoints.nvidia import GeneratorWeights, read_nvidia_generator
from psp_train.checkpoints.nvidia_pickles import is_pickle
from psp_train.checkpoints.psp import PUBLISHED_LICENSE, Checkpoint, read_shapes, shaped_average
from psp_train.checkpoints.state_files import StateDict, WeightsError, listed, load_strictly, read_state_file
from psp_train.networks import Generator, GeneratorConfig


def load_generator(path: str | Path, class_index: int | None = None) -> tuple[Generator, torch.Tensor | None]:
    """Load the generator of a StyleGAN2 `.pt` in rosinality's layout or of an NVIDIA `.pkl`, in FP32 and eval mode.

    Gives the generator, and its average w [L,S] if the file stores it. A conditional generator becomes one of the class
    `class_index`. Raises `WeightsError` for anything else; warns where the file holds no noise.
    """
    path = Path(path)
    state, average, clamp = _read(path, class_index)
    config = replace(read_shapes(path, generator_config, state, ""), conv_clamp=clamp)
    with torch.device("meta"):
        generator = Generator(config)
    lacking = [key for key in generator.state_dict() if key not in state and _is_constant(key)]
    if any(key.startswith("noises.") for key in lacking):
        warnings.warn(f"{path} holds no noise: fixed random noise (seed 0) takes its place", stacklevel=2)
    load_strictly(generator, (_constants(config) if lacking else {}) | state, f"{path} does not fit the architecture")
    return generator.eval(), None if average is None else shaped_average(path, average, config)


def with_generator(checkpoint: Checkpoint, path: str | Path, class_index: int | None = None) -> Checkpoint:
    """Put the generator of a file under the encoder of a checkpoint, which keeps its average w.

    Raises `WeightsError` for a file that is none, and for a generator that takes other latents than the encoder gives.
    """
    path = Path(path)
    generator, _ = load_generator(path, class_index)
    ours, theirs = checkpoint.generator, generator.config
    if (ours.styles, ours.style_dim) != (theirs.styles, theirs.style_dim):
        raise WeightsError(
            f"{path} makes pictures of {theirs.size} pixels from latents [{theirs.styles},{theirs.style_dim}], but the "
            f"encoder of {checkpoint.name} gives [{ours.styles},{ours.style_dim}], for {ours.size} pixels: take a "
            "generator of that size"
        )
    checkpoint.model.decoder = generator
    digest = hashlib.sha256(f"{checkpoint.sha256} {sha256_of(path)}".encode()).hexdigest()
    name = f"{checkpoint.name} over {path.name}"
    return replace(checkpoint, generator=theirs, sha256=digest, license=PUBLISHED_LICENSE, name=name)


def _read(path: Path, class_index: int | None) -> GeneratorWeights:
    """Read a state dict with rosinality's keys, an average w and a clamp, the last two if the file has them."""
    if path.is_file() and is_pickle(path):
        return read_nvidia_generator(path, class_index)
    data = read_state_file(path, "expected a complete StyleGAN2 .pt or .pkl file")
    if not isinstance(data.get("g_ema"), Mapping):
        raise WeightsError(f"{path} is not a StyleGAN2 generator: expected 'g_ema', found {listed(data)}")
    if class_index is not None:
        raise WeightsError(f"--class {class_index}: {path} has no classes, leave it out")
    return GeneratorWeights(unwrapped(data["g_ema"]), as_tensor(data.get("latent_avg")), None)


def _is_constant(key: str) -> bool:
    """Tell noise pictures and FIRs, which are not trained, and which some files leave out."""
    return key.startswith("noises.") or key.endswith(".kernel")


def _constants(config: GeneratorConfig) -> StateDict:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # that of the CPU alone
        return {key: value for key, value in Generator(config).state_dict().items() if _is_constant(key)}
