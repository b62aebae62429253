"""`make photos`: whole photos with the bundled demo engines -> docs/photos/*.jpg.

    python tools/photos.py [NAME ...]

Draws scenes of several people, exports the demo models that are needed, and runs the commands below, as printed and as
docs/photos.md has them. Left of each sheet is the photo, right what becomes of it.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from gallery import exported, run
from PIL import Image

from psp_train.drawn.samples import draw_scene

FOLDER = Path("docs/photos")
#: Seeds of the scenes, their height in pixels, and how many times smaller the old photo was.
PARTY, FAMILY, HEIGHT, OLD = 3, 10, 720, 5
#: Each sheet: the verb, the photo, the task of the engine, and the options that make it.
SHEETS = {
    "crops": ("run", "party.png", "inversion", "--align --faces all --grid"),
    "inverted": ("run", "party.png", "inversion", "--align --faces all --paste-back --couple --size 1280 --out"),
    "square": ("run", "party.png", "inversion", "--align --paste-back square --couple --size 1280 --out"),
    "restored": ("run", "old.png", "super_resolution", "--align --faces all --paste-back --couple --size 1280 --out"),
    "coloured": (
        "transfer",
        "family.png",
        "inversion",
        "--style-of party.png --align --paste-back --couple --size 1280 --out",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(SHEETS), help=", ".join(SHEETS))
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        draw_photos(here)
        for name in parser.parse_args().names:
            exported(SHEETS[name][2], here)
            run(here, command(name))
            shutil.copyfile(here / f"{name}.jpg", FOLDER / f"{name}.jpg")
            print(FOLDER / f"{name}.jpg", flush=True)


def command(name: str) -> str:
    """Spell the command of a sheet, as docs/photos.md has it."""
    verb, photo, task, options = SHEETS[name]
    return f"psp {verb} {photo} --engine {task}.onnx {options} {name}.jpg"


def draw_photos(here: Path) -> None:
    """Draw two scenes, and the first as it would be on an old, small photo."""
    party, family = (Image.fromarray(draw_scene(seed, HEIGHT)) for seed in (PARTY, FAMILY))
    party.save(here / "party.png")
    family.save(here / "family.png")
    small = party.resize((party.width // OLD, party.height // OLD), Image.Resampling.BOX)
    small.resize(party.size, Image.Resampling.BICUBIC).save(here / "old.png")


if __name__ == "__main__":
    main()
