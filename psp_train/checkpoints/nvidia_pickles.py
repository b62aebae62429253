"""NVIDIA's network pickles opened as data: tensors and attributes, by the names NVIDIA's code gives them.

    PyTorch      {"G", "D", "G_ema", …}: StyleGAN2-ADA, StyleGAN3 and what trains with their code
    TensorFlow   (G, D, Gs): StyleGAN2 and StyleGAN2-ADA before

Both carry the source of their networks, which NVIDIA's own code runs to open them. Here it is never looked at: modules
become records of their attributes, and the numbers of a tensor, a stream of `torch.save` inside of the pickle, are
read with `weights_only` when they are wanted.
"""

import io
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from psp_runtime.arrays.numpy_pickles import NUMPY_GLOBALS, PickledArray
from psp_runtime.arrays.pickles import ForbiddenError, Record, StandIn, Table, load
from psp_runtime.arrays.torch_files import OLDER, TensorView, views_of
from psp_train.checkpoints.state_files import StateDict, WeightsError, listed

#: Modules of one network, one inside of the other: published generators have four levels and some hundred modules.
MOST_LEVELS, MOST_MODULES = 10, 10_000
#: TensorFlow networks before hold their variables in another way (version 4 is that of StyleGAN2).
TENSORFLOW_VERSION = 4


@dataclass(frozen=True)
class Network:
    """A generator as it was pickled: `tensors` by name, and the attributes of each module by its name ("": the whole).

    `tensorflow` says which layout the names are of.
    """

    tensorflow: bool
    tensors: StateDict = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Module(NamedTuple):
    """What stands for a module: the name of its class, and its state."""

    class_name: str
    state: dict[str, Any]


class _Storage(NamedTuple):
    """The numbers of a tensor: a stream of `torch.save`."""

    stream: bytes


class _TFNetwork(Record):
    """What stands for a network of TensorFlow's layout: its state."""

    __slots__ = ()


def _module(meta: Any) -> _Module:
    """Take a module without its source, `module_src`."""
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise ForbiddenError("it holds a module without a state")
    return _Module(str(meta.get("class_name")), meta["state"])


def _storage(stream: Any) -> _Storage:
    if not isinstance(stream, bytes):
        raise ForbiddenError("it holds a tensor without numbers")
    return _Storage(stream)


_SET = StandIn(lambda items=(): set(items))
GLOBALS: dict[str, Any] = {
    **NUMPY_GLOBALS,
    "torch_utils.persistence._reconstruct_persistent_obj": StandIn(_module),
    "torch._utils._rebuild_parameter": StandIn(lambda tensor, *_: tensor),
    "torch._utils._rebuild_tensor_v2": views_of(_Storage),
    "torch.storage._load_from_bytes": StandIn(_storage),
    "collections.OrderedDict": Table,
    "dnnlib.util.EasyDict": Record,
    "builtins.set": _SET,
    "__builtin__.set": _SET,
    "dnnlib.tflib.network.Network": _TFNetwork,
}


def is_pickle(path: Path) -> bool:
    """Tell a bare pickle from PyTorch's own files, of which the older ones are pickles as well."""
    with path.open("rb") as file:
        start = file.read(len(OLDER))
    return start[:1] == OLDER[:1] and start != OLDER


def read_network(path: Path) -> Network:
    """Read the generator of a network pickle: `G_ema`, or the third of TensorFlow's three.

    Raises `WeightsError` for another file, a damaged one, and one that would have to run code.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            limit = len(data)
            content = load(data, GLOBALS)
        return _network(path, content, limit)
    except WeightsError:
        raise
    except ForbiddenError as error:
        raise WeightsError(
            f"{path} holds more than weights and was not opened: {error} (expected an NVIDIA network pickle of "
            "StyleGAN2, whose tensors are read without running anything)"
        ) from None
    except PermissionError:
        raise WeightsError(f"{path} may not be read: check its permissions") from None
    except Exception:  # of a damaged pickle nearly any
        raise WeightsError(f"{path} is not a network pickle, or is cut off: take the file as published") from None


def _network(path: Path, content: Any, limit: int) -> Network:
    network = content.get("G_ema") if isinstance(content, dict) else content
    if isinstance(network, _Module):
        return _torch_network(network, limit)
    if isinstance(content, tuple | list) and len(content) == 3 and isinstance(content[2], _TFNetwork):
        return _tensorflow_network(path, content[2])
    found = listed(content) if isinstance(content, dict) else f"a {type(content).__name__}"
    raise WeightsError(
        f"{path} is a pickle without a generator: expected G_ema, or TensorFlow's (G, D, Gs), found {found}"
    )


def _torch_network(module: _Module, limit: int) -> Network:
    network, size = Network(tensorflow=False), 0
    for name, state in _modules(module):
        prefix = f"{name}." if name else ""
        left_out = state.get("_non_persistent_buffers_set") or ()
        for key, value in (*_group(state, "_parameters"), *_group(state, "_buffers")):
            if isinstance(value, TensorView) and key not in left_out:
                made = network.tensors[prefix + key] = _make_tensor(value)
                size += made.nbytes
        if size > limit:
            raise ForbiddenError(f"its tensors would take {size} bytes, out of a file of {limit}")
        network.attributes[name] = {key: value for key, value in state.items() if not str(key).startswith("_")}
    return network


def _modules(module: _Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk all modules, each with its name and state."""
    waiting, count = [("", module, 1)], 0
    while waiting:
        name, one, level = waiting.pop()
        count += 1
        if level > MOST_LEVELS or count > MOST_MODULES:
            raise ForbiddenError(f"it nests modules more than {MOST_LEVELS} deep, or has more than {MOST_MODULES}")
        yield name, one.state
        inner = [(key, value) for key, value in _group(one.state, "_modules") if isinstance(value, _Module)]
        waiting += [(f"{name}.{key}" if name else str(key), value, level + 1) for key, value in inner]


def _group(state: dict[str, Any], name: str) -> list[tuple[Any, Any]]:
    group = state.get(name)
    if not isinstance(group, dict):
        raise ForbiddenError(f"it holds a module without {name}")
    return list(group.items())


def _make_tensor(tensor: TensorView) -> torch.Tensor:
    """Read the numbers of a tensor, and take what it views of them."""
    try:
        storage = torch.load(io.BytesIO(tensor.storage.stream), map_location="cpu", weights_only=True)
    except Exception:  # its message advises to open the file in the way that runs code
        raise ForbiddenError("the numbers of a tensor are damaged, or more than numbers") from None
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ForbiddenError(f"the numbers of a tensor are a {type(storage).__name__}")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage)
    tensor.check(len(flat))
    return flat.as_strided(tensor.shape, tensor.strides, tensor.offset).clone()


def _tensorflow_network(path: Path, network: _TFNetwork) -> Network:
    if network.get("version", 0) < TENSORFLOW_VERSION:
        raise WeightsError(
            f"{path} is a TensorFlow network of version {network.get('version')}, older than StyleGAN2: expected "
            f"{TENSORFLOW_VERSION} or newer"
        )
    found = Network(tensorflow=True, attributes={"": dict(network.get("static_kwargs") or {})})
    components = network.get("components") or {}
    parts = {"": network, **{f"{name}/": part for name, part in components.items() if isinstance(part, _TFNetwork)}}
    for prefix, part in parts.items():
        for name, value in part.get("variables") or ():
            value = value.value if isinstance(value, PickledArray) else value
            if not isinstance(value, np.ndarray | float | int):
                raise ForbiddenError(f"its variable {name!r:.40} is a {type(value).__name__}")
            found.tensors[prefix + str(name)] = torch.from_numpy(np.array(value, np.float32))
    return found
