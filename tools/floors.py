"""Run the tests of the runtime with exactly the lowest versions that pyproject.toml allows (`make floors`).

python tools/floors.py FOLDER        # an environment is made there, by a Python for which such versions exist: 3.10
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What the tests need besides, and at which version: onnx makes their engines.
TESTS_NEED = ("pytest", "hypothesis", "onnx==1.17.0")
#: Rooms of tests that use what the runtime depends on, and nothing else.
ROOMS = ("tests/pictures", "tests/engines", "tests/run", "tests/runtime")
#: A test of these rooms that needs PyTorch.
LEFT_OUT = "tests/run/test_applications.py::test_an_exported_model_gives_the_same_pictures_from_parts"
#: Modules that such an environment has not: files of tests that import them are left out.
ABSENT = ("torch", "psp_train", "psp_export", "openvino", "models", "safetensors", "tools", "reference")


def main() -> int:
    """Make the environment and run the tests in it; returns their exit code."""
    folder = Path(sys.argv[1])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pins = floors((ROOT / "pyproject.toml").read_text())
    print(f"Python {sys.version.split()[0]}:", ", ".join(pins), flush=True)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins, *TESTS_NEED]
    subprocess.run(install, check=True)
    files = [str(file) for room in ROOMS for file in sorted((ROOT / room).glob("test_*.py")) if usable(file)]
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "--deselect", LEFT_OUT, *files]
    return subprocess.run(command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}).returncode


def floors(project: str) -> list[str]:
    """List the dependencies of the runtime and of its extra `cpu`, pinned to their lowest versions."""
    lists = re.findall(r"^(?:dependencies|cpu) = \[(.*)\]", project, re.MULTILINE)
    return [found.replace(">=", "==") for one in lists for found in re.findall(r'"([\w-]+>=[\d.]+)"', one)]


def usable(file: Path) -> bool:
    """Tell whether a file of tests imports only what is there, at its top."""
    imported = re.findall(r"^(?:from|import) ([\w.]+)", file.read_text(), re.MULTILINE)
    return not any(module.split(".")[0] in ABSENT for module in imported)


if __name__ == "__main__":
    sys.exit(main())
