"""Layouts that training scripts and people make of published checkpoints: understood, or named with what to do."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psp_train.checkpoints.state_files import StateDict, WeightsError, listed
from psp_train.networks import GeneratorConfig

#: What torch's DataParallel puts in front of the keys of what it wraps: a model, or a part of one.
_WRAPPED = re.compile(r"^(encoder\.|decoder\.)?module\.")
#: e4e's encoder, which may have more heads than its generator takes styles.
_E4E = "Encoder4Editing"
#: Keys of an encoder that was saved alone.
_BARE_ENCODER = ("input_layer.0.weight", "backbone.conv1.weight")


def unwrapped(state: Mapping[Any, Any]) -> StateDict:
    """Give a state dict the keys of the model alone, without DataParallel's `module.`, and tensors for arrays."""
    return {_without_wrapper(str(key)): as_tensor(value) for key, value in state.items()}


def _without_wrapper(key: str) -> str:
    shorter = _WRAPPED.sub(lambda found: found[1] or "", key)
    return key if shorter == key else _without_wrapper(shorter)


def as_tensor(value: Any) -> Any:
    """Make a tensor of a NumPy array of numbers; anything else stays as it is."""
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    return torch.from_numpy(np.ascontiguousarray(value)) if numbers else value


def state_dict_of(path: Path, data: Mapping[str, Any]) -> StateDict:
    """Take the state dict of encoder and generator out of a checkpoint.

    Raises `WeightsError` for a file without one, or with one of the two, and says what it is.
    """
    stored = data.get("state_dict")
    bare = unwrapped(data)
    if not isinstance(stored, Mapping) and any(key.startswith(("encoder.", "decoder.")) for key in bare):
        raise WeightsError(
            f"{path} is a bare state dict, without opts and latent_avg: take the whole file as published, or save "
            "{'state_dict': ..., 'opts': ..., 'latent_avg': ...}"
        )
    if any(key in bare for key in _BARE_ENCODER):
        raise WeightsError(f"{path} is an encoder without its generator: take the whole pSp file, which has both")
    if not isinstance(stored, Mapping):
        raise WeightsError(f"{path} is not a pSp checkpoint: expected a 'state_dict', found {listed(data)}")
    state = unwrapped(stored)
    parts = {key.partition(".")[0] for key in state}
    if "encoder" in parts and "decoder" not in parts:
        raise WeightsError(
            f"{path} has an encoder without its generator (decoder.*): take the whole pSp file, which has both"
        )
    return state


def starts_from_average(opts: Mapping[str, Any]) -> bool:
    """Tell whether the average w is added to what the encoder gives: unless the options say that it is not."""
    asked = opts.get("start_from_latent_avg")
    return True if asked is None else bool(asked)


def check_heads(path: Path, state: StateDict, opts: Mapping[str, Any], generator: GeneratorConfig) -> None:
    """Raise `WeightsError` for an encoder with another number of heads than its generator has styles."""
    heads = {int(found[1]) for found in (re.match(r"encoder\.styles\.(\d+)\.", key) for key in state) if found}
    if not heads or len(heads) == generator.styles or str(opts.get("encoder_type")) == _E4E:
        return
    raise WeightsError(
        f"{path}: its encoder has {len(heads)} heads, for pictures of {_pixels(len(heads))}, and its generator makes "
        f"{_pixels(generator.styles)} from {generator.styles} styles: both must be for one size"
    )


def _pixels(styles: int) -> str:
    size = 2 ** (styles // 2 + 1)
    return f"{size}x{size}"
