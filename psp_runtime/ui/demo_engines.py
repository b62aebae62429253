"""Engines for `psp-ui` where none is given: the bundled demo models, exported once into the user's cache folder."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from psp_runtime import __version__
from psp_runtime.disk import cache_folder
from psp_runtime.engines.parts import part_path
from psp_runtime.errors import PspError

#: The tasks there is a bundled model for.
TASKS = ("inversion", "sketch", "segmentation", "super_resolution", "inpainting", "frontalization")


def demo_engines(temporary: Path) -> list[Path]:
    """Find the engines of all TASKS, each with its parts. The first call exports them and says so on stderr.

    They are kept in the cache folder, or only in `temporary` where there is none (PSP_CACHE=off).
    Raises `PspError` without what `psp-export` needs, and where it fails.
    """
    folder = (cache_folder() or temporary) / f"demo-{__version__}"
    engines = [folder / f"{task}.onnx" for task in TASKS]
    missing = [engine for engine in engines if not _is_whole(engine)]
    if missing:
        _check_export()
        folder.mkdir(parents=True, exist_ok=True)
    for number, engine in enumerate(missing, start=1):
        print(f"making the demo engine {number} of {len(missing)}, {engine.stem}", file=sys.stderr, flush=True)
        _export(engine)
    return engines


def _is_whole(engine: Path) -> bool:
    """Say whether an engine is there with everything that lies beside it: an export that was stopped leaves less."""
    return all(
        path.is_file() for path in (engine, *(part_path(engine, p) for p in ("mapping", "encoder", "generator")))
    )


def _check_export() -> None:
    lacking = [name for name in ("torch", "onnx", "safetensors") if importlib.util.find_spec(name) is None]
    if lacking:
        raise PspError(
            f"psp-ui without --engine exports the bundled demo models first, which needs {', '.join(lacking)}: "
            "pip install 'psp-toolkit[cpu,export,ui]', or give --engine"
        )


def _export(engine: Path) -> None:
    """Export one demo model by `psp-export`, as a process of its own: this package runs without PyTorch."""
    command = [sys.executable, "-m", "psp_export", "--task", engine.stem, "--fp16", "--parts", "--backend", "onnx"]
    done = subprocess.run([*command, "--output", str(engine.with_suffix(""))], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PspError(f"psp-export --task {engine.stem} failed: {last.removeprefix('error: ')}")
