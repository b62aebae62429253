"""Architectures read off the keys and shapes of a pSp state dict (`encoder.*`, `decoder.*`).

A key that is needed and missing is a `KeyError`; whether every key fits is for strict loading to say.
"""

import re

from psp_train.checkpoints.state_files import StateDict
from psp_train.networks import EncoderConfig, GeneratorConfig
from psp_train.networks.config import REFINED_CHANNELS, Body, EncoderKind


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


def encoder_config(state: StateDict, generator: GeneratorConfig, kind: EncoderKind) -> EncoderConfig:
    """Read input channels and backbone shape off the `encoder.*` of a state dict; styles are the generator's."""
    units, widths = _named_stages(state) if _STEMS[0] in state else _body_stages(state)
    return EncoderConfig(
        kind=kind,
        input_channels=input_channels(state),
        styles=generator.styles,
        style_dim=generator.style_dim,
        units=tuple(units),
        widths=tuple(widths),
        body=body_of(state),
    )


#: The first convolution of an encoder over ResNet-50, IR-SE and ResNet-34.
_STEMS = ("encoder.backbone.conv1.weight", "encoder.input_layer.0.weight", "encoder.conv1.weight")


def input_channels(state: StateDict) -> int:
    """Read how many channels an encoder takes."""
    stem = next((name for name in _STEMS if name in state), _STEMS[1])
    return int(state[stem].shape[1])


def body_of(state: StateDict) -> Body:
    """Tell what the backbone is made of."""
    return "resnet34" if _STEMS[2] in state else "irse"


def _body_stages(state: StateDict) -> tuple[list[int], list[int]]:
    """Read units and widths of the four stages, which begin where a shortcut is projected."""
    resnet34 = body_of(state) == "resnet34"
    conv, shortcut = ("conv1", "downsample.0") if resnet34 else ("res_layer.1", "shortcut_layer.0")
    units = len(_indices(state, rf"encoder\.body\.(\d+)\.{re.escape(conv)}\.weight"))
    projected = _indices(state, rf"encoder\.body\.(\d+)\.{re.escape(shortcut)}\.weight")
    starts = [0, *projected, units]
    widths = [state[f"encoder.body.{start}.{conv}.weight"].shape[0] for start in starts[:-1]]
    if len(widths) != 4:
        raise KeyError(f"a backbone of four stages (it has {len(widths)})")
    return [b - a for a, b in zip(starts, starts[1:], strict=False)], widths


def _named_stages(state: StateDict) -> tuple[list[int], list[int]]:
    """Read units and inner widths of the four stages, which are named."""
    stages = [f"encoder.backbone.layer{number}." for number in range(1, 5)]
    units = [len(_indices(state, re.escape(stage) + r"(\d+)\.conv1\.weight")) for stage in stages]
    return units, [state[f"{stage}0.conv1.weight"].shape[0] for stage in stages]


def possible_kinds(state: StateDict) -> tuple[EncoderKind, ...]:
    """List the kinds of encoder that have these keys and input channels: often one, else it is for options to say."""
    if _STEMS[0] in state:
        return ("resnet_w",) if len(_indices(state, r"encoder\.heads\.(\d+)\.weight")) == 1 else ("resnet_wplus",)
    if "encoder.latlayer1.weight" in state:
        return _pyramids(input_channels(state), body_of(state))
    if "encoder.styles.0.linear.weight" in state:
        return ("restyle_psp", "restyle_e4e")
    return ("naive_wplus",) if "encoder.output_layer_2.3.weight" in state else ("w",)


def _pyramids(channels: int, body: Body) -> tuple[EncoderKind, ...]:
    if body == "resnet34":
        return ("restyle_fpn",)
    return ("psp", "e4e", "restyle_fpn") if channels == REFINED_CHANNELS else ("psp", "e4e")


def _indices(state: StateDict, pattern: str) -> list[int]:
    matches = (re.fullmatch(pattern, key) for key in state)
    return sorted(int(match.group(1)) for match in matches if match)
