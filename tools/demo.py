"""`make demo`: export the bundled model in FP16, run it on a drawn face, say where the pictures are."""

import subprocess
import sys
from pathlib import Path

DEMO = Path("demo")


def main() -> None:
    DEMO.mkdir(exist_ok=True)
    picture, output = DEMO / "face.png", DEMO / "face_out.png"
    run("sample", picture)
    run("export", "--task", "inversion", "--fp16", "--output", DEMO / "psp")
    run("run", picture, "--engine", DEMO / "psp.onnx", "--out", output)
    print(f"input   {picture.resolve()}\noutput  {output.resolve()}")


def run(*words: object) -> None:
    """Run a verb of psp as a user would, showing the command."""
    print("$ psp", *words, flush=True)
    finished = subprocess.run([sys.executable, "-c", "from psp_runtime.cli import psp; psp()", *map(str, words)])
    if finished.returncode:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    main()
