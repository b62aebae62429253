"""A Python that PyTriton runs with, for the tests of psp-serve on a real server: `make serving` runs this.

    python tools/serving_python.py .venv/serving

PyTriton runs with Python 3.10 to 3.12, and needs libpython as a shared library. The first such Python on PATH or of
pyenv gets a virtual environment with the extras `cpu` and `serve`. Where there is none, or where its packages cannot be
installed, this says so and the tests are skipped: nothing else depends on them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.12", "3.11", "3.10")
SHARED = "import sys, sysconfig; sys.exit(not sysconfig.get_config_var('Py_ENABLE_SHARED'))"


def main(folder: Path) -> int:
    python = next(filter(runs_pytriton, candidates()), None)
    if sys.platform != "linux" or python is None:
        print(f"no Python {' or '.join(VERSIONS)} with a shared libpython: the tests of psp-serve will be skipped")
        return 0
    print(f"psp-serve will be tested with {python}")
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    installed = subprocess.run([*pip, "-c", ROOT / "constraints-serving.txt", "-e", f"{ROOT}[cpu,serve]"])
    if installed.returncode:
        print("its packages could not be installed (see above): the tests of psp-serve will be skipped")
    return 0


def candidates() -> list[str]:
    """The Pythons of these versions on PATH, then pyenv's."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = [str(path) for version in VERSIONS for path in sorted(versions.glob(f"{version}.*/bin/python"))]
    return [found for version in VERSIONS if (found := shutil.which(f"python{version}"))] + kept


def runs_pytriton(python: str) -> bool:
    """Whether it starts (a shim of pyenv may not) and has libpython as a shared library."""
    return subprocess.run([python, "-c", SHARED], capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
