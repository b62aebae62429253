"""`make gallery`: every application of the paper with the bundled demo engines -> docs/gallery/*.png.

    python tools/gallery.py [NAME ...]

Draws faces no encoder was trained on, with their label maps and sketches, exports the demo model of each task in FP16
with its parts, and runs the commands below, as printed and as docs/gallery.md has them. Prints where the contact sheets
are. A sheet that cannot be made, for want of a demo model for example, is named at the end, and the exit code is 1.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from PIL import Image

from psp_export.export import Options, export
from psp_runtime.errors import PspError
from psp_runtime.pictures.encoding import save
from psp_train.checkpoints.psp import load_demo_checkpoint
from psp_train.drawn.faces import draw, parameters, sample

GALLERY = Path("docs/gallery")
HELD_OUT_SEED, TRAIN_SEED = 2, 1  # faces shown, faces that directions are learnt from
SHOWN, LEARNT = 6, 300

#: Each sheet: the verb and the task of its engine, the inputs, and the options that make it.
SHEETS = {
    "inversion": ("run", "inversion", "faces", ""),
    "frontalization": ("run", "frontalization", "faces", ""),
    "sketch": ("mix", "sketch", "sketches", "-n 5 --seed 7 --layers 5-13"),
    "sketch_from_photo": ("run", "sketch", "faces", "--sketch-from-photo"),
    "segmentation": ("mix", "segmentation", "labels", "-n 5 --seed 7 --layers 5-13 --alpha 0.7"),
    "local_editing": ("swap", "segmentation", "labels", "--classes 13=0"),
    "super_resolution": ("run", "super_resolution", "faces", "--downsample 8"),
    "super_resolution_mix": ("mix", "super_resolution", "faces/1.png faces/3.png", "--downsample 16 -n 5"),
    "inpainting": ("run", "inpainting", "faces", "--mask triangle"),
    "interpolation": ("morph", "inversion", "faces/0.png faces/1.png faces/2.png", "--to faces/3.png --steps 7"),
    "transfer": ("transfer", "inversion", "faces", "--style-of faces/3.png"),
    "glasses": ("edit", "inversion", "faces/0.png faces/1.png faces/2.png", "-d glasses.npy --strength -3:3:7"),
    "hair": ("edit", "inversion", "faces/0.png faces/2.png faces/4.png", "-d hair.npy --strength -3:3:7"),
    "turn": ("edit", "inversion", "faces/0.png faces/2.png faces/4.png", "-d turn.npy --strength -2:2:7"),
    "random": ("mix", "inversion", "faces/0.png", "-n 7 --psi 0.7 --layers 0-13 --alpha 1"),
}
#: Directions that sheets need, and the faces that have the property.
PROPERTIES = {
    "glasses": lambda face: face["glasses"] > 0.65,
    "hair": lambda face: face["hair_length"] > 0.5,
    "turn": lambda face: face["yaw"] > 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(SHEETS), help=", ".join(SHEETS))
    GALLERY.mkdir(parents=True, exist_ok=True)
    failed = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        draw_inputs(here)
        for name in parser.parse_args().names:
            try:
                make(name, here)
            except (PspError, subprocess.CalledProcessError) as error:
                failed[name] = error
    for name, error in failed.items():
        print(f"not made: {name}: {error}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def make(name: str, here: Path) -> None:
    """Make one sheet in a working folder, and put it into the gallery."""
    engine = exported(SHEETS[name][1], here)
    if name in PROPERTIES:
        learn(name, engine, here)
    run(here, command(name))
    shutil.copyfile(here / f"{name}.png", GALLERY / f"{name}.png")
    print(GALLERY / f"{name}.png", flush=True)


def command(name: str) -> str:
    """Spell the command of a sheet, as docs/gallery.md has it."""
    verb, task, pictures, options = SHEETS[name]
    return " ".join(f"psp {verb} {pictures} --engine {task}.onnx {options} --size 128 --grid {name}.png".split())


@cache
def exported(task: str, here: Path) -> str:
    """Export the engine of a task's demo model."""
    export(load_demo_checkpoint(task), Options(here / task, "fp16", "onnx", parts=True))
    return f"{task}.onnx"


def learn(name: str, engine: str, here: Path) -> None:
    """Learn the direction of a property, from drawn faces that have it or not."""
    drawn = here / "drawn"
    drawn.mkdir(exist_ok=True)
    vectors = sample(LEARNT, TRAIN_SEED)
    lines = [f"drawn/{i}.png,{int(PROPERTIES[name](parameters(z)))}" for i, z in enumerate(vectors)]
    (here / f"{name}.csv").write_text("\n".join(lines))
    for index, z in enumerate(vectors):
        if not (drawn / f"{index}.png").exists():
            save(draw(z).image, drawn / f"{index}.png")
    run(here, f"psp direction {name}.csv --engine {engine}")


def draw_inputs(here: Path) -> None:
    """Draw faces/, labels/ and sketches/ of the same held-out faces."""
    for index, z in enumerate(sample(SHOWN, HELD_OUT_SEED)):
        for kind, pixels in zip(("faces", "labels", "sketches"), draw(z), strict=True):
            (here / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(here / kind / f"{index}.png")


def run(here: Path, words: str) -> None:
    """Run a command of psp as a user would, showing it."""
    print("$", words, flush=True)
    program = [sys.executable, "-c", "from psp_runtime.cli import psp; psp()"]
    subprocess.run([*program, *shlex.split(words)[1:]], cwd=here, check=True)


if __name__ == "__main__":
    main()
