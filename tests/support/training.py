"""Tiny trainings: all of the real ones, small enough for tests; in this process, or in processes of their own."""

import json
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from models import TINY_GENERATOR, inputs, tiny_model
from PIL import Image
from torch import nn

from psp_runtime.tasks import TASKS
from psp_train.drawn import draw, sample
from psp_train.losses.distances import Frozen
from psp_train.networks import PSP, EncoderConfig
from psp_train.networks.encoders import build_encoder
from psp_train.recipes import make_recipe
from psp_train.training import distributed
from psp_train.training.build import Setup, build_samples
from psp_train.training.distributed import Process
from psp_train.training.objective import Objective
from psp_train.training.settings import Settings
from psp_train.training.trainer import Trainer

ALONE = Process(0, 1, torch.device("cpu"))

#: Environment of other processes, which compute as this one does with one thread, from the same sources.
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *map(str, sys.path)]), "OMP_NUM_THREADS": "1"}
#: They are forks of a process that has only imported, which takes seconds: once for all of them.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["training", "torch._dynamo"])


class Distance(Frozen):
    """A stand-in for a published network: how differently a random convolution sees two pictures, [B]."""

    def __init__(self, seed: int) -> None:
        super().__init__(nn.Conv2d(3, 6, 4, stride=4, bias=False))
        self.network.weight.copy_(inputs("distance", (6, 3, 4, 4), seed, 0.15))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.network(x) - self.network(y)).float().square().mean((1, 2, 3))


def stand_ins() -> dict[str, nn.Module]:
    """Networks for every loss."""
    return {name: Distance(seed) for seed, name in enumerate(("lpips", "identity", "moco"))}


def draw_faces(folder: Path, count: int = 8) -> Path:
    """Write faces/, labels/ and sketches/ of `count` drawn faces, 64x64 PNG, named a0, a1 ..."""
    kinds = ("faces", "labels", "sketches")
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
    for index, vector in enumerate(sample(count, 5)):
        for kind, pixels in zip(kinds, draw(vector, 64)):
            Image.fromarray(pixels).save(folder / kind / f"a{index}.png")
    return folder


def picture(path: Path, seed: int = 0, size: int = 256) -> Path:
    """A random picture, so that no mirror image or neighbour looks alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def label_map(path: Path, ids) -> Path:
    """A label map of class ids [H,W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)
    return path


def message(error) -> str:
    """The text of an error, which has to be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def make_settings(drawn: Path, out: Path, task: str = "inversion", variant: str | None = None, **values) -> Settings:
    """A training on a folder of `draw_faces`: `values` are those of `Settings` or of the recipe."""
    ours = {name: values.pop(name) for name in list(values) if name in Settings.__dataclass_fields__}
    recipe = make_recipe(task, variant, dict(batch_size=2, steps=6, learning_rate=1e-3) | values)
    source = {"rgb": "faces", "sketch": "sketches", "labels": "labels"}[TASKS[task].input]
    files = dict(data=drawn / source, target=None if source == "faces" else drawn / "faces")
    files |= dict(masks=drawn / "labels") if recipe.mask == "labels" else {}
    every = dict(held_out=2, workers=0, log_every=1, validate_every=3, save_every=2)
    return Settings(recipe, out, **(files | every | ours))


def make_setup(settings: Settings, networks: dict[str, nn.Module] | None = None) -> Setup:
    """What `setup.build` makes, of tiny networks."""
    model = make_model(settings)
    objective = Objective(settings.recipe, networks or stand_ins(), model.latent_avg)
    return Setup(settings.recipe, model, objective, *build_samples(settings))


def make_model(settings: Settings) -> PSP:
    """A fresh tiny encoder over a tiny seeded generator."""
    recipe, model = settings.recipe, tiny_model(task=settings.recipe.task.name)
    torch.manual_seed(recipe.seed)
    styles = TINY_GENERATOR.styles, TINY_GENERATOR.style_dim
    channels = recipe.task.channels + (3 if recipe.encoder.startswith("restyle") else 0)
    config = EncoderConfig(recipe.encoder, channels, *styles, (1, 1, 1, 1), (4, 6, 8, 12), recipe.body)
    model.encoder = build_encoder(config).to(memory_format=torch.channels_last)
    model.latent_avg.copy_(model.latent_avg[0].clone())  # a mean w is the same for all styles
    return model


def make_trainer(settings: Settings, process: Process = ALONE, networks: dict[str, nn.Module] | None = None) -> Trainer:
    """A trainer on its folder, as the command line makes it."""
    settings.out.mkdir(exist_ok=True)
    return Trainer(settings, make_setup(settings, networks), process)


def train(settings: Settings) -> Trainer:
    """Train to the end."""
    trainer = make_trainer(settings)
    trainer.run()
    return trainer


def metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, but for the time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def losses(run: Path) -> list[float]:
    """The training losses of a run."""
    return [line["loss"] for line in metrics(run) if line["split"] == "train"]


def gradients(settings: Settings, process: Process = ALONE, follow: bool = True) -> dict[str, np.ndarray]:
    """The encoder's gradients of the first step, and its BatchNorm statistics after it (not `follow`: as they were).

    In float64, also where the code says float: float32 rounds across the kinks of leaky ReLUs.
    """
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        setup = make_setup(settings)
        setup.model.double(), setup.objective.double()
        trainer, encoder = Trainer(settings, setup, process), setup.model.encoder
        trainer.optimizer.step = lambda: None
        if not follow:
            encoder.eval().train = lambda: None
        trainer.step(1, trainer.batches(0))
    found = {name: p.grad for name, p in encoder.named_parameters()} | dict(encoder.named_buffers())
    return {name: value.numpy() for name, value in found.items()}


def start(settings: Settings, code: str = "", **environment: object) -> ForkServerProcess:
    """Train in a process of its own; `code` runs before. What it says on stderr is added to the file `said`."""
    ours = {name: str(value) for name, value in environment.items()}
    process = FORKS.Process(target=train_alone, args=(json.dumps(settings.to_json()), code, ours))
    with mock.patch.dict(os.environ, ENVIRONMENT):
        process.start()
    return process


def exit_code(process: ForkServerProcess) -> int | None:
    """Wait for the end of a process."""
    process.join()
    return process.exitcode


def said(settings: Settings) -> Path:
    """The file of what processes said on stderr."""
    return settings.out.with_suffix(".err")


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights a run saved at a step."""
    return torch.load(run / f"step_{step:08}.pt", weights_only=True)["state_dict"]


def assert_same_run(a: Path, b: Path, step: int = 6) -> None:
    """The same numbers were logged, and the same weights came out."""
    assert metrics(a) == metrics(b)
    ours, theirs = weights(a, step), weights(b, step)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not list(a.glob(".*.tmp"))


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def largest_error(found: dict, expected: dict) -> float:
    """Largest difference of two sets of arrays, relative to the largest value of each array.

    A bias before a normalisation has no gradient but rounding: values below 1e-6 count as that.
    """
    assert found.keys() == expected.keys()
    errors = {key: np.abs(found[key] - e).max() / max(np.abs(e).max(), 1e-6) for key, e in expected.items()}
    return max(errors.values())


def train_alone(settings: str, code: str, environment: dict[str, str]) -> None:
    """Train in this process, by settings as JSON; where there are more processes, write gradients first."""
    os.environ |= environment
    sys.modules["torch.utils.tensorboard"] = None  # as if not installed: it is slow to import
    settings = Settings.from_json(json.loads(settings))
    with said(settings).open("a") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    exec(code, {})
    with distributed.joined("cpu") as process:
        if process.world > 1:
            np.savez(settings.out.with_name(f"gradients{process.rank}.npz"), **gradients(settings, process))
        make_trainer(settings, process).run()
