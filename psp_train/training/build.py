"""What a training starts from, built of its settings: model, loss and samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from psp_runtime.errors import PspError
from psp_train import demo
from psp_train.checkpoints.generators import load_generator
from psp_train.checkpoints.psp import load_encoder
from psp_train.data import folders
from psp_train.data.samples import Samples
from psp_train.drawn import dataset
from psp_train.losses.published import irse50_state, resnet34_state, resnet50_state
from psp_train.networks import PSP, Generator
from psp_train.networks.config import published_config
from psp_train.recipes import Recipe
from psp_train.training.objective import Objective, demo_networks, load_networks
from psp_train.training.run_folder import RunFolder
from psp_train.training.settings import Settings

#: z vectors whose average w is taken when a generator's file stores none.
MEAN_W_SAMPLES = 100_000

#: A ResNet encoder as small as the demo's own.
DEMO_RESNET: dict[str, Any] = dict(units=(1, 1, 1, 1), widths=(8, 16, 24, 32))


@dataclass(frozen=True)
class Setup:
    """What the loop needs: a model with a frozen generator, its loss, and the samples."""

    recipe: Recipe
    model: PSP
    objective: Objective
    training: Samples
    validation: Samples


def build(settings: Settings, read_label_maps: bool = True) -> Setup:
    """Read and check everything a training needs before it starts. Raises `PspError` for what is missing or wrong.

    `read_label_maps`: look for bad ids in all label maps, too; of several processes one does.
    """
    recipe = settings.recipe
    networks = demo_networks(recipe) if settings.demo else load_networks(recipe, settings.weights)
    model = build_model(settings)
    # Last, as it reads all label maps or draws all faces.
    training, validation = build_samples(settings, read_label_maps)
    return Setup(recipe, model, Objective(recipe, networks, model.latent_avg), training, validation)


def build_samples(settings: Settings, read_label_maps: bool = True) -> tuple[Samples, Samples]:
    """Build training and held-out samples of the settings' folders, whose label maps may be checked first."""
    recipe = settings.recipe
    files = find_files(settings, read_label_maps)
    if recipe.mask == "labels" and files[0].mask is None:
        raise PspError("mask=labels takes the face from label maps: give --masks, their folder")
    kept, held_out = folders.split(files, settings.held_out, recipe.seed)
    how = recipe.flip, recipe.factors, recipe.seed
    return Samples(recipe.task, kept, *how, train=True), Samples(recipe.task, held_out, *how, train=False)


def find_files(settings: Settings, read_label_maps: bool = True) -> list[folders.SampleFiles]:
    """List the samples of the settings' folders, or of the drawn faces. Raises `PspError` for files missing or bad."""
    task = settings.recipe.task
    if settings.demo:
        with_masks = settings.recipe.mask == "labels"
        folder = settings.data or settings.out / "drawn"
        return dataset.sample_files(task, folder, masks=with_masks, count=settings.faces)
    if settings.data is None:
        raise PspError("give --data, the folder of training pictures, or --demo for drawn faces")
    check_apart(settings)
    files = folders.find_samples(task, settings.data, settings.target, settings.masks)
    if read_label_maps:
        folders.check_label_maps(files, task)
    return files


def check_apart(settings: Settings) -> None:
    """Raise `PspError` where a resumed run would find its own pictures among its data."""
    for name in ("data", "target", "masks"):
        folder = getattr(settings, name)
        if folder and settings.out.resolve().is_relative_to(folder.resolve()):
            where = f"--out {settings.out} lies in --{name} {folder}"
            raise PspError(f"{where}: give a folder outside, for a run holds pictures too")


def build_model(settings: Settings) -> PSP:
    """Build an encoder to train over a frozen generator, around its average w. Raises `PspError` for files missing."""
    recipe = settings.recipe
    torch.manual_seed(recipe.seed)
    if settings.demo:
        model, average = demo_model(recipe)
    else:
        model, average = published_model(recipe, settings)
    check_render_size(recipe, model.decoder.config.size)
    if recipe.start_from_average:
        model.latent_avg.copy_(average_w(model.decoder) if average is None else average)
    if not RunFolder(settings.out).steps():  # a resumed run has its own weights, and --init may be gone
        initialise_encoder(model, settings)
    model.decoder.requires_grad_(False).eval()
    model.encoder.to(memory_format=torch.channels_last)
    model.decoder.input.input.data = model.decoder.input.input.data.contiguous(memory_format=torch.channels_last)
    return model


def demo_model(recipe: Recipe) -> tuple[PSP, torch.Tensor]:
    """Build a fresh demo encoder over the bundled generator; give its average w [L,S] too."""
    resnet = recipe.encoder.startswith("resnet")
    config = replace(demo.encoder_config(recipe.task.name), kind=recipe.encoder, body=recipe.body)
    config = replace(config, **(DEMO_RESNET if resnet else {}))
    if config.refines:
        config = replace(config, input_channels=config.input_channels + 3)
    model = PSP(config, demo.GENERATOR, recipe.task.rows(demo.GENERATOR.size))
    generator, average = demo.load_generator()
    model.decoder = generator
    return model, average


def published_model(recipe: Recipe, settings: Settings) -> tuple[PSP, torch.Tensor | None]:
    """Build an encoder of the published size over the StyleGAN2 of a file; give the average w [L,S] it stores, too."""
    if settings.generator is None:
        raise PspError("give --generator, a StyleGAN2 checkpoint (.pt or .pkl), or --demo for the bundled one")
    generator, average = load_generator(settings.generator, settings.class_index)
    channels, config = recipe.task.channels, generator.config
    encoder = published_config(recipe.encoder, channels, config.styles, config.style_dim, recipe.body)
    model = PSP(encoder, config, recipe.task.rows(config.size))
    model.decoder = generator
    return model, average


def check_render_size(recipe: Recipe, size: int) -> None:
    """Raise `PspError` for a render size that no part of a generator of `size` pixels makes."""
    least = 5 if "lpips" in recipe.networks else 3  # LPIPS sees nothing smaller than 32
    sizes = [2**n for n in range(least, size.bit_length())]
    if recipe.render_size not in (None, *sizes):
        raise PspError(f"render_size is {recipe.render_size}, this generator makes {', '.join(map(str, sizes))}")


def average_w(generator: Generator) -> torch.Tensor:
    """Average the w of many seeded z: [S]."""
    z = torch.randn(MEAN_W_SAMPLES, generator.config.style_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([generator.map(part) for part in z.split(10_000)]).mean(0)


def initialise_encoder(model: PSP, settings: Settings) -> None:
    """Start the encoder from a checkpoint, from its published backbone among the weights, or as it is."""
    if settings.init is not None:
        start = load_encoder(settings.init, settings.recipe.encoder)
        wanted = replace(model.encoder.config, input_channels=start.config.input_channels)
        if start.config != wanted:
            raise PspError(f"--init {settings.init} holds another encoder, {start.config}: expected {wanted}")
        load_matching(start.state_dict(), model.encoder)
    elif settings.weights is not None and not settings.demo:
        config = model.encoder.config
        ours = resnet34_state if config.body == "resnet34" else irse50_state
        load_matching((resnet50_state if config.resnet else ours)(settings.weights), model.encoder)


#: The first layer of an encoder, with the normalisation and activation that belong to it.
STEMS = ("input_layer.", "backbone.conv1.", "backbone.bn1.")


def load_matching(state: Mapping[str, torch.Tensor], encoder: torch.nn.Module) -> None:
    """Load what a state dict has of an encoder; one for another kind of input keeps its own first layer."""
    own = encoder.state_dict()
    other = any(value.shape != own[key].shape for key, value in state.items())
    kept = {key: value for key, value in state.items() if not (other and key.startswith(STEMS))}
    encoder.load_state_dict(kept, strict=False)
