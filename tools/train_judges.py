"""Make the judges of the drawn faces: draw faces, train four networks, measure them on other faces, pack the weights.

    python tools/train_judges.py --work runs/judges

Faces are drawn at 256x256, the size of the generator, and pooled to 128x128.  The pictures are blurred, tinted and
made noisy at random, because a generator's pictures are never quite as sharp as a drawing.
Every stage leaves its result in the work folder and is skipped when that exists.
"""

import argparse
import json
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from psp_runtime.pictures.label_classes import NAMES
from psp_train.drawn import faces, judges
from psp_train.drawn.judges import (
    IDENTITY_PARAMETERS,
    SIZE,
    IdentityJudge,
    Judges,
    PerceptualJudge,
    Segmenter,
    YawJudge,
)
from psp_train.workers import worker_pool

TRAIN_SEED, HELD_OUT_SEED, OTHER_SEED = 11, 12, 13  # not those of tools/train_demo.py
TRAIN_FACES, HELD_OUT_FACES = 12_000, 500
BATCH, RATE = 16, 1e-3
STEPS = {"segmenter": 1000, "segmenter_borders": 450, "identity": 1900, "perceptual": 1300, "yaw": 1500}
BEHAVIOUR = ("brow_tilt", "mouth_curve", "mouth_open", "yaw", "pitch", "light", "background_hue",
             "background_lightness", "clothes_hue")  # fmt: skip
COARSE = 4  # the feature network learns the shares of the labels in squares of so many pixels


# ---- Drawn faces ---------------------------------------------------------------------------------------------


def draw_one(z: np.ndarray) -> np.ndarray:
    """RGB and, as a fourth channel, the labels: uint8 [SIZE,SIZE,4]."""
    image = faces.draw(z, 2 * SIZE).image.astype(np.uint16)
    pooled = (image.reshape(SIZE, 2, SIZE, 2, 3).sum((1, 3)) + 2) // 4
    return np.concatenate([pooled.astype(np.uint8), faces.draw(z, SIZE).labels[..., None]], axis=-1)


def draw_all(z: np.ndarray) -> np.ndarray:
    """uint8 [N,SIZE,SIZE,4]."""
    with worker_pool() as pool:
        return np.stack(list(pool.map(draw_one, z, chunksize=25)))


def training_faces(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Face vectors [N,64] and their pictures with labels, a memory map uint8 [N,SIZE,SIZE,4]."""
    z, path = faces.sample(TRAIN_FACES, TRAIN_SEED), work / "train.npy"
    if not path.exists():
        part = work / "train_part.npy"
        np.save(part, draw_all(z))
        part.rename(path)
    return z, np.load(path, mmap_mode="r")


def pictures(data: np.ndarray) -> torch.Tensor:
    """uint8 [B,H,W,4] -> [B,3,H,W] in [-1,1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(data[..., :3])).permute(0, 3, 1, 2)  # channels last
    return pixels.float() / 127.5 - 1


def labels(data: np.ndarray) -> torch.Tensor:
    """uint8 [B,H,W,4] -> int64 [B,H,W]."""
    return torch.from_numpy(data[..., 3].astype(np.int64))


def standard_parameters(z: np.ndarray, names) -> torch.Tensor:
    """Face parameters with mean 0 and variance 1: [N,len(names)]."""
    ranges = {p.name: (p.low, p.high) for p in faces.PARAMETERS}
    low, high = np.transpose([ranges[name] for name in names])
    values = np.array([[p[name] for name in names] for p in map(seen_parameters, z)])
    values = ((values - low) / (high - low) - 0.5) * 12**0.5
    return torch.from_numpy(values - values.mean(0)).float() / torch.from_numpy(values.std(0)).float()


def seen_parameters(z: np.ndarray) -> dict[str, float]:
    """Face parameters; glasses as far as they are worn, because how nearly one wears them cannot be seen."""
    p = faces.parameters(z)
    return p | {"glasses": float(np.clip((p["glasses"] - 0.63) / 0.04, 0, 1))}


# ---- Training ------------------------------------------------------------------------------------------------


def blur(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Reduce by the factor and enlarge again."""
    side = round(x.shape[-1] / factor)
    small = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[-2:], mode="bilinear")


def disturb(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Half of the pictures sharp, half blurred; all with a slight tint and a little noise. x: [B,3,H,W]."""
    half, count = len(x) // 2, len(x)
    x = torch.cat([x[:half], blur(x[half:], rng.uniform(1, 4))])
    gain = torch.from_numpy(rng.normal(1, 0.03, (count, 3, 1, 1))).float()
    offset = torch.from_numpy(rng.normal(0, 0.02, (count, 3, 1, 1))).float()
    x = x * gain + offset + rng.uniform(0, 0.05) * torch.randn_like(x)
    return x.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def schedule(step: int, steps: int) -> float:
    """Warm up, then fall to zero along a cosine."""
    return min((step + 1) / 100, 1.0) * (0.5 + 0.5 * float(np.cos(np.pi * step / steps)))


def train(name: str, parameters, data: np.ndarray, loss_of) -> None:
    """Minimise loss_of(disturbed pictures, rows)."""
    rng, steps, start = np.random.default_rng(list(name.encode())), STEPS[name], time.time()
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    mean = 0.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * schedule(step, steps)
        rows = np.sort(rng.choice(len(data), BATCH, replace=False))
        loss = loss_of(disturb(pictures(data[rows]), rng), rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        mean += (loss.item() - mean) / min(step + 1, 100)
        if step % 100 == 99:
            print(f"{name} step {step + 1}/{steps} {time.time() - start:.0f} s loss {mean:.4f}", flush=True)


def perceptual_loss(network: PerceptualJudge, z: np.ndarray, data: np.ndarray):
    """All face parameters from the last map, and where the labels are from the last three; and the heads' weights."""
    targets = standard_parameters(z, [p.name for p in faces.PARAMETERS])
    widths = [stage[1][0].out_channels for stage in network.stages]
    numbers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * widths[-1], targets.shape[1]))
    places = nn.ModuleList(nn.Conv2d(width, len(NAMES), 1) for width in widths[1:])

    def loss_of(x, rows):
        maps = network.features(x)
        side = SIZE // COARSE
        scores = sum(F.interpolate(place(m), size=(side, side)) for place, m in zip(places, maps[1:]))
        shares = F.avg_pool2d(F.one_hot(labels(data[rows]), len(NAMES)).permute(0, 3, 1, 2).float(), COARSE)
        return F.mse_loss(numbers(maps[-1]), targets[rows]) + F.cross_entropy(scores, shares)

    return {"perceptual": loss_of}, [*numbers.parameters(), *places.parameters()]


def identity_loss(network: IdentityJudge, z: np.ndarray, data: np.ndarray):
    targets = standard_parameters(z, IDENTITY_PARAMETERS)
    return {"identity": lambda x, rows: F.mse_loss(network.estimate(x), targets[rows])}, []


def yaw_loss(network: YawJudge, z: np.ndarray, data: np.ndarray):
    targets = torch.tensor([faces.parameters(row)["yaw"] for row in z])
    return {"yaw": lambda x, rows: F.smooth_l1_loss(network(x) / 10, targets[rows] / 10, beta=0.1)}, []


def segmenter_loss(network: Segmenter, z: np.ndarray, data: np.ndarray):
    """Cross entropy, twice: first rare classes count more, so that they are found; then every pixel counts the same,
    so that their borders do not spread."""
    counts = np.bincount(data[:1000, ..., 3].ravel(), minlength=len(NAMES))
    weight = torch.from_numpy((counts.max() / np.maximum(counts, 1)) ** 0.5).float().clamp(max=10)
    return {
        "segmenter": lambda x, rows: F.cross_entropy(network.logits(x), labels(data[rows]), weight),
        "segmenter_borders": lambda x, rows: F.cross_entropy(network.logits(x), labels(data[rows])),
    }, []


NETWORKS = {
    "segmenter": (Segmenter, segmenter_loss),  # the longest training first
    "identity": (IdentityJudge, identity_loss),
    "perceptual": (PerceptualJudge, perceptual_loss),
    "yaw": (YawJudge, yaw_loss),
}


def train_stage(work: Path, name: str) -> None:
    """Train the network of that name on one core, unless the work folder has it."""
    path = work / f"{name}.pt"
    if path.exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(list(NETWORKS).index(name))
    build, loss = NETWORKS[name]
    network, (z, data) = build().to(memory_format=torch.channels_last), training_faces(work)
    phases, heads = loss(network, z, data)
    for phase, loss_of in phases.items():
        train(phase, [*network.parameters(), *heads], data, loss_of)
    torch.save(network.state_dict(), path)


def train_all(work: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of all networks; each is trained in a process of its own, which beats two cores for one network."""
    training_faces(work)
    with worker_pool(context=get_context("spawn")) as pool:
        list(pool.map(train_stage, [work] * len(NETWORKS), NETWORKS))
    return {name: torch.load(work / f"{name}.pt", weights_only=True) for name in NETWORKS}


# ---- Held-out errors -----------------------------------------------------------------------------------------


def pack(weights: dict[str, dict[str, torch.Tensor]], measured: dict[str, float]) -> None:
    tensors = {f"{name}.{key}": value for name, state in weights.items() for key, value in state.items()}
    tensors = {key: value.half().contiguous() for key, value in tensors.items()}
    save_file(tensors, judges.WEIGHTS_FILE, metadata={"errors": json.dumps(measured)})


@torch.no_grad()
def measure(network: Judges) -> dict[str, float]:
    """Errors on held-out faces, their turned and changed selves, and blurred pictures."""
    z = faces.sample(HELD_OUT_FACES, HELD_OUT_SEED)
    data = draw_all(z)
    x, changed = pictures(data), pictures(draw_all(np.stack([behave(a, b) for a, b in zip(z, np.roll(z, 1, 0))])))
    frontal = pictures(draw_all(np.stack([faces.with_parameters(row, yaw=0) for row in z])))
    truth = torch.tensor([faces.parameters(row)["yaw"] for row in z])
    soft = blur(x, 2)
    result = {
        "yaw_degrees": (network.yaw(x) - truth).abs().mean(),
        "yaw_degrees_frontal": network.yaw(frontal).abs().mean(),
        "yaw_degrees_blurred": (network.yaw(soft) - truth).abs().mean(),
        **measure_identity(network.identity, x, changed, frontal, soft),
        **measure_perceptual(network.perceptual, x, frontal, soft),
        **measure_segmenter(network.segmenter, x, labels(data), ""),
        **measure_segmenter(network.segmenter, soft, labels(data), "_blurred"),
    }
    return {key: round(float(value), 4) for key, value in result.items()}


def behave(z: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The same face with the pose, expression, light, background and clothes of another one."""
    other = faces.parameters(like)
    return faces.with_parameters(z, **{name: other[name] for name in BEHAVIOUR})


def measure_identity(identity: IdentityJudge, x, changed, frontal, soft) -> dict[str, torch.Tensor]:
    """Mean distances, and how often a changed face is nearer to its own than to any other of the held-out faces."""
    own = identity.features(x)
    cosine = identity.features(changed) @ own.T
    return {
        "identity_turned": identity(x, frontal).mean(),
        "identity_changed": identity(x, changed).mean(),
        "identity_blurred": identity(x, soft).mean(),
        "identity_other": identity(x, x.roll(1, 0)).mean(),
        "identity_nearest": (cosine.argmax(1) == torch.arange(len(x))).float().mean(),
    }


def measure_perceptual(perceptual: PerceptualJudge, x, frontal, soft) -> dict[str, torch.Tensor]:
    return {
        "perceptual_blurred": perceptual(x, soft).mean(),
        "perceptual_blurred_twice": perceptual(x, blur(x, 4)).mean(),
        "perceptual_frontal": perceptual(x, frontal).mean(),
        "perceptual_other": perceptual(x, x.roll(1, 0)).mean(),
    }


def measure_segmenter(segmenter: Segmenter, x, truth, suffix: str) -> dict[str, torch.Tensor]:
    """Pixel accuracy, mean IoU over the classes that occur, and the worst of them."""
    guess, count = segmenter(x), len(NAMES)
    matrix = torch.bincount((truth * count + guess).flatten(), minlength=count**2).view(count, count).double()
    both, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    iou = (both / union)[matrix.sum(1) > 0]
    names = [NAMES[i] for i in range(count) if matrix[i].sum() > 0]
    print("IoU" + suffix, {name: round(float(value), 3) for name, value in zip(names, iou)})
    return {
        f"segmenter_accuracy{suffix}": both.sum() / matrix.sum(),
        f"segmenter_mean_iou{suffix}": iou.mean(),
        f"segmenter_worst_iou{suffix}": iou.min(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/judges"), help="folder of intermediate results")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    weights = train_all(work)
    pack(weights, {})
    measured = measure(judges.load_judges())  # what is measured is what is shipped: FP16 weights
    pack(weights, measured)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
