"""`make demo`: export the bundled model in FP16, run it on a drawn face, say where the pictures are."""

import subprocess
import sys
from pathlib import Path

from psp_runtime.pictures.encoding import save
from psp_train.drawn.faces import draw, sample

DEMO = Path("demo")
SEED = 5


def main() -> None:
    DEMO.mkdir(exist_ok=True)
    picture = DEMO / "face.png"
    save(draw(sample(1, SEED)[0]).image, picture)
    run("psp_export", "--task", "inversion", "--fp16", "--output", DEMO / "psp")
    run("psp_runtime", picture, "--engine", DEMO / "psp.onnx", "--out", DEMO / "face_out.png")
    print(f"input   {picture.resolve()}\noutput  {(DEMO / 'face_out.png').resolve()}")


def run(module: str, *args: object) -> None:
    """Run one of our tools as a user would, showing the command."""
    tool = {"psp_export": "psp-export", "psp_runtime": "psp-run"}[module]
    print("$", tool, *args, flush=True)
    finished = subprocess.run([sys.executable, "-m", module, *map(str, args)])
    if finished.returncode:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    main()
