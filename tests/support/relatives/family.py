"""Models of the rest of the family, e4e and ReStyle, on the seeded weights of their goldens."""

import json
from pathlib import Path

import numpy as np
import torch

from psp_runtime.tasks import TASKS
from psp_train.networks import PSP, GeneratorConfig
from psp_train.networks.config import RESNET34_UNITS, EncoderConfig, published_config
from psp_train.seeded import seeded_state_dict, unit_uniform

GOLDEN = Path(__file__).parents[2] / "golden" / "family"
KEY_TABLES = json.loads((GOLDEN / "key_tables.json").read_text())

#: Golden file -> key table, kind and body of the encoder, size of the generator, task.
FILES = {
    "e4e_64": ("e4e_64", "e4e", "irse", 64, "inversion"),
    "e4e_single": ("e4e_single_64", "w", "irse", 64, "inversion"),
    "e4e_1024": ("e4e_1024", "e4e", "irse", 1024, "inversion"),
    "e4e_cars": ("e4e_512", "e4e", "irse", 512, "cars"),
    "restyle_psp_64": ("restyle_64", "restyle_psp", "irse", 64, "inversion"),
    "restyle_e4e_64": ("restyle_64", "restyle_e4e", "irse", 64, "inversion"),
    "restyle_psp_1024": ("restyle_1024", "restyle_psp", "irse", 1024, "inversion"),
    "restyle_psp_resnet_256": ("restyle_resnet_256", "restyle_psp", "resnet34", 256, "inversion"),
    "restyle_e4e_resnet_cars": ("restyle_resnet_512", "restyle_e4e", "resnet34", 512, "cars"),
    "restyle_fpn_64": ("restyle_fpn_64", "restyle_fpn", "irse", 64, "inversion"),
    "restyle_fpn_resnet_64": ("restyle_fpn_resnet_64", "restyle_fpn", "resnet34", 64, "inversion"),
}
#: Kind and body of an encoder -> its name in `opts["encoder_type"]` of published files.
TYPES = {
    ("psp", "irse"): "GradualStyleEncoder",
    ("e4e", "irse"): "Encoder4Editing",
    ("w", "irse"): "SingleStyleCodeEncoder",
    ("restyle_psp", "irse"): "BackboneEncoder",
    ("restyle_psp", "resnet34"): "ResNetBackboneEncoder",
    ("restyle_e4e", "irse"): "ProgressiveBackboneEncoder",
    ("restyle_e4e", "resnet34"): "ResNetProgressiveBackboneEncoder",
    ("restyle_fpn", "irse"): "GradualStyleEncoder",
    ("restyle_fpn", "resnet34"): "ResNetGradualStyleEncoder",
}
#: Where the middle crop of a picture begins, by the width of the picture.
MIDDLE = {256: (116, 64), 512: (180, 172), 1024: (500, 300)}


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of one golden file."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def golden_model(name: str, seed: int | None = None) -> PSP:
    """The model of a golden file, strictly loaded, on its own seed or another."""
    table, kind, body, size, task = FILES[name]
    seed = int(golden(name)["seed"]) if seed is None else seed
    generator = GeneratorConfig(size)
    config = vars(published_config(kind, 3, generator.styles)) | {"body": body}
    if body == "resnet34":
        config["units"] = RESNET34_UNITS
    with torch.device("meta"):
        model = PSP(EncoderConfig(**config), generator, TASKS[task].rows(size))
    state = {key: torch.from_numpy(value) for key, value in seeded_state_dict(KEY_TABLES[table], seed).items()}
    model.load_state_dict(state, strict=True, assign=True)
    average = unit_uniform("latent_avg", (generator.styles, 512), seed) * np.float32(0.5)
    model.latent_avg = torch.from_numpy(average)
    return model.eval().requires_grad_(False)


def image(seed: int, batch: int = 1, height: int = 256) -> torch.Tensor:
    """The encoder's input of a golden file, [B,3,H,256] in about [-1,1]."""
    return torch.from_numpy(unit_uniform("image", (batch, 3, height, 256), seed) * np.float32(0.5))


def write_checkpoint(path: Path, name: str, seed: int | None = None) -> Path:
    """The model of a golden file as the published code saves it: e4e's with one size in `opts`, ReStyle's another."""
    _, kind, body, size, task = FILES[name]
    opts = {"encoder_type": TYPES[kind, body], "dataset_type": "cars_encode" if task == "cars" else "ffhq_encode"}
    if kind.startswith("restyle"):
        opts |= {"output_size": size, "input_nc": 6, "n_iters_per_batch": 5}
    else:
        opts |= {"stylegan_size": size, "start_from_latent_avg": True}
    model = golden_model(name, seed)
    torch.save({"state_dict": model.state_dict(), "opts": opts, "latent_avg": model.latent_avg}, path)
    return path


def whole_pixels(picture: torch.Tensor, expected: dict[str, np.ndarray], step: int | None = None) -> list[tuple]:
    """Parts of a picture [B,3,H,W] with what a golden file has of them, after one step of several: all, or crops."""
    at = (lambda name: expected[name][: len(picture)]) if step is None else (lambda name: expected[name][step])
    if "image" in expected:
        return [(picture, at("image"))]
    height, width = picture.shape[2:]
    crops = {"crop0": (0, 0), "crop1": MIDDLE[width], "crop2": (height - 16, width - 16)}
    return [(picture[:, :, y : y + 16, x : x + 16], at(name)) for name, (y, x) in crops.items()]
