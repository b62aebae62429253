"""Make the bundled demo model: draw faces, fit the generator, train the encoder, pack the weights.

    python tools/train_demo.py --work runs/demo_model

The generator is fitted by regression (face vector in, drawn face out), first at 64x64, then at 128 and 256: the
low-resolution layers, which hold the pose and the shapes, learn where a step is cheap; the last stage trains its new
layers only. The encoder is then trained on drawn faces, first towards the known w of each face, then through the
frozen generator on the picture itself.
Every stage leaves its result in the work folder and is skipped when that exists.
"""

import argparse
import copy
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from psp_train import demo, faces
from psp_train.networks import Generator, GeneratorConfig, build_encoder

TRAIN_SEED, HELD_OUT_SEED, TORCH_SEED = 1, 2, 0
TRAIN_FACES, HELD_OUT_FACES = 16_000, 200
BATCH = 16
GENERATOR_STAGES = {64: 4000, 128: 2000, 256: 700}  # size: steps
ENCODER_STAGES = {None: 1200, 128: 1500, 256: 250}  # size of the picture loss: steps
# Nose, glasses, eyes, brows and mouth are small; they count four times.
LABEL_WEIGHTS = np.where(np.isin(np.arange(19), (2, 3, 4, 5, 6, 7, 10, 11, 12)), 4, 1).astype(np.float32)


def draw_one(z):
    face = faces.draw(z)
    return np.concatenate([face.image, face.labels[..., None]], axis=-1)


def draw_faces(work: Path, name: str, count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Face vectors [N,64] and a memory map uint8 [N,256,256,4] of RGB and label."""
    z, path = faces.sample(count, seed), work / f"{name}.npy"
    if not path.exists():
        part = path.with_suffix(".part")
        array = np.lib.format.open_memmap(part, "w+", np.uint8, (count, 256, 256, 4))
        with ProcessPoolExecutor() as pool:
            for i, face in enumerate(pool.map(draw_one, z, chunksize=64)):
                array[i] = face
        array.flush()
        part.rename(path)
    return torch.from_numpy(z), np.load(path, mmap_mode="r")


def batch(data, rows, size=256):
    """Pictures [B,3,size,size] in [-1,1] and the weight of each pixel: small features count more."""
    pixels = data[rows]
    image = torch.from_numpy(np.ascontiguousarray(pixels[..., :3].transpose(0, 3, 1, 2))).float()
    weight = torch.from_numpy(LABEL_WEIGHTS[pixels[..., 3]])[:, None]
    if size < 256:
        image, weight = F.avg_pool2d(image, 256 // size), F.avg_pool2d(weight, 256 // size)
    return image / 127.5 - 1, weight


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
    config = GeneratorConfig(size, faces.FACE_DIM, demo.GENERATOR.mapping_layers, demo.GENERATOR.channels)
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
    used = (torch.arange(faces.FACE_DIM) < len(faces.PARAMETERS)).float()
    weight.data *= used
    weight.register_hook(lambda gradient: gradient * used)


def fit_generator(work: Path, z, data, z_held, held) -> Generator:
    """Regress drawn faces from face vectors, doubling the resolution from stage to stage."""
    average = None
    for size, steps in GENERATOR_STAGES.items():
        path = work / f"generator_{size}.pt"
        generator = generator_at(size, average)
        average = copy.deepcopy(generator)
        if path.exists():
            average.load_state_dict(torch.load(path, weights_only=True))
            continue
        print(f"generator at {size}")
        fit_stage(generator, average, steps, z, data, z_held, held)
        torch.save(average.state_dict(), path)
    return average


def fit_stage(generator, average, steps, z, data, z_held, held):
    size, styles = generator.config.size, generator.config.styles
    if size == max(GENERATOR_STAGES):  # new layers only: cheap, and the smaller generator stays a part of this one
        freeze_smaller(generator)
    synthesize = torch.compile(generator)
    rng = np.random.default_rng(size)

    def loss_of(_):
        rows = np.sort(rng.choice(len(data), BATCH, replace=False))
        target, weight = batch(data, rows, size)
        w = generator.map(z[rows])
        with torch.autocast("cpu", torch.bfloat16):
            image = synthesize(w[:, None].expand(-1, styles, -1))
        return ((image.float() - target).square() * weight).mean()

    def report():
        rows = np.arange(64)
        with torch.no_grad():
            image = average(average.map(z_held[rows])[:, None].expand(-1, styles, -1))
        return f"held-out PSNR {psnr(image, batch(held, rows, size)[0]):.2f} dB"

    trained = [(name, p) for name, p in generator.named_parameters() if p.requires_grad and "noise" not in name]
    mapping = [p for name, p in trained if name.startswith("style.")]
    others = [p for name, p in trained if not name.startswith("style.")]
    # The mapping network's weights are 100 times larger (lr_mul 0.01): give them the same relative step.
    rates = [{"params": others, "lr": 3e-3}] + ([{"params": mapping, "lr": 0.1}] if mapping else [])
    train(steps, rates, loss_of, report, average, generator)


def freeze_smaller(generator: Generator) -> None:
    """Leave only the layers of the last resolution trainable."""
    generator.requires_grad_(False)
    for layer in (*generator.convs[-2:], generator.to_rgbs[-1]):
        layer.requires_grad_(True)


def train_encoder(work: Path, generator: Generator, z, data, z_held, held):
    """Train the inversion encoder; returns it and the average w."""
    path = work / "encoder.pt"
    encoder = build_encoder(demo.encoder_config("inversion"))
    average = copy.deepcopy(encoder).eval()
    with torch.no_grad():
        w = generator.map(z)
        latent_avg = generator.map(torch.randn(100_000, faces.FACE_DIM)).mean(0)
    if path.exists():
        average.load_state_dict(torch.load(path, weights_only=True))
        return average, latent_avg
    generator.requires_grad_(False)
    for size, steps in ENCODER_STAGES.items():
        print(f"encoder, {'latents' if size is None else f'pictures at {size}'}")
        encoder_stage(encoder, average, generator, latent_avg, size, steps, w, data, held)
        torch.save(average.state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
    return average, latent_avg


def encoder_stage(encoder, average, generator, latent_avg, size, steps, w, data, held):
    """One stage: towards the known w, and towards the picture at `size` (None: w alone)."""
    part = smaller(generator, size or 64)
    encode, synthesize = torch.compile(encoder), torch.compile(part)
    rng, spread = np.random.default_rng(size or 1), w.std(0)

    def loss_of(_):
        rows = np.sort(rng.choice(len(data), BATCH, replace=False))
        target, _ = batch(data, rows)
        with torch.autocast("cpu", torch.bfloat16):
            codes = encode(target.to(memory_format=torch.channels_last)).float() + latent_avg
        latent_loss = ((codes - w[rows][:, None]) / spread).square().mean()
        if size is None:
            return latent_loss
        target, weight = batch(data, rows, size)
        with torch.autocast("cpu", torch.bfloat16):
            image = synthesize(codes[:, : part.config.styles])
        return ((image.float() - target).square() * weight).mean() + 0.01 * latent_loss

    def report():
        target = batch(held, np.arange(32))[0]
        with torch.no_grad():
            return f"held-out PSNR {psnr(generator(average(target) + latent_avg), target):.2f} dB"

    train(steps, [{"params": encoder.parameters(), "lr": 2e-3}], loss_of, report, average, encoder)


def smaller(generator: Generator, size: int) -> Generator:
    """The first layers of a generator, as one of that size."""
    part = generator_at(size, None)
    part.load_state_dict({key: generator.state_dict()[key] for key in part.state_dict()})
    return part.requires_grad_(False)


def pack(generator: Generator, encoder, latent_avg) -> None:
    """Store FP16 safetensors under the published key names."""
    demo.WEIGHTS.mkdir(exist_ok=True)
    state = {k: v for k, v in generator.state_dict().items() if not k.startswith("noises.")}
    decoder = {f"decoder.{k}": v.half().contiguous() for k, v in state.items()}
    decoder["latent_avg"] = latent_avg.half()
    save_file(decoder, demo.WEIGHTS / "demo_generator.safetensors")
    tensors = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    tensors = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(tensors, demo.WEIGHTS / "demo_inversion.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/demo_model"), help="folder of intermediate results")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(TORCH_SEED)
    z, data = draw_faces(work, "train", TRAIN_FACES, TRAIN_SEED)
    z_held, held = draw_faces(work, "held_out", HELD_OUT_FACES, HELD_OUT_SEED)
    generator = fit_generator(work, z, data, z_held, held)
    encoder, latent_avg = train_encoder(work, generator, z, data, z_held, held)
    pack(generator, encoder, latent_avg)


if __name__ == "__main__":
    main()
