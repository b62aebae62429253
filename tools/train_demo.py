"""Make the generator of the bundled demo models: draw faces, fit it, pack the weights.

    python tools/train_demo.py --work runs/demo_model

The generator is fitted by regression (face vector in, drawn face out), first at 32x32, then at 64, 128 and 256: the
low-resolution layers, which hold the pose and the shapes, learn where a step is cheap; the last stage trains its new
layers only. Every stage leaves its result in the work folder and is skipped when that exists. The encoders are trained
over it with psp-train (docs/training.md).
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from psp_train import demo
from psp_train.drawn.faces import FACE_DIM, PARAMETERS, draw, sample
from psp_train.networks import Generator, GeneratorConfig
from psp_train.workers import worker_pool

TRAIN_SEED, HELD_OUT_SEED, TORCH_SEED = 1, 2, 0
TRAIN_FACES, HELD_OUT_FACES = 16_000, 200
# Size: steps and batch. The coarse stages are cheap, and there the network learns what the face vector means.
GENERATOR_STAGES = {32: (6000, 32), 64: (4000, 16), 128: (1200, 16), 256: (350, 16)}
# Nose, glasses, eyes, brows, mouth and lips.
FEATURES = (2, 3, 4, 5, 6, 7, 10, 11, 12)


def draw_one(z):
    """RGB and, as a fourth channel, where the small features are: uint8 [256,256,4]."""
    face = draw(z)
    features = np.where(np.isin(face.labels, FEATURES), 255, 0).astype(np.uint8)
    return np.concatenate([face.image, features[..., None]], axis=-1)


def draw_faces(work: Path, name: str, count: int, seed: int) -> tuple[torch.Tensor, dict[int, np.ndarray]]:
    """Face vectors [N,64], and memory maps uint8 [N,size,size,4] of the drawn faces by size."""
    z, path = sample(count, seed), work / f"{name}_256.npy"
    if not path.exists():
        with worker_pool() as pool:
            save_rows(path, count, 256, pool.map(draw_one, z, chunksize=64))
    data = {256: np.load(path, mmap_mode="r")}
    for size in (128, 64, 32):
        path = work / f"{name}_{size}.npy"
        if not path.exists():
            save_rows(path, count, size, (halve(row) for row in data[2 * size]))
        data[size] = np.load(path, mmap_mode="r")
    return torch.from_numpy(z), data


def save_rows(path: Path, count: int, size: int, rows) -> None:
    part = path.with_suffix(".part")
    array = np.lib.format.open_memmap(part, "w+", np.uint8, (count, size, size, 4))
    for i, row in enumerate(rows):
        array[i] = row
    array.flush()
    part.rename(path)


def halve(picture: np.ndarray) -> np.ndarray:
    """Mean of every 2x2 pixels, rounded: uint8 [H,W,4] -> [H/2,W/2,4]."""
    total = picture.reshape(len(picture) // 2, 2, -1, 2, 4).sum((1, 3), dtype=np.uint16)
    return ((total + 2) // 4).astype(np.uint8)


def batch(data, rows):
    """Pictures [B,3,size,size] in [-1,1] and the weight of each pixel [B,1,size,size]: small features count twice."""
    pixels = torch.from_numpy(np.ascontiguousarray(data[rows].transpose(0, 3, 1, 2))).float()
    return pixels[:, :3] / 127.5 - 1, 1 + pixels[:, 3:] / 255


def picture_loss(image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Squared error, plus a little absolute error for sharp edges."""
    difference = image.float() - target
    return ((difference.square() + 0.1 * difference.abs()) * weight).mean()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over the batch of the PSNR of pictures in [-1,1]."""
    mse = (a.clamp(-1, 1) - b).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / mse)).mean())


def schedule(step: int, steps: int) -> float:
    """Warm up, hold, and fall to zero over the last half."""
    return min((step + 1) / 100, 1.0, 2 * (steps - step) / steps)


def train(steps: int, rates: list[dict], loss_of, report, average: torch.nn.Module, source: torch.nn.Module):
    """Adam with the schedule above; `average` follows `source` as an exponential moving average."""
    optimizer = torch.optim.Adam(rates, betas=(0.9, 0.99))
    base = [group["lr"] for group in optimizer.param_groups]
    start = time.time()
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * schedule(step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(step)
        loss.backward()
        optimizer.step()
        keep = min(0.995, step / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), source.state_dict().values(), strict=True):
                slow.lerp_(fast, 1 - keep) if slow.is_floating_point() else slow.copy_(fast)
        if step % 250 == 249:
            print(f"step {step + 1}/{steps} {time.time() - start:.0f} s loss {loss:.4f} {report()}", flush=True)


def generator_at(size: int, previous: Generator | None) -> Generator:
    """A generator of that size, continuing the layers of a smaller one."""
    config = GeneratorConfig(size, FACE_DIM, demo.GENERATOR.mapping_layers, demo.GENERATOR.channels)
    generator = Generator(config)
    for noise in generator.noises.tensors():  # drawn faces have nothing for noise to explain
        noise.zero_()
    if previous is not None:
        generator.load_state_dict(previous.state_dict(), strict=False)
    ignore_unused_coordinates(generator.style[1].weight)
    generator.input.input.data = generator.input.input.data.to(memory_format=torch.channels_last)
    return generator


def ignore_unused_coordinates(weight: torch.nn.Parameter) -> None:
    """Only the first coordinates of a face vector are drawn: keep the mapping network's other inputs at zero."""
    used = (torch.arange(FACE_DIM) < len(PARAMETERS)).float()
    weight.data *= used
    weight.register_hook(lambda gradient: gradient * used)


def fit_generator(work: Path, z, data, z_held, held) -> Generator:
    """Regress drawn faces from face vectors, doubling the resolution from stage to stage."""
    average = None
    for size in GENERATOR_STAGES:
        torch.manual_seed(TORCH_SEED)  # a skipped stage must not change the next one
        path = work / f"generator_{size}.pt"
        generator = generator_at(size, average)
        average = copy.deepcopy(generator)
        if path.exists():
            average.load_state_dict(torch.load(path, weights_only=True))
            continue
        print(f"generator at {size}")
        fit_stage(generator, average, z, data[size], z_held, held[size])
        torch.save(average.state_dict(), path)
    return average


def fit_stage(generator, average, z, data, z_held, held):
    size, styles = generator.config.size, generator.config.styles
    steps, count = GENERATOR_STAGES[size]
    if size == max(GENERATOR_STAGES):  # new layers only: cheap, and the smaller generator stays a part of this one
        freeze_smaller(generator)
    synthesize = torch.compile(generator)
    rng = np.random.default_rng(size)

    def loss_of(_):
        rows = np.sort(rng.choice(len(data), count, replace=False))
        target, weight = batch(data, rows)
        w = generator.map(z[rows])
        with torch.autocast("cpu", torch.bfloat16):
            image = synthesize(w[:, None].expand(-1, styles, -1))
        return picture_loss(image, target, weight)

    def report():
        rows = np.arange(64)
        with torch.no_grad():
            image = average(average.map(z_held[rows])[:, None].expand(-1, styles, -1))
        return f"held-out PSNR {psnr(image, batch(held, rows)[0]):.2f} dB"

    trained = [(name, p) for name, p in generator.named_parameters() if p.requires_grad and "noise" not in name]
    mapping = [p for name, p in trained if name.startswith("style.")]
    others = [p for name, p in trained if not name.startswith("style.")]
    # The mapping network's weights are 100 times larger (lr_mul 0.01): give them the same relative step.
    rates = [{"params": others, "lr": 3e-3}] + ([{"params": mapping, "lr": 0.2}] if mapping else [])
    train(steps, rates, loss_of, report, average, generator)


def freeze_smaller(generator: Generator) -> None:
    """Leave only the layers of the last resolution trainable."""
    generator.requires_grad_(False)
    for layer in (*generator.convs[-2:], generator.to_rgbs[-1]):
        layer.requires_grad_(True)


def pack(generator: Generator) -> None:
    """Store FP16 safetensors under the published key names, with the average w."""
    state = {k: v for k, v in generator.state_dict().items() if not k.startswith("noises.")}
    decoder = {f"decoder.{k}": v.half().contiguous() for k, v in state.items()}
    with torch.no_grad():
        average = generator.map(torch.randn(100_000, FACE_DIM)).mean(0)
    decoder["latent_avg"] = average.half()
    demo.WEIGHTS.mkdir(exist_ok=True)
    save_file(decoder, demo.WEIGHTS / "demo_generator.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/demo_model"), help="folder of intermediate results")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    z, data = draw_faces(work, "train", TRAIN_FACES, TRAIN_SEED)
    z_held, held = draw_faces(work, "held_out", HELD_OUT_FACES, HELD_OUT_SEED)
    generator = fit_generator(work, z, data, z_held, held)
    pack(generator)


if __name__ == "__main__":
    main()
