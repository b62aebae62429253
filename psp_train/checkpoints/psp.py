"""Published checkpoints read and written: {"state_dict": encoder.* + decoder.*, "opts": {...}, "latent_avg": tensor}.

Everything about the architecture is read off the shapes in the file, so old files that lack an option load too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from psp_runtime.disk import sha256_of
from psp_runtime.tasks import ITERATIONS, MOST_ITERATIONS, TASKS, Task, get_task
from psp_train import demo
from psp_train.checkpoints import family
from psp_train.checkpoints.architecture import encoder_config, generator_config
from psp_train.checkpoints.layouts import as_tensor, check_heads, starts_from_average, state_dict_of
from psp_train.checkpoints.nvidia_pickles import is_pickle
from psp_train.checkpoints.records import odd_kind, plain_opts
from psp_train.checkpoints.state_files import StateDict, WeightsError, load_strictly, read_state_file
from psp_train.networks import PSP, EncoderConfig, GeneratorConfig
from psp_train.recipes import Recipe

PUBLISHED_LICENSE = (
    "Weights: the licence of your checkpoint applies. The published pSp and StyleGAN2 FFHQ weights are for "
    "non-commercial use only (NVIDIA Source Code License-NC; FFHQ is CC BY-NC-SA 4.0)."
)
DEMO_LICENSE = "Weights: the bundled demo model, under the MIT licence of this toolkit."


#: The published checkpoints, and where they are.
PUBLISHED_NAMES = (
    "psp_ffhq_encode.pt",
    "psp_ffhq_frontalization.pt",
    "psp_ffhq_toonify.pt",
    "psp_celebs_sketch_to_face.pt",
    "psp_celebs_seg_to_face.pt",
    "psp_celebs_super_resolution.pt",
)
PUBLISHED_AT = "https://github.com/eladrich/pixel2style2pixel#pretrained-models"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model (FP32, eval mode) with what its file says about it.

    `sha256` is that of the file, `license` one line about its weights, `name` what to call it in reports.
    """

    model: PSP
    task: Task
    encoder: EncoderConfig
    generator: GeneratorConfig
    sha256: str
    license: str
    name: str

    @property
    def crop_scale(self) -> float:
        """Say how wide the inputs are framed, against FFHQ: drawn faces show more around them."""
        return demo.CROP_SCALE if self.generator == demo.GENERATOR else 1.0

    @property
    def mix_layers(self) -> tuple[int, ...]:
        """Name the layers random styles replace by default: those of the task, coarser ones of the demo generator."""
        task = self.task
        if self.generator == demo.GENERATOR:
            task = replace(task, mix_from=min(task.mix_from, demo.MIX_FROM))
        return task.mix_layers(self.generator.styles)


def load_checkpoint(path: str | Path, task: str | None = None, encoder: str | None = None) -> Checkpoint:
    """Load a published checkpoint of pSp, e4e or ReStyle, or one that psp-train wrote.

    `task` is needed only when the file names none that is known here, `encoder` (a kind, such as "e4e") only when
    neither its options nor its shapes say which it is; those that contradict the file are an error. Raises
    `WeightsError` for anything but a complete checkpoint of these.
    """
    path = Path(path)
    file = _read_contents(path, encoder)
    chosen = _choose_task(path, file.opts, task)
    family.check_channels(path, file.encoder.kind, file.state, chosen)
    model = _build_model(path, file, chosen)
    model.iterations = _trained_iterations(file.opts)
    if file.average is None and (file.encoder.refines or file.opts.get("start_from_latent_avg")):
        kind = family.family_name(file.encoder.kind)
        raise WeightsError(
            f"{path} is a checkpoint of {kind} without latent_avg, which its encoder starts from: "
            "take the file as published"
        )
    average = file.average if file.encoder.refines or starts_from_average(file.opts) else None
    model.latent_avg = shaped_average(path, average, file.generator)
    return Checkpoint(model, chosen, file.encoder, file.generator, sha256_of(path), PUBLISHED_LICENSE, path.name)


def load_encoder(path: str | Path, kind: str | None = None) -> torch.nn.Module:
    """Load the encoder of a checkpoint, whatever task it was trained for; its `config` says what it is.

    `kind` is what it is taken for where the file leaves a choice. Raises `WeightsError` for anything but a complete
    checkpoint.
    """
    path = Path(path)
    return _build_model(path, _read_contents(path, kind, strictly=False), TASKS["inversion"]).encoder


class _Contents(NamedTuple):
    """What a pSp checkpoint holds."""

    state: StateDict
    opts: Mapping[str, Any]
    average: Any
    encoder: EncoderConfig
    generator: GeneratorConfig


def _read_contents(path: Path, asked: str | None = None, strictly: bool = True) -> _Contents:
    if path.name in PUBLISHED_NAMES and not path.is_file():
        raise WeightsError(f"no checkpoint at {path}: it is published at {PUBLISHED_AT}, download it first")
    if path.is_file() and is_pickle(path):
        raise WeightsError(
            f"{path} is a bare pickle, as NVIDIA's generators are, not a pSp checkpoint: --generator puts it under the "
            "encoder of one"
        )
    data = read_state_file(path, "expected a complete pSp .pt file")
    if "g_ema" in data:
        raise WeightsError(
            f"{path} is a StyleGAN2 generator without an encoder: expected a pSp checkpoint; --generator puts it under "
            "the encoder of one"
        )
    state, opts = state_dict_of(path, data), data.get("opts")
    try:
        opts = plain_opts(opts)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    generator = replace(read_shapes(path, generator_config, state, "decoder."), conv_clamp=opts.get("conv_clamp"))
    family.refuse_relatives(path, state)
    check_heads(path, state, opts, generator)
    kind = read_shapes(path, family.choose_kind, path, opts, state, asked, strictly)
    encoder = read_shapes(path, encoder_config, state, generator, kind)
    state = family.drop_surplus_heads(state, generator.styles)
    return _Contents(state, opts, as_tensor(data.get("latent_avg")), encoder, generator)


def _build_model(path: Path, contents: _Contents, task: Task) -> PSP:
    with torch.device("meta"):
        model = PSP(contents.encoder, contents.generator, task.rows(contents.generator.size))
    load_strictly(model, contents.state, f"{path} does not fit the architecture")
    return model.eval()


def load_demo_checkpoint(task: str | None = None) -> Checkpoint:
    """Load the bundled demo model of a task (by default of inversion). Raises `PspError` for a task without one."""
    chosen = get_task(task or "inversion")
    model = demo.load_demo(chosen.name)
    digest = sha256_of(*demo.weight_files(chosen.name))
    config = demo.encoder_config(chosen.name)
    return Checkpoint(model, chosen, config, demo.GENERATOR, digest, DEMO_LICENSE, "bundled demo model")


def checkpoint_dict(model: PSP, recipe: Recipe) -> dict[str, Any]:
    """Arrange a model as the released code stores it, so that this code reads it back and so does `load_checkpoint`.

    `opts` holds the names and sizes the released code looks up, and, under `psp_toolkit`, the whole recipe.
    """
    config, task = model.encoder.config, recipe.task
    only_w = config.kind == "w"  # the released code adds one vector to one
    opts = {
        "dataset_type": task.reference or TASKS["inversion"].reference,
        "encoder_type": family.type_name(config.kind, config.body),
        "output_size": model.decoder.config.size,
        "input_nc": config.input_channels,
        # 0 means colours there, and 1 sketches: the released code reads pictures in grey for anything but 0.
        "label_nc": 0 if task.input == "rgb" else config.input_channels,
        "start_from_latent_avg": True,
        "conv_clamp": model.decoder.config.conv_clamp,  # of NVIDIA's generators; the released code has none
        "device": "cuda:0",  # where the released code puts the average w; it cannot do without
        "learn_in_w": only_w,
        "resize_factors": ",".join(map(str, recipe.factors)) if task.name == "super_resolution" else None,
        "psp_toolkit": recipe.to_json(),
    }
    latent_avg = model.latent_avg[:1] if only_w else model.latent_avg
    return {"state_dict": _state_dict(model), "opts": opts, "latent_avg": latent_avg.detach().cpu().clone()}


def _state_dict(model: PSP) -> StateDict:
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}


def read_shapes(path: Path, reader: Any, *args: Any) -> Any:
    """Run a reader of shapes; a key it needs and does not find means another architecture."""
    try:
        return reader(*args)
    except (KeyError, IndexError, AttributeError) as error:
        raise WeightsError(f"{path} is not a checkpoint of pSp over StyleGAN2: it lacks {error}") from None


def _choose_task(path: Path, opts: Mapping[str, Any], wanted: str | None) -> Task:
    """Choose the task the file names, unless `wanted` refines it; an unknown or absent name needs `wanted`."""
    name, ours, stored = opts.get("dataset_type"), opts.get("psp_toolkit"), family.stored_task(opts)
    if wanted is None and stored is None:
        known = ", ".join(TASKS)
        raise WeightsError(f"{path} does not say which task it is for ({name!r}): give --task, one of {known}")
    task = stored if wanted is None else get_task(wanted)
    assert task is not None
    # Tasks without a published name (inpainting, toonify) are trained with the inversion data set type.
    same = stored is None or task is stored or (task.reference is None and stored.name == "inversion" and not ours)
    if not same:
        raise WeightsError(f"--task {wanted} contradicts {path}, which is for {stored.name} ({name})")
    return task


def _trained_iterations(opts: Mapping[str, Any]) -> int:
    """Read how many steps of ReStyle a checkpoint of ours was trained for; those of the paper where it is one or none.

    One step is a pSp of six channels, which the further ones still refine.
    """
    steps = opts.get("psp_toolkit", {}).get("iterations")
    return steps if isinstance(steps, int) and 1 < steps <= MOST_ITERATIONS else ITERATIONS


def shaped_average(path: Path, average: torch.Tensor | None, config: GeneratorConfig) -> torch.Tensor:
    """Bring [L,S], [1,S], [S], the 18 rows of e4e's older files, or nothing to [L,S]."""
    shape = (config.styles, config.style_dim)
    if average is None:
        return torch.zeros(shape)
    if not isinstance(average, torch.Tensor):
        raise WeightsError(f"{path}: latent_avg is a {type(average).__name__}, expected a tensor {list(shape)}")
    if odd_kind(average):
        raise WeightsError(f"{path}: latent_avg is {odd_kind(average)}, expected plain numbers {list(shape)}")
    try:
        rows = average.float().reshape(-1, config.style_dim)
        return (rows[: config.styles] if len(rows) == 18 else rows).expand(shape).contiguous()
    except RuntimeError:
        raise WeightsError(f"{path}: latent_avg has shape {list(average.shape)}, expected {list(shape)}") from None
