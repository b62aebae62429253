"""How long finding, cutting and pasting faces takes on one thread, and the memory of a large photo.

    python benchmarks/alignment.py [--runs 20] [--json]

The photo is a drawn scene of four people, 1600 pixels wide. Times are medians of CPU time in milliseconds: they hardly
depend on what else runs. The photo of 50 megapixels is a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # before NumPy is imported

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from psp_runtime import alignment  # noqa: E402
from psp_train.drawn.samples import draw_scene  # noqa: E402

#: Height of the drawn scene, whose width is 16/9 of it; width and height of a photo of 50 megapixels.
HEIGHT, LARGE = 900, (8660, 5774)
#: A face of 1024 pixels that reaches over the upper border of the photo.
OVER = np.array([[100, -300], [100, 724], [1124, 724], [1124, -300]])
#: What a process does with a large photo: the whole way, but for an engine.
WHOLE = """
import resource, sys
import numpy as np
from psp_runtime import alignment
from psp_runtime.alignment.pasting import lay
from psp_runtime.pictures.encoding import save
from psp_runtime.pictures.photos import open_photo
photo = open_photo(sys.argv[1]).picture
face = alignment.find(photo, most=1)[0]
crop = alignment.crop(photo, face, 1024)
photo = open_photo(sys.argv[1]).picture  # as a run does, which keeps no photo while the engine works
lay(photo, crop, crop.picture)
save(photo, sys.argv[2])
print(face.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="how often each is timed")
    parser.add_argument("--json", action="store_true", help="print the numbers alone")
    options = parser.parse_args()
    found = {**times(options.runs), **memory()}
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:<44}{value:10.2f}" for name, value in found.items()))


def times(runs: int) -> dict[str, float]:
    """Time each step, in ms of one thread."""
    scene = Image.fromarray(draw_scene(1, HEIGHT))
    crop = alignment.crop(scene, alignment.find(scene, most=1)[0], 1024)
    return {
        "the largest face of 1600 px, ms": timed(lambda: alignment.find(scene, most=1), runs),
        "all faces of 1600 px, ms": timed(lambda: alignment.find(scene), runs),
        "a crop of 256 px, ms": timed(lambda: alignment.crop(scene, crop.corners, 256), runs),
        "a crop of 1024 px with padding, ms": timed(lambda: alignment.crop(scene, OVER, 1024), runs),
        "1024 px pasted back, ms": timed(lambda: alignment.paste(scene, crop, crop.picture), runs),
    }


def timed(work: Callable[[], object], runs: int) -> float:
    work()
    taken = []
    for _ in range(runs):
        started = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - started))
    return round(statistics.median(taken), 2)


def memory() -> dict[str, float]:
    """Measure the peak memory of a JPEG of 50 megapixels, found, cut, pasted and saved as JPEG and PNG, in GB."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "large.jpg"
        Image.fromarray(draw_scene(1, HEIGHT)).resize(LARGE, Image.Resampling.BICUBIC).save(photo, quality=90)
        for ending in ("jpg", "png"):
            command = [sys.executable, "-c", WHOLE, str(photo), f"{folder}/out.{ending}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[f"50 megapixels as {ending}, GB"] = round(float(done.stdout.split()[1]), 3)
    return peaks


if __name__ == "__main__":
    main()
