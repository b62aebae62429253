"""Variables of NVIDIA's TensorFlow generators under the names of the PyTorch ones, changed as those differ."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from psp_train.checkpoints.nvidia_pickles import Network
from psp_train.checkpoints.state_files import StateDict, WeightsError, listed

Change = Callable[[torch.Tensor], torch.Tensor]


def _keep(x: torch.Tensor) -> torch.Tensor:
    return x


def _transposed(x: torch.Tensor) -> torch.Tensor:
    return x.T


def _outputs_first(x: torch.Tensor) -> torch.Tensor:
    """[k,k,I,O] -> [O,I,k,k]."""
    return x.permute(3, 2, 0, 1)


def _flipped(x: torch.Tensor) -> torch.Tensor:
    """The same, turned: TensorFlow's transposed convolution takes the kernel the other way round."""
    return _outputs_first(x).flip(2, 3)


def _plus_one(x: torch.Tensor) -> torch.Tensor:
    """The 1 that is added to styles stands in the bias in PyTorch."""
    return x + 1


_TENSORS: dict[str, tuple[str, Change]] = {
    "weight": ("weight", _outputs_first),
    "bias": ("bias", _keep),
    "mod_weight": ("affine.weight", _transposed),
    "mod_bias": ("affine.bias", _plus_one),
    "noise_strength": ("noise_strength", _keep),
}
_UPSAMPLING = _TENSORS | {"weight": ("weight", _flipped)}
_LINEAR: dict[str, tuple[str, Change]] = {"weight": ("weight", _transposed), "bias": ("bias", _keep)}
#: Modules: their names in PyTorch, and their variables.
MODULES = (
    (r"mapping/LabelEmbed", "mapping.embed", _LINEAR),
    (r"mapping/Dense(\d+)", r"mapping.fc\1", _LINEAR),
    (r"synthesis/4x4/Const", "synthesis.b4", {"const": ("const", lambda x: x[0])}),
    (r"synthesis/4x4/Conv", "synthesis.b4.conv1", _TENSORS),
    (r"synthesis/(\d+)x\d+/Conv0_up", r"synthesis.b\1.conv0", _UPSAMPLING),
    (r"synthesis/(\d+)x\d+/Conv1", r"synthesis.b\1.conv1", _TENSORS),
    (r"synthesis/(\d+)x\d+/ToRGB", r"synthesis.b\1.torgb", _TENSORS),
    (r"synthesis/(\d+)x\d+/Skip", r"synthesis.b\1.skip", {"weight": ("weight", _outputs_first)}),
)
#: Variables that only the training uses.
UNUSED = ("lod",)
FILTER = [1, 3, 3, 1]


def with_torch_names(path: Path, network: Network) -> Network:
    """Give a network of TensorFlow's layout the names and values of PyTorch's.

    Filters are not among the variables. Raises `WeightsError` for variables that no table knows, and for a filter that
    is not StyleGAN2's.
    """
    given = network.attributes[""]
    if list(given.get("resample_kernel") or FILTER) != FILTER:
        raise WeightsError(f"{path} has the filter {given['resample_kernel']}: expected {FILTER}")
    renamed = {name: _renamed(name) for name in network.tensors if name not in UNUSED}
    unknown = [name for name, found in renamed.items() if found is None]
    if unknown:
        raise WeightsError(f"{path} is no StyleGAN2 generator as this toolkit knows it: it also has {listed(unknown)}")
    tensors = {found[0]: found[1](network.tensors[name]).contiguous() for name, found in renamed.items() if found}
    return Network(False, tensors, _attributes(given, tensors))


def _renamed(name: str) -> tuple[str, Change] | None:
    """Give PyTorch's name of a variable and how its values change; None for an unknown one."""
    if name == "dlatent_avg":
        return "mapping.w_avg", _keep
    if match := re.fullmatch(r"synthesis/noise(\d+)", name):
        return f"synthesis.{_noise_layer(int(match[1]))}.noise_const", lambda x: x[0, 0]
    for pattern, module, parts in MODULES:
        match = re.fullmatch(rf"({pattern})/(?P<part>{'|'.join(parts)})", name)
        if match:
            part, change = parts[match["part"]]
            return f"{re.sub(pattern, module, match[1])}.{part}", change
    return None


def _noise_layer(number: int) -> str:
    """Name the convolution of a noise: one of 4x4, then two of each resolution."""
    return f"b{2 ** ((number + 5) // 2)}.conv{(number + 1) % 2}"


def _attributes(given: dict[str, Any], tensors: StateDict) -> dict[str, dict[str, Any]]:
    """Give each module the attributes that it would have in PyTorch; what is not given has TensorFlow's defaults."""
    linear = {"activation": given.get("mapping_nonlinearity", "lrelu"), "bias_gain": given.get("mapping_lrmul", 0.01)}
    block = {"architecture": given.get("architecture", "skip")}
    layer = {"activation": given.get("nonlinearity", "lrelu"), "conv_clamp": given.get("conv_clamp")}
    found = {"": {"img_channels": given.get("num_channels", 3)}}
    for key in tensors:
        module = key.rpartition(".")[0].removesuffix(".affine")
        if module.startswith("mapping.fc"):
            found[module] = linear
        elif match := re.match(r"synthesis\.b(\d+)\.", key):
            found[f"synthesis.b{match[1]}"] = block
            found[module] = layer | {"resolution": int(match[1]), "use_noise": given.get("use_noise", True)}
    return found
