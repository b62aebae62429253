"""Architectures read off the keys and shapes of a pSp state dict (`encoder.*`, `decoder.*`).

A key that is needed and missing is a `KeyError`; whether every key fits is for strict loading to say.
"""

import re

from psp_train.checkpoints.state_files import StateDict
from psp_train.networks import EncoderConfig, GeneratorConfig
from psp_train.networks.config import EncoderKind


def generator_config(state: StateDict, prefix: str) -> GeneratorConfig:
    """Read size, style dim, mapping depth and channels off a generator's state dict, whose keys begin with `prefix`."""
    doublings = len(_indices(state, prefix + r"to_rgbs\.(\d+)\.bias"))
    convs = [state[f"{prefix}convs.{2 * i}.conv.weight"] for i in range(doublings)]
    return GeneratorConfig(
        size=4 * 2**doublings,
        style_dim=state[prefix + "conv1.conv.modulation.weight"].shape[1],
        mapping_layers=len(_indices(state, prefix + r"style\.(\d+)\.weight")),
        channels=(state[prefix + "input.input"].shape[1], *(conv.shape[1] for conv in convs)),
    )


def encoder_config(state: StateDict, generator: GeneratorConfig) -> EncoderConfig:
    """Read kind, input channels and backbone shape off the `encoder.*` of a state dict; styles are the generator's."""
    resnet = "encoder.backbone.conv1.weight" in state
    units, widths = _resnet_stages(state) if resnet else _irse_stages(state)
    stem = "encoder.backbone.conv1.weight" if resnet else "encoder.input_layer.0.weight"
    return EncoderConfig(
        kind=_encoder_kind(state, resnet),
        input_channels=state[stem].shape[1],
        styles=generator.styles,
        style_dim=generator.style_dim,
        units=tuple(units),
        widths=tuple(widths),
    )


def _irse_stages(state: StateDict) -> tuple[list[int], list[int]]:
    """Read units and widths of the four stages, which begin where a shortcut is projected."""
    units = len(_indices(state, r"encoder\.body\.(\d+)\.res_layer\.1\.weight"))
    projected = _indices(state, r"encoder\.body\.(\d+)\.shortcut_layer\.0\.weight")
    starts = [0, *projected, units]
    widths = [state[f"encoder.body.{start}.res_layer.1.weight"].shape[0] for start in starts[:-1]]
    if len(widths) != 4:
        raise KeyError(f"a backbone of four stages (it has {len(widths)})")
    return [b - a for a, b in zip(starts, starts[1:], strict=False)], widths


def _resnet_stages(state: StateDict) -> tuple[list[int], list[int]]:
    """Read units and inner widths of the four stages, which are named."""
    stages = [f"encoder.backbone.layer{number}." for number in range(1, 5)]
    units = [len(_indices(state, re.escape(stage) + r"(\d+)\.conv1\.weight")) for stage in stages]
    return units, [state[f"{stage}0.conv1.weight"].shape[0] for stage in stages]


def _encoder_kind(state: StateDict, resnet: bool) -> EncoderKind:
    if resnet:
        return "resnet_w" if len(_indices(state, r"encoder\.heads\.(\d+)\.weight")) == 1 else "resnet_wplus"
    if "encoder.latlayer1.weight" in state:
        return "psp"
    return "naive_wplus" if "encoder.output_layer_2.3.weight" in state else "w"


def _indices(state: StateDict, pattern: str) -> list[int]:
    matches = (re.fullmatch(pattern, key) for key in state)
    return sorted(int(match.group(1)) for match in matches if match)
