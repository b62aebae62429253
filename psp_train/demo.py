"""The bundled demo model: a small pSp over the procedural faces, so that everything runs without downloads.

The weights were made by `tools/train_demo.py`; they are ours, free of the restrictions of the published ones.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from psp_runtime.errors import PspError
from psp_runtime.tasks import get_task
from psp_train.drawn import FACE_DIM
from psp_train.networks import PSP, EncoderConfig, Generator, GeneratorConfig

WEIGHTS = Path(__file__).parent / "weights"
GENERATOR_FILE = "demo_generator.safetensors"
GENERATOR = GeneratorConfig(size=256, style_dim=FACE_DIM, mapping_layers=4, channels=(96, 96, 96, 96, 64, 32, 16))


#: The coarsest layer from which random styles leave 95 % of the pixels in their class. The generator is small and has
#: its colours in coarser layers than the published ones, which have them from 8 on.
MIX_FROM = 4
#: How much wider than FFHQ a drawn face is framed.
CROP_SCALE = 1.28


def encoder_config(task: str) -> EncoderConfig:
    """Return the configuration of a task's demo encoder: a narrow, shallow pSp encoder."""
    return EncoderConfig(
        input_channels=get_task(task).channels,
        styles=GENERATOR.styles,
        style_dim=GENERATOR.style_dim,
        units=(1, 2, 3, 2),
        widths=(8, 24, 64, 48),
    )


def weight_files(task: str) -> tuple[Path, Path]:
    """Name the files of the shared generator and of a task's encoder. Raises `PspError` for a task without a model."""
    encoder = WEIGHTS / f"demo_{task}.safetensors"
    if not encoder.is_file():
        have = ", ".join(sorted(p.stem[5:] for p in WEIGHTS.glob("demo_*.safetensors") if p.stem != "demo_generator"))
        raise PspError(f"no bundled demo model for task {task!r} (there are: {have}): give a --checkpoint")
    return WEIGHTS / GENERATOR_FILE, encoder


def load_demo(task: str = "inversion") -> PSP:
    """Load the bundled model of a task in FP32, in eval mode. Raises `PspError` for a task without one."""
    _, file = weight_files(task)
    model = PSP(encoder_config(task), GENERATOR)
    model.decoder, average = load_generator()
    model.latent_avg.copy_(average)
    model.encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in _read(file).items()})
    return model.eval()


def load_generator() -> tuple[Generator, torch.Tensor]:
    """Load the generator all demo models share, in FP32 and eval mode, and its average w [L,S]."""
    tensors = {key.removeprefix("decoder."): value for key, value in _read(WEIGHTS / GENERATOR_FILE).items()}
    average = tensors.pop("latent_avg")
    generator = Generator(GENERATOR)
    for name, noise in generator.noises.named_buffers():  # a drawn face has no noise to model
        tensors[f"noises.{name}"] = torch.zeros_like(noise)
    generator.load_state_dict(tensors)
    return generator.eval(), average


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a bundled file, FP16 ones as FP32."""
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(file).items()}
