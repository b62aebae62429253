"""`make examples`: what the web demo can be tried on -> psp_runtime/ui/examples.

    PYTHONPATH=tools python tools/web_demo/examples.py

Draws faces, sketches, label maps and a photo of several people that no encoder was trained on, and learns directions of
the bundled generator from drawn faces that have a property or not.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from gallery import PROPERTIES, exported, learn
from PIL import Image

from psp_runtime.ui.samples import FOLDER
from psp_train.drawn.faces import draw, sample
from psp_train.drawn.samples import draw_scene

#: Seeds of the faces and of the photo, how many faces, and the height of the photo.
FACES_SEED, PHOTO_SEED, COUNT, HEIGHT = 2, 3, 5, 540
#: What the page calls the directions.
DIRECTIONS = {"glasses": "glasses", "hair": "hair_length", "turn": "turn_of_the_head"}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    draw_pictures()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        engine = exported("inversion", here)
        for name in PROPERTIES:
            learn(name, engine, here)
            shutil.copyfile(here / f"{name}.npy", FOLDER / f"{DIRECTIONS[name]}.npy")
    for path in sorted(FOLDER.iterdir()):
        print(path)


def draw_pictures() -> None:
    """Draw the inputs: a face, its sketch and its label map for each seed, and the photo."""
    for number, z in enumerate(sample(COUNT, FACES_SEED), start=1):
        face = draw(z)
        Image.fromarray(face.image).save(FOLDER / f"face_{number}.jpg", quality=92)
        Image.fromarray(np.asarray(face.sketch)).save(FOLDER / f"sketch_{number}.png", optimize=True)
        Image.fromarray(np.asarray(face.labels)).save(FOLDER / f"labels_{number}.png", optimize=True)
    Image.fromarray(draw_scene(PHOTO_SEED, HEIGHT)).save(FOLDER / "photo_1.jpg", quality=88)


if __name__ == "__main__":
    main()
