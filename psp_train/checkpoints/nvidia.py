"""NVIDIA's StyleGAN2 generators brought to the layout of rosinality's, which pSp checkpoints hold.

Both compute the same function. Keys are mapped by the tables below, and a key that no row knows is an error; of a
resolution r, i = log2(r) - 3 counts the blocks from 8x8 on. What does not stand in tensors are attributes of modules:
they are as in `EXPECTED`, or honoured (`conv_clamp`), or the file is refused.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from psp_train.checkpoints.nvidia_pickles import Network, read_network
from psp_train.checkpoints.state_files import StateDict, WeightsError, listed
from psp_train.checkpoints.tensorflow_names import with_torch_names

Change = Callable[[torch.Tensor], torch.Tensor]


class GeneratorWeights(NamedTuple):
    """A generator: `state` with rosinality's keys, its average w [S] if the file has one, and its clamp if it has one.

    Activations are limited to -clamp…clamp, in FP32 too.
    """

    state: StateDict
    average: torch.Tensor | None
    clamp: float | None


def _keep(x: torch.Tensor) -> torch.Tensor:
    return x


def _axis_before(x: torch.Tensor) -> torch.Tensor:
    return x[None]


def _with_gain(x: torch.Tensor) -> torch.Tensor:
    """Make up for the zeros that up-sampling inserts: rosinality has that factor in the filter."""
    return x * 4


#: Of a module, its tensors: what they are called by rosinality, and how they are changed. No name: an unused constant.
_MODULATED: dict[str, tuple[str, Change]] = {
    "weight": ("{layer}.conv.weight", _axis_before),
    "affine.weight": ("{layer}.conv.modulation.weight", _keep),
    "affine.bias": ("{layer}.conv.modulation.bias", _keep),
}
_CONVOLUTION = _MODULATED | {
    "bias": ("{layer}.activate.bias", _keep),
    "noise_strength": ("{layer}.noise.weight", lambda x: x.reshape(1)),
    "noise_const": ("noises.noise_{noise}", lambda x: x[None, None]),
    "resample_filter": ("", _keep),
}
_UPSAMPLING = _CONVOLUTION | {"resample_filter": ("{layer}.conv.blur.kernel", _with_gain)}
_TO_RGB = _MODULATED | {"bias": ("{layer}.bias", lambda x: x.reshape(1, -1, 1, 1))}
_LINEAR = {"weight": ("{layer}.weight", _keep), "bias": ("{layer}.bias", _keep)}
_FIRST_BLOCK = {"const": ("input.input", _axis_before), "resample_filter": ("", _keep)}
_BLOCK = {"resample_filter": ("to_rgbs.{i}.upsample.kernel", _with_gain)}
#: Modules: what they are called by rosinality, the number of their noise, and their tensors.
MODULES = (
    (r"mapping\.fc(?P<n>\d+)", "style.{after}", "", _LINEAR),
    (r"synthesis\.b4", "", "", _FIRST_BLOCK),
    (r"synthesis\.b4\.conv1", "conv1", "0", _CONVOLUTION),
    (r"synthesis\.b4\.torgb", "to_rgb1", "", _TO_RGB),
    (r"synthesis\.b(?P<r>\d+)", "", "", _BLOCK),
    (r"synthesis\.b(?P<r>\d+)\.conv0", "convs.{even}", "{odd}", _UPSAMPLING),
    (r"synthesis\.b(?P<r>\d+)\.conv1", "convs.{odd}", "{following}", _CONVOLUTION),
    (r"synthesis\.b(?P<r>\d+)\.torgb", "to_rgbs.{i}", "", _TO_RGB),
)
#: Attributes of modules, and the values that the networks of this toolkit have.
EXPECTED: tuple[tuple[str, str, Any], ...] = (
    ("", "img_channels", 3),
    (r"synthesis\.b\d+", "architecture", "skip"),
    (r"synthesis\.b\d+\.conv\d", "activation", "lrelu"),
    (r"mapping\.fc\d+", "activation", "lrelu"),
    (r"mapping\.fc\d+", "bias_gain", 0.01),  # the factor of the learning rate
)
CLASSES = "mapping.embed.weight"
AVERAGE = "mapping.w_avg"


def read_nvidia_generator(path: Path, class_index: int | None = None) -> GeneratorWeights:
    """Read a StyleGAN2 generator out of a network pickle; of a conditional one, the mapping network of one class.

    Raises `WeightsError` for anything else, for another architecture, and for a class that is missing or not there.
    """
    network = read_network(path)
    try:
        return _generator(path, network, class_index)
    except WeightsError:
        raise
    except Exception as error:  # values of other kinds and shapes fail wherever they are used first
        raise WeightsError(f"{path} is no StyleGAN2 generator as this toolkit knows it: {error!r:.200}") from error


def _generator(path: Path, network: Network, class_index: int | None) -> GeneratorWeights:
    network = with_torch_names(path, network) if network.tensorflow else network
    _check_architecture(path, network)
    tensors = dict(network.tensors)
    average = tensors.pop(AVERAGE, None)
    _fold_class(path, tensors, class_index)
    state, unknown = {}, []
    for key, value in tensors.items():
        found = _renamed(key)
        if found is None:
            unknown.append(key)
        elif found[0]:
            state[found[0]] = found[1](value)
    if unknown:
        raise WeightsError(f"{path} is no StyleGAN2 generator as this toolkit knows it: it also has {listed(unknown)}")
    return GeneratorWeights(_with_noise(path, state, network), average, _clamp(path, network))


def _renamed(key: str) -> tuple[str, Change] | None:
    """Give rosinality's key of a tensor ("" for one that is not used) and how its values change; None if unknown."""
    for pattern, layer, noise, parts in MODULES:
        match = re.fullmatch(rf"(?:{pattern})\.(?P<part>{'|'.join(map(re.escape, parts))})", key)
        if match:
            name, change = parts[match["part"]]
            numbers = _numbers(match.groupdict())
            return name.format(layer=layer.format(**numbers), noise=noise.format(**numbers), **numbers), change
    return None


def _numbers(groups: dict[str, str | None]) -> dict[str, int]:
    """Compute the numbers in rosinality's names from a mapping layer n or a resolution r."""
    if groups.get("n"):
        return {"after": int(groups["n"] or 0) + 1}
    i = int(math.log2(int(groups.get("r") or 4))) - 3
    return {"i": i, "even": 2 * i, "odd": 2 * i + 1, "following": 2 * i + 2}


def _check_architecture(path: Path, network: Network) -> None:
    tensors = network.tensors
    if "synthesis.input.weight" in tensors:
        raise WeightsError(
            f"{path} is a StyleGAN3 generator: its layers are filtered differently, and no encoder here decodes with "
            "it; expected a StyleGAN2 one"
        )
    if "synthesis.b4.const" not in tensors:
        raise WeightsError(f"{path} is no StyleGAN2 generator: it has no synthesis.b4.const, only {listed(tensors)}")
    if any(key.endswith(".skip.weight") for key in tensors):
        raise WeightsError(f"{path} has the architecture 'resnet': expected 'skip', StyleGAN2's own")
    for pattern, attribute, wanted in EXPECTED:
        for name, values in network.attributes.items():
            given = values.get(attribute, wanted)
            if re.fullmatch(pattern, name) and given != wanted:
                where = f"{name}.{attribute}" if name else attribute
                raise WeightsError(f"{path} has {where} {given!r}, the generators of this toolkit have {wanted!r}")


def _clamp(path: Path, network: Network) -> float | None:
    """Find the clamp that all convolutions and toRGB layers share."""
    layers = [values for name, values in network.attributes.items() if re.search(r"\.(conv\d|torgb)$", name)]
    found = dict.fromkeys(values["conv_clamp"] for values in layers if "conv_clamp" in values)
    wrong = [one for one in found if one is not None and not (isinstance(one, int | float) and one > 0)]
    if wrong:
        raise WeightsError(f"{path} has conv_clamp {wrong[0]!r}: expected a number above 0, or none")
    if len(found) > 1:
        raise WeightsError(f"{path} has several conv_clamp, {listed(found)}: expected one for all layers")
    clamp = next(iter(found), None)
    return None if clamp is None else float(clamp)


def _fold_class(path: Path, tensors: StateDict, class_index: int | None) -> None:
    """Make the mapping network of one class out of a conditional one, in place.

    Its first layer takes z beside the embedded class, which is a constant then: it moves into the bias. The weights are
    scaled by 1/sqrt(inputs), of which there are half as many.
    """
    if CLASSES not in tensors:
        if class_index is not None:
            raise WeightsError(f"--class {class_index}: {path} has no classes, leave it out")
        return
    embed, bias = tensors.pop(CLASSES), tensors.pop("mapping.embed.bias")
    count, size = embed.shape[1], len(embed)
    if class_index is None or not 0 <= class_index < count:
        given = "" if class_index is None else f"--class {class_index}: "
        raise WeightsError(f"{given}{path} is a conditional generator: give one class of it, --class 0 to {count - 1}")
    one = embed[:, class_index] / math.sqrt(count) + bias
    one = one * torch.rsqrt(one.square().mean() + 1e-8)
    weight = tensors["mapping.fc0.weight"]
    tensors["mapping.fc0.weight"] = weight[:, :-size] / math.sqrt(2)
    tensors["mapping.fc0.bias"] = tensors["mapping.fc0.bias"] + weight[:, -size:] @ one / math.sqrt(weight.shape[1])


def _with_noise(path: Path, state: StateDict, network: Network) -> StateDict:
    """Add noise of strength 0 to layers that use none."""
    for name, values in network.attributes.items():
        if values.get("use_noise") is False:
            layer = _renamed(f"{name}.noise_strength")
            picture = _renamed(f"{name}.noise_const")
            if layer and picture:
                side = int(values["resolution"])
                state |= {layer[0]: torch.zeros(1), picture[0]: torch.zeros(1, 1, side, side)}
    return state
