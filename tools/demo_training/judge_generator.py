"""Measure a demo generator against the drawings, and lay out pictures of it to look at.

    python tools/demo_training/judge_generator.py runs/demo/generator_256.pt --work runs/demo --sheet sheet.png

On held-out faces: PSNR, mean and worst; how sharp edges are; whether mixing takes shapes from one face and colours
from the other (by the drawing of the mixed face, label maps, yaw and colours); how evenly interpolation moves. Also
reads the `.state` of a running stage. Prints one JSON line.
"""

import json
from pathlib import Path

import command
import numpy as np
import torch
from drawings import HELD_OUT_SEED, Drawings, halve
from model import COLOURS, everywhere, join, load, render
from pictures import edge_measures, psnr, region_colours, to_tensor
from torch import Tensor

from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.loading import resize
from psp_train.drawn import faces
from psp_train.drawn.judges import Judges, load_judges

FACES, BATCH, MIXED = 200, 25, 100
REGIONS = {"background": 0, "skin": 1, "hair": 13, "cloth": 18}
INTERPOLATED, BETWEEN = 8, 16
COLUMNS, CELL = 8, 160


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("generator", type=Path, help="a stage's .pt or .state")
    parser.add_argument("--sheet", type=Path, help="picture file of random, interpolated and mixed faces")
    options = parser.parse_args()
    if not options.generator.is_file():
        parser.error(f"no file {options.generator}: expected a generator's .pt or .state")
    with torch.no_grad():
        print(json.dumps(measure(options.generator, options.work, options.sheet)))


def measure(path: Path, work: Path, sheet: Path | None) -> dict[str, float]:
    generator, judges = load(path), load_judges()
    held_out = Drawings(work, FACES, HELD_OUT_SEED)
    if sheet:
        save(lay_out(generator, held_out), sheet)
    found = {
        "size": generator.config.size,
        "parameters": sum(p.numel() for p in generator.parameters()),
        **fidelity(generator, held_out),
        **mixing(generator, judges, held_out.vectors[:MIXED]),
        **smoothness(generator, judges, torch.from_numpy(held_out.vectors[: INTERPOLATED + 1])),
    }
    return {name: round(value, 4) for name, value in found.items()}


def fidelity(generator, held_out: Drawings) -> dict[str, float]:
    """PSNR of held-out faces, mean and worst, and the measures of edges."""
    size = generator.config.size
    image = in_parts(lambda z: render(generator, z), torch.from_numpy(held_out.vectors))
    drawn = to_tensor(held_out.pictures(np.arange(len(held_out)), size))
    values = psnr(image, drawn)
    return {"psnr": float(values.mean()), "psnr_worst": float(values.min()), **edge_measures(image, drawn)}


# ---- Mixing --------------------------------------------------------------------------------------------------


def mixing(generator, judges: Judges, vectors: np.ndarray) -> dict[str, float]:
    """Coarse layers of each face with the fine layers of the next, against drawings of the faces that should come."""
    size, others = generator.config.size, np.roll(vectors, -1, axis=0)
    targets = [with_colours(a, b) for a, b in zip(vectors, others, strict=True)]
    drawn = [faces.draw(z) for z in targets]
    target = to_tensor(at_size(np.stack([face.image for face in drawn]), size))
    mixed = in_parts(lambda a, b: mix(generator, a, b), *map(torch.from_numpy, (vectors, others)))
    plain = in_parts(lambda z: render(generator, z), torch.from_numpy(np.stack(targets)))
    labels = np.stack([face.labels for face in drawn])
    yaw = torch.tensor([faces.parameters(z)["yaw"] for z in vectors])
    return {
        "mixed_psnr": float(psnr(mixed, target).mean()),
        "mixed_label_accuracy": accuracy(judges, mixed, labels),
        "unmixed_label_accuracy": accuracy(judges, plain, labels),
        "mixed_yaw_error": float((in_parts(judges.yaw, mixed) - yaw).abs().mean()),
        **colour_errors(mixed, target, labels),
    }


def with_colours(z: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The face vector of a face with another's colours."""
    theirs = faces.parameters(other)
    return faces.with_parameters(z, **{name: theirs[name] for name in COLOURS})


def mix(generator, coarse: Tensor, fine: Tensor) -> Tensor:
    return generator(join(*(everywhere(generator, generator.map(z)) for z in (coarse, fine))))


def at_size(pixels: np.ndarray, size: int) -> np.ndarray:
    return pixels if pixels.shape[1] == size else at_size(halve(pixels), size)


def accuracy(judges: Judges, image: Tensor, labels: np.ndarray) -> float:
    """Share of the pixels, at 128x128, that the segmenter finds where they were drawn."""
    found = in_parts(judges.segmenter, image)
    return float((found == torch.from_numpy(labels[:, ::2, ::2].astype(np.int64))).float().mean())


def colour_errors(image: Tensor, target: Tensor, labels: np.ndarray) -> dict[str, float]:
    """By region, the mean distance of the mean colours to the drawing's, of 255."""
    step = labels.shape[1] // image.shape[-1]
    regions = torch.from_numpy(labels[:, ::step, ::step].astype(np.int64))
    a, b = (region_colours(x, regions, tuple(REGIONS.values())) for x in (image, target))
    errors = (a - b).abs().mean(2).nanmean(0) * 127.5
    return {f"mixed_colour_{name}": float(value) for name, value in zip(REGIONS, errors, strict=True)}


# ---- Interpolation and the sheet -----------------------------------------------------------------------------


def smoothness(generator, judges: Judges, z: Tensor) -> dict[str, float]:
    """Feature distance of neighbours between two faces: the largest over the mean; 1 is even, a jump is large."""
    ratios = []
    for a, b in zip(generator.map(z[:-1]), generator.map(z[1:]), strict=True):
        path = generator(everywhere(generator, between(a, b, BETWEEN)))
        steps = judges.perceptual(path[:-1], path[1:]).sqrt()
        ratios.append(steps.max() / steps.mean())
    return {"interpolation_evenness": float(torch.stack(ratios).mean())}


def between(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Points on the straight line from w [S] to another one: [count,S]."""
    return torch.lerp(a[None], b[None], torch.linspace(0, 1, count)[:, None])


def lay_out(generator, held_out: Drawings) -> np.ndarray:
    """Drawings over the generator's pictures, random faces, two interpolations, and a table of mixed faces."""
    z = torch.from_numpy(held_out.vectors)
    w, size = generator.map(z), generator.config.size
    rows = [held_out.pictures(np.arange(COLUMNS), size), to_pixels(render(generator, z[:COLUMNS]))]
    random = torch.randn(2 * COLUMNS, faces.FACE_DIM, generator=torch.Generator().manual_seed(3))
    rows += [to_pixels(render(generator, part)) for part in random.split(COLUMNS)]
    paths = [between(w[i], w[i + 1], COLUMNS) for i in (0, 2)]
    rows += [to_pixels(generator(everywhere(generator, path))) for path in paths]
    rows += [to_pixels(mix(generator, z[i : i + 1].expand(COLUMNS, -1), z[8 : 8 + COLUMNS])) for i in range(3)]
    return np.vstack([np.hstack([resize(np.ascontiguousarray(cell), CELL) for cell in row]) for row in rows])


def to_pixels(image: Tensor) -> np.ndarray:
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def in_parts(function, *tensors: Tensor) -> Tensor:
    """A function of batches on large ones, BATCH at a time."""
    return torch.cat([function(*part) for part in zip(*(x.split(BATCH) for x in tensors), strict=True)])


if __name__ == "__main__":
    main()
