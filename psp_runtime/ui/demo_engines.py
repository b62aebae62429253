"""Engines for `psp-ui` where none is given: the bundled demo models, each exported once, when it is first used."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from psp_runtime import __version__
from psp_runtime.disk import cache_folder
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.parts import part_path
from psp_runtime.errors import PspError
from psp_runtime.tasks import TASKS as ALL_TASKS

#: The tasks there is a bundled model for.
TASKS = ("inversion", "sketch", "segmentation", "super_resolution", "inpainting", "frontalization")
#: What all of them have in common: the pixels of their pictures, their styles, and how wide faces are framed.
SIZE, STYLES, STYLE_DIM, CROP_SCALE = 256, 14, 64, 1.28
_PARTS = ("mapping", "encoder", "generator")
#: Lines that `psp-export` writes for such a model, one after each stage; for the bar alone.
STAGES = 7


def demo_engines(temporary: Path) -> dict[Path, EngineInfo]:
    """Name the engines of all TASKS, and say what they are before they are there.

    They are kept in the cache folder, or only in `temporary` where there is none (PSP_CACHE=off). Raises `PspError`
    without what `psp-export` needs to make those that are missing.
    """
    folder = (cache_folder() or temporary) / f"demo-{__version__}"
    engines = {folder / f"{task}.onnx": demo_info(task) for task in TASKS}
    if not all(map(is_whole, engines)):
        _check_export()
    return engines


def demo_info(task: str) -> EngineInfo:
    """Say of a demo engine what a page must know before it is exported; the file itself says more."""
    one = ALL_TASKS[task]
    return EngineInfo(
        task=task, encoder="psp", input=one.input, input_size=SIZE, classes=one.channels, output_size=SIZE,
        styles=STYLES, style_dim=STYLE_DIM, mix_layers=one.mix_layers(STYLES), mix_alpha=one.mix_alpha, max_batch=1,
        precision="fp16", backend="onnx", backend_version="", checkpoint="", license="MIT",
        crop_scale=CROP_SCALE,
    )  # fmt: skip


def is_whole(engine: Path) -> bool:
    """Say whether an engine is there with everything that lies beside it: an export that was stopped leaves less."""
    return all(path.is_file() for path in (engine, *(part_path(engine, part) for part in _PARTS)))


def _check_export() -> None:
    lacking = [name for name in ("torch", "onnx", "safetensors") if importlib.util.find_spec(name) is None]
    if lacking:
        raise PspError(
            f"psp-ui without --engine exports the bundled demo models first, which needs {', '.join(lacking)}: "
            "pip install '.[cpu,export,ui]', or give --engine"
        )


def export_demo(engine: Path, told: Callable[[str, int, int], object]) -> None:
    """Export a demo model by `psp-export`, as a process of its own: this package runs without PyTorch.

    `told` hears twice a second what is being done, how many stages are, and of how many; what it raises ends the
    export. Raises `PspError` where that fails.
    """
    engine.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "psp_export", "--task", engine.stem, "--fp16", "--parts", "--backend", "onnx"]
    command += ["--output", str(engine.with_suffix(""))]
    task = engine.stem.replace("_", " ")
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as export:
        reader = threading.Thread(target=lambda: lines.extend(export.stderr or ()))
        reader.start()
        try:
            while reader.is_alive():
                told(f"Preparing the {task} model, once for all", min(len(lines), STAGES), STAGES)
                reader.join(0.5)
        except BaseException:
            export.kill()
            raise
    if export.returncode:
        last = (lines or ["no message"])[-1].strip()
        raise PspError(f"psp-export --task {engine.stem} failed: {last.removeprefix('error: ')}")
