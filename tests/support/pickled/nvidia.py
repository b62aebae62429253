"""Network pickles in NVIDIA's layouts, written without NVIDIA's code: records with its names, attributes and globals.

write_torch(path, tensors)        {"G", "D", "G_ema", ...}, as StyleGAN2-ADA and StyleGAN3 save it
write_tensorflow(path, tensors)   (G, D, Gs), as StyleGAN2 saves it
"""

import json
import pickle
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psp_train.networks import GeneratorConfig
from psp_train.seeded import unit_uniform

FAMILY = Path(__file__).parents[2] / "golden" / "family"
TABLES = json.loads((FAMILY / "nvidia_keys.json").read_text())
TABLES |= {"nv_clamp_64": TABLES["nv_64"], "nv_tf_64": TABLES["nv_64"]}
#: What the embedded source of every module here does, should anybody run it.
SOURCE = "import pathlib\npathlib.Path({trap!r}).touch()\n"


def family_golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file of the family."""
    with np.load(FAMILY / f"{name}.npz") as file:
        return dict(file)


def seeded_tensors(table: str, seed: int) -> dict[str, torch.Tensor]:
    """The tensors of a golden table on its seeded weights (tests/golden/README.md)."""
    return seeded(TABLES[table], seed)


def seeded(table: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
    """The tensors of a table on seeded weights."""
    return {key: torch.from_numpy(np.array(_seeded(key, shape, seed))) for key, shape in table.items()}


def tiny_table(config: GeneratorConfig) -> dict[str, list[int]]:
    """The keys and shapes of a generator of this shape, as NVIDIA's code makes it."""
    dim, widths = config.style_dim, (config.channels[0], *config.channels)
    table = {"synthesis.b4.const": [widths[0], 4, 4], "mapping.w_avg": [dim]}
    for block, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        side = 4 * 2**block
        name = f"synthesis.b{side}"
        convs = {"conv0": inputs, "conv1": outputs} if block else {"conv1": outputs}
        for conv, taken in convs.items():
            table[f"{name}.{conv}.weight"] = [outputs, taken, 3, 3]
            table[f"{name}.{conv}.noise_const"] = [side, side]
            table[f"{name}.{conv}.noise_strength"] = []
        table[f"{name}.torgb.weight"] = [3, outputs, 1, 1]
        table |= {f"{name}.torgb.bias": [3], f"{name}.resample_filter": [4, 4]}
        table |= {f"{name}.{conv}.bias": [outputs] for conv in convs}
        table |= {f"{name}.{conv}.resample_filter": [4, 4] for conv in convs}
        for layer, taken in (convs | {"torgb": outputs}).items():
            table |= {f"{name}.{layer}.affine.weight": [taken, dim], f"{name}.{layer}.affine.bias": [taken]}
    for layer in range(config.mapping_layers):
        table |= {f"mapping.fc{layer}.weight": [dim, dim], f"mapping.fc{layer}.bias": [dim]}
    return table


def _seeded(key: str, shape: list[int], seed: int) -> np.ndarray:
    if key.endswith("resample_filter"):
        taps = np.array([1, 3, 3, 1], np.float32)
        return np.outer(taps, taps) / np.float32(64)
    x = unit_uniform(key, shape, seed)
    if key.endswith("affine.bias"):
        return 1 + np.float32(0.1) * x
    if key.startswith("mapping.fc"):
        return np.float32(100 if key.endswith("weight") else 10) * x
    if key.endswith("torgb.weight"):
        return np.float32(0.3) * x
    if key == "mapping.w_avg":
        return np.float32(0.5) * x
    return np.float32(0.1) * x if key.endswith(("bias", "noise_strength")) else x


class Module:
    """A pickled module: its class's name, tensors, modules inside, and other attributes."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        self.class_name, self.attributes = class_name, attributes
        self.parameters: dict[str, torch.Tensor] = OrderedDict()
        self.buffers: dict[str, torch.Tensor] = OrderedDict()
        self.modules: dict[str, Module] = OrderedDict()

    def __reduce__(self) -> tuple:
        parameters = OrderedDict((k, torch.nn.Parameter(v, requires_grad=False)) for k, v in self.parameters.items())
        names = sys.modules["dnnlib.util"]
        state = {
            "training": False,
            "_parameters": parameters,
            "_buffers": self.buffers,
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": self.modules,
            **self.attributes,
            "_init_args": (),
            "_init_kwargs": names.EasyDict(w_dim=512),
        }
        meta = {"type": "class", "version": 6, "module_src": self.attributes.get("source", ""), "state": state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (
            meta | {"class_name": self.class_name},
        )


@contextmanager
def nvidia_modules() -> Iterator[None]:
    """Modules with the names that pickles of NVIDIA's refer to, while one is written."""
    made = {name: types.ModuleType(name) for name in ("torch_utils.persistence", "dnnlib.util", "dnnlib.tflib.network")}

    def named(module: str, thing: Any) -> None:
        thing.__module__, thing.__qualname__ = module, thing.__name__
        setattr(made[module], thing.__name__, thing)

    class EasyDict(dict):
        pass

    class Network:
        def __init__(self, **state: Any) -> None:
            self.state = state

        def __getstate__(self) -> dict[str, Any]:
            return self.state

    def _reconstruct_persistent_obj(meta: dict) -> None:
        raise AssertionError

    named("dnnlib.util", EasyDict)
    named("dnnlib.tflib.network", Network)
    named("torch_utils.persistence", _reconstruct_persistent_obj)
    sys.modules.update(made | {name: types.ModuleType(name) for name in ("torch_utils", "dnnlib", "dnnlib.tflib")})
    try:
        yield
    finally:
        for name in [one for one in sys.modules if one.split(".")[0] in ("torch_utils", "dnnlib")]:
            del sys.modules[name]


BUFFERS = ("resample_filter", "noise_const", "w_avg")


def module_tree(tensors: dict[str, torch.Tensor], source: str = "", **changes: Any) -> Module:
    """The modules of a generator with these tensors; `changes` replace attributes wherever they are."""
    root = Module("Generator", z_dim=512, c_dim=0, w_dim=512, img_channels=3, source=source)
    for key, value in tensors.items():
        *names, last = key.split(".")
        module, path = root, ""
        for name in names:
            path = f"{path}.{name}".lstrip(".")
            if name not in module.modules:
                module.modules[name] = Module("Layer", **_attributes(path), source=source)
            module = module.modules[name]
        (module.buffers if last in BUFFERS else module.parameters)[last] = value
    for module in _walk(root):
        module.attributes |= {key: value for key, value in changes.items() if key in module.attributes}
    return root


def _walk(module: Module) -> Iterator[Module]:
    yield module
    for inner in module.modules.values():
        yield from _walk(inner)


def _attributes(path: str) -> dict[str, Any]:
    if match := re.fullmatch(r"synthesis\.b(\d+)", path):
        return {"architecture": "skip", "resolution": int(match[1]), "use_fp16": False}
    if match := re.fullmatch(r"synthesis\.b(\d+)\.conv\d", path):
        gains = {"act_gain": np.float64(np.sqrt(2)), "conv_clamp": None, "use_noise": True}
        return {"resolution": int(match[1]), "activation": "lrelu", "padding": 1, **gains}
    if path.endswith("torgb"):
        return {"conv_clamp": None, "weight_gain": np.float64(0.05)}
    if path.startswith("mapping.fc"):
        return {"activation": "lrelu", "bias_gain": 0.01, "weight_gain": 0.01 / np.sqrt(512)}
    return {"activation": "linear", "bias_gain": 1} if path.endswith(("affine", "embed")) else {}


def write_torch(path: Path, tensors: dict[str, torch.Tensor], protocol: int = 4, **changes: Any) -> Path:
    """A pickle of three networks and an augmentation, of which G_ema has the tensors."""
    with nvidia_modules():
        other = Module("Discriminator", c_dim=0)
        other.parameters["weight"] = torch.ones(2, 3).T
        other.buffers["array"] = torch.arange(3)
        content = {
            "training_set_kwargs": sys.modules["dnnlib.util"].EasyDict(path="data.zip", max_size=7),
            "G": other,
            "D": other,
            "G_ema": module_tree(tensors, **changes),
            "augment_pipe": Module("AugmentPipe", Hz=np.arange(4.0), p=np.float32(0.5)),
        }
        path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_tensorflow(
    path: Path, tensors: dict[str, torch.Tensor], protocol: int = 4, version: int = 4, **kwargs: Any
) -> Path:
    """A pickle of three networks of TensorFlow's, the third with the tensors, renamed and changed back."""
    parts: dict[str, list[tuple[str, np.ndarray]]] = {"": [("lod", np.float32(0))], "mapping": [], "synthesis": []}
    for key, value in tensors.items():
        if not key.endswith("resample_filter"):
            part, _, name = tensorflow_name(key).rpartition("!")
            parts[part].append((name, tensorflow_value(key, value.numpy())))
    with nvidia_modules():
        network = sys.modules["dnnlib.tflib.network"].Network
        easy = sys.modules["dnnlib.util"].EasyDict

        def made(variables: list, components: dict) -> Any:
            how = easy(resolution=64, num_channels=3, fmap_base=4096, **kwargs)
            facts = {"version": version, "name": "G", "static_kwargs": how, "build_func_name": "G_main"}
            return network(variables=variables, components=components, build_module_src=SOURCE, **facts)

        components = easy({name: made(parts[name], {}) for name in ("mapping", "synthesis")})
        path.write_bytes(pickle.dumps((made([], {}), made([], {}), made(parts[""], components)), protocol))
    return path


def tensorflow_name(key: str) -> str:
    """COMPONENT!VARIABLE of a tensor."""
    if key == "mapping.w_avg":
        return "!dlatent_avg"
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", key):
        return f"mapping!Dense{match[1]}/{match[2]}"
    if key == "synthesis.b4.const":
        return "synthesis!4x4/Const/const"
    _, block, layer, part = key.split(".", 3)
    side = int(block[1:])
    if part == "noise_const":
        number = 0 if side == 4 else 2 * int(np.log2(side)) - (5 if layer == "conv0" else 4)
        return f"synthesis!noise{number}"
    name = {"conv0": "Conv0_up", "conv1": "Conv" if side == 4 else "Conv1", "torgb": "ToRGB"}[layer]
    part = {"affine.weight": "mod_weight", "affine.bias": "mod_bias"}.get(part, part)
    return f"synthesis!{side}x{side}/{name}/{part}"


def tensorflow_value(key: str, value: np.ndarray) -> np.ndarray:
    """The values as TensorFlow's layout has them."""
    if key.endswith("affine.bias"):
        return value - 1
    if key.endswith("conv0.weight"):
        value = value[:, :, ::-1, ::-1]
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
    if key.endswith("noise_const"):
        return value[None, None]
    if key.endswith(".const"):
        return value[None]
    return np.ascontiguousarray(value.T) if value.ndim == 2 else value
