"""The published weights that training starts from and losses and metrics need: where they are found, and their loading.

Nothing is downloaded: the files lie in one folder, under the names they are published with. torchvision's names end
in the first digits of the file's sha256. All have licences of their own; most are for research only.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from psp_train.checkpoints.state_files import StateDict, WeightsError, load_strictly, read_state_file
from psp_train.losses.distances import LPIPS, IdentityDistance, MoCoDistance
from psp_train.networks.arcface import IR101, IRSE50
from psp_train.networks.config import RESNET34_UNITS, LPIPSNetwork, published_config
from psp_train.networks.encoders import build_encoder
from psp_train.networks.features import VGG16, AlexNet, ResNet50

PIXEL2STYLE2PIXEL_URL = "https://github.com/eladrich/pixel2style2pixel#pretrained-models"
TORCHVISION_URL = "https://download.pytorch.org/models"
LPIPS_URL = "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1"
MOCO_URL = "https://github.com/facebookresearch/moco#models"

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class PublishedFile:
    """One published file.

    `names` are patterns relative to the folder, the first one the published name. Of the file's keys, those that
    start with `prefix` are ours, but for those in which `unused` follows.
    """

    names: tuple[str, ...]
    source: str
    prefix: str = ""
    unused: tuple[str, ...] = ()


#: Purpose -> file. VGG16 has one name only: LPIPS fits these weights alone, and other published files with the same
#: keys and shapes (`vgg16-00b39a1b.pth`, from Caffe) would load and measure nonsense.
FILES = {
    "alexnet": PublishedFile(
        ("alexnet-owt-7be5be79.pth", "alexnet-*.pth"),
        f"{TORCHVISION_URL}/alexnet-owt-7be5be79.pth",
        unused=("classifier.",),
    ),
    "vgg16": PublishedFile(("vgg16-397923af.pth",), f"{TORCHVISION_URL}/vgg16-397923af.pth", unused=("classifier.",)),
    "lpips_alex": PublishedFile(("alex.pth", "lpips_alex.pth", "lpips/alex.pth"), LPIPS_URL),
    "lpips_vgg": PublishedFile(("vgg.pth", "lpips_vgg.pth", "lpips/vgg.pth"), LPIPS_URL),
    "ir_se50": PublishedFile(("model_ir_se50.pth",), PIXEL2STYLE2PIXEL_URL),
    "ir_101": PublishedFile(("CurricularFace_Backbone.pth",), PIXEL2STYLE2PIXEL_URL),
    "moco": PublishedFile(
        ("moco_v2_800ep_pretrain.pth.tar", "moco_v2_800ep_pretrain.pt", "moco_v2_800ep_pretrain.pth"),
        MOCO_URL,
        prefix="module.encoder_q.",
        unused=("fc.",),
    ),
    "resnet34": PublishedFile(
        ("resnet34-b627a593.pth", "resnet34-*.pth"),
        f"{TORCHVISION_URL}/resnet34-b627a593.pth",
        unused=("fc.", "conv1.", "bn1."),  # ReStyle's first layer takes six channels
    ),
    "resnet50": PublishedFile(
        ("resnet50-0676ba61.pth", "resnet50-*.pth"), f"{TORCHVISION_URL}/resnet50-0676ba61.pth", unused=("fc.",)
    ),
}

#: LPIPS network -> purposes of its two files.
LPIPS_FILES: dict[LPIPSNetwork, tuple[str, str]] = {"alex": ("alexnet", "lpips_alex"), "vgg": ("vgg16", "lpips_vgg")}


def find(folder: Path | None, purposes: Sequence[str]) -> dict[str, Path]:
    """Find the files of `purposes` (keys of FILES) in `folder`; one `WeightsError` names all that are missing."""
    found = {purpose: _first_match(folder, FILES[purpose].names) for purpose in purposes}
    missing = [FILES[purpose] for purpose, path in found.items() if path is None]
    if missing:
        wanted = "; ".join(f"{file.names[0]} (from {file.source})" for file in missing)
        raise WeightsError(f"{_where(folder)}; missing: {wanted}")
    return {purpose: path for purpose, path in found.items() if path}


def load_lpips(folder: Path | None, network: LPIPSNetwork = "alex") -> LPIPS:
    """Load LPIPS v0.1 on AlexNet or VGG16. Raises `WeightsError`, as all of these do, for files missing or wrong."""
    features, heads = LPIPS_FILES[network]
    paths = find(folder, (features, heads))
    lpips = LPIPS(_load(AlexNet if network == "alex" else VGG16, folder, features))
    _fill(lpips.heads, paths[heads], FILES[heads])
    return lpips


def load_identity(folder: Path | None) -> IdentityDistance:
    """Load the identity loss: IR-SE50 of ArcFace."""
    return IdentityDistance(_load(IRSE50, folder, "ir_se50"))


def load_similarity(folder: Path | None) -> IdentityDistance:
    """Load the identity metric: IR-101 of CurricularFace. 1 minus its distance is the similarity.

    The paper's tables align each picture anew by MTCNN; this takes the same crop of aligned pictures as the loss, so
    compare its numbers with each other.
    """
    return IdentityDistance(_load(IR101, folder, "ir_101"))


def load_moco(folder: Path | None) -> MoCoDistance:
    """Load the similarity loss for domains other than faces: ResNet-50 of MoCo v2, 800 epochs."""
    return MoCoDistance(_load(ResNet50, folder, "moco"))


def load_resnet50(folder: Path | None) -> ResNet50:
    """Load torchvision's ResNet-50, trained on ImageNet, to be trained on: evaluation mode, weights with gradient."""
    return _load(ResNet50, folder, "resnet50")


def resnet50_state(folder: Path | None) -> StateDict:
    """Load torchvision's ResNet-50 as an encoder's `backbone.*`, to start from; empty where its file is not there.

    The first layer is for 3 channels: an encoder of other input keeps its own.
    """
    return {f"backbone.{key}": value for key, value in _starting_weights(ResNet50, folder, "resnet50").items()}


def resnet34_state(folder: Path | None) -> StateDict:
    """Load the blocks of torchvision's ResNet-34 as ReStyle's `body.*`, to start from; empty without its file."""
    state = _starting_weights(_resnet34_layers, folder, "resnet34")
    first = {f"layer{n}": sum(RESNET34_UNITS[: n - 1]) for n in range(1, 5)}
    parts = {key: key.split(".", 2) for key in state}
    return {f"body.{first[layer] + int(block)}.{name}": state[key] for key, (layer, block, name) in parts.items()}


def _resnet34_layers() -> nn.ModuleDict:
    """Build the blocks of ResNet-34 under torchvision's names: layer1 to layer4."""
    blocks = iter(build_encoder(published_config("restyle_psp", body="resnet34")).body)
    layers = {f"layer{n}": nn.Sequential(*(next(blocks) for _ in range(c))) for n, c in enumerate(RESNET34_UNITS, 1)}
    return nn.ModuleDict(layers)


def irse50_state(folder: Path | None) -> StateDict:
    """Load stem and body of IR-SE50 (`input_layer.*`, `body.*`), to start from; empty where its file is not there.

    The stem is for 3 channels: an encoder of other input loads `body.*` alone.
    """
    state = _starting_weights(IRSE50, folder, "ir_se50")
    return {key: value for key, value in state.items() if not key.startswith("output_layer.")}


def _starting_weights(kind: Callable[[], nn.Module], folder: Path | None, purpose: str) -> StateDict:
    """Load the weights of a published network to train on; warn, and give none, where its file is not there."""
    names = FILES[purpose].names
    if _first_match(folder, names) is None:
        warnings.warn(f"the encoder starts from random weights: no {names[0]} in {folder}", stacklevel=2)
        return {}
    return _load(kind, folder, purpose).state_dict()


def _first_match(folder: Path | None, names: Iterable[str]) -> Path | None:
    """Find the first file that has one of the names; the order of `names` counts, then the alphabet."""
    if folder is None:
        return None
    matches = (path for name in names for path in sorted(Path(folder).glob(name)))
    return next((path for path in matches if path.is_file()), None)


def _where(folder: Path | None) -> str:
    if folder is None:
        return "published weights are needed: give --weights, the folder they are in"
    return f"looked for published weights in {folder}" + ("" if Path(folder).is_dir() else " (no such folder)")


def _load(kind: Callable[[], Network], folder: Path | None, purpose: str) -> Network:
    """Build a network and fill it from the file of `purpose`; in evaluation mode, FP32, on the CPU."""
    path = find(folder, [purpose])[purpose]
    with torch.device("meta"):
        network = kind()
    _fill(network, path, FILES[purpose])
    return network.eval()


def _fill(module: nn.Module, path: Path, file: PublishedFile) -> None:
    """Load a file strictly into a module, in the module's types."""
    state = _network_part(read_state_file(path, "download it again"), file)
    for key in module.state_dict():
        if key.endswith("num_batches_tracked"):  # not in files of PyTorch before 0.4.1, and of no effect here
            state.setdefault(file.prefix + key, torch.tensor(0))
    misfit = f"{path} does not fit {file.names[0]} as published at {file.source}"
    load_strictly(module, state, misfit, file.prefix)


def _network_part(data: Mapping[str, object], file: PublishedFile) -> StateDict:
    """Take the network's part of a file: without others, such as a classifier or an optimizer."""
    inner = data.get("state_dict", data)
    state = {str(key): value for key, value in inner.items()} if isinstance(inner, Mapping) else {}
    unused = tuple(file.prefix + name for name in file.unused)
    return {key: value for key, value in state.items() if key.startswith(file.prefix) and not key.startswith(unused)}
