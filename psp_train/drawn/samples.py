"""`psp sample`: drawn pictures to try the other verbs on. Needs neither PyTorch nor a download."""

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import numpy as np
import typer
from PIL import Image, ImageFilter

from psp_runtime import console
from psp_runtime.errors import PspError
from psp_runtime.pictures.encoding import picture_format, save
from psp_train.drawn.faces import draw, sample

Kind = Literal["face", "sketch", "labels", "scene"]

WORDS = {"face": "a drawn face", "sketch": "a pencil sketch", "labels": "a label map", "scene": "a scene of faces"}

#: What to do with a picture, by its kind.
NEXT = {
    "face": "psp export, psp run {} --engine psp.onnx",
    "scene": "psp export, psp run {} --engine psp.onnx",
    "sketch": "psp export --task sketch --output sketch, psp run {} --engine sketch.onnx",
    "labels": "psp export --task segmentation --output segmentation, psp run {} --engine segmentation.onnx",
}

#: Width over height of a scene, its faces, and how large they are against its height.
SCENE, FACES, SHARE = 16 / 9, 4, (0.55, 0.8)
#: Degrees a head of a scene is tilted at most.
TILT = 12
#: Colours at the top and at the bottom of a scene.
SKY, WALL = (206, 219, 232), (228, 219, 206)

app = console.new_app()


def main() -> NoReturn:
    """Run the command `psp sample` by itself."""
    console.run(app)


@app.command(no_args_is_help=True, cls=console.Command)
def psp_sample(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURES", help="The files to draw, such as face.png.")],
    kind: Annotated[Kind, typer.Option(help="A face, its pencil sketch or label map, or a scene of several.")] = "face",
    seed: Annotated[int, typer.Option(min=0, help="Which face; of several files, the first.")] = 5,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Height of the picture.")] = 256,
) -> None:
    """Draw pictures to try things on: a cartoon face, its pencil sketch, its label map, or a scene of faces."""
    for picture in pictures:
        _check(picture, kind)
    for number, picture in enumerate(pictures, seed):
        save(drawn(kind, number, size), picture)
        print(f"{picture}: {WORDS[kind]}, seed {number}")
    print(f"next: {NEXT[kind].format(' '.join(map(str, pictures)))}")


def _check(picture: Path, kind: Kind) -> None:
    if picture_format(picture) != "PNG" and kind == "labels":
        raise PspError(f"{picture}: a label map is saved as PNG, which keeps every class id: name it .png")
    if not picture.parent.is_dir():
        raise PspError(f"{picture}: there is no folder {picture.parent}; make it first")


def drawn(kind: Kind, seed: int, size: int) -> np.ndarray:
    """Draw a picture uint8 [H,W,3], a sketch [H,W] or class ids [H,W], with H = `size` (64 to 1024)."""
    if kind == "scene":
        return draw_scene(seed, size)
    face = draw(sample(1, seed)[0], size)
    return {"face": face.image, "sketch": face.sketch, "labels": face.labels}[kind]


def draw_scene(seed: int, height: int) -> np.ndarray:
    """Draw FACES people before a wall, uint8 [height, 16/9 height, 3]: of several sizes, their heads tilted."""
    random, width = np.random.default_rng(seed), round(SCENE * height)
    scene = Image.fromarray(_wall(width, height))
    for place, z in enumerate(sample(FACES, seed)):
        side = max(64, round(height * random.uniform(*SHARE)))
        person, outline = _person(z, side, random.uniform(-TILT, TILT))
        x = round(width * (place + 0.5) / FACES + random.uniform(-0.1, 0.1) * side - person.width / 2)
        scene.paste(person, (x, height - round(0.92 * side)), outline)
    return np.asarray(scene)


def _wall(width: int, height: int) -> np.ndarray:
    share = np.linspace(0, 1, height)[:, None, None]
    return np.broadcast_to((1 - share) * SKY + share * WALL, (height, width, 3)).astype(np.uint8)


def _person(z: np.ndarray, side: int, tilt: float) -> tuple[Image.Image, Image.Image]:
    """Draw a face cut out of its background: the picture, and where it is opaque."""
    face = draw(z, side)
    outline = Image.fromarray(np.where(face.labels > 0, 255, 0).astype(np.uint8))
    soft = outline.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(1))
    how = {"resample": Image.Resampling.BICUBIC, "center": (side / 2, 0.9 * side)}
    return Image.fromarray(face.image).rotate(tilt, **how), soft.rotate(tilt, **how)
