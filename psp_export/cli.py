"""Provide the command `psp-export`: a pSp checkpoint to ONNX files, and to TensorRT plans where they can be built."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from psp_export.options import Export, Model
from psp_export.stages import Stages
from psp_runtime import console
from psp_runtime.errors import PspError
from psp_runtime.tasks import get_task

if TYPE_CHECKING:
    from psp_export.output_files import Written
    from psp_train.checkpoints.psp import Checkpoint

#: Exit code of an engine that does not match the reference.
UNFAITHFUL = 3


def main() -> NoReturn:
    """Run the command, and exit with its code."""
    console.run(app)


def psp_export(asked: Export) -> None:
    """Export what the options ask for, and say what was written and how near to PyTorch it is."""
    _require_export_extra()
    if asked.class_index is not None and asked.generator is None:
        raise PspError(f"--class {asked.class_index} is for a conditional --generator, which is not given")
    if asked.task is not None:
        get_task(asked.task)  # an unknown one is said at once, an empty one is not "inversion"
    from psp_export.export import check, export
    from psp_export.output_files import models_of, stem
    from psp_export.triton import check_repository, model_name, write_repository
    from psp_export.verify.parity import ParityError

    if asked.int8 and asked.fp16:
        raise PspError("--int8 and --fp16 are two precisions: give one of them")
    options = replace(asked, precision="int8" if asked.int8 else "fp16" if asked.fp16 else "fp32")
    check(options)
    if asked.triton:
        check_repository(asked.triton, model_name(asked.output))
    earlier = models_of(stem(asked.output))
    try:
        with Stages() as say:
            loaded = _load(asked, say)
            files = export(loaded, options, say)
    except ParityError as error:
        console.error(error)
        raise typer.Exit(UNFAITHFUL) from None
    print(table(files))
    print(loaded.license)
    for path, model in replaced(earlier, models_of(stem(asked.output))).items():
        print(f"replaced {path}: {model}")
    if asked.triton:
        choice = write_repository(asked.triton, files, model_name(asked.output))
        print(f"{asked.triton}: for Triton {choice.release}. {choice.reason}")
    print(f"next: psp run PICTURE --engine {files[0].path}")


def _load(asked: Model, say: Stages) -> "Checkpoint":
    from psp_train.checkpoints.generators import with_generator
    from psp_train.checkpoints.psp import load_checkpoint, load_demo_checkpoint

    if asked.checkpoint is None:
        if asked.encoder is not None:
            raise PspError("--encoder says what a --checkpoint holds, and none is given: leave it out")
        say(f"loading the bundled demo model (no --checkpoint given), task {asked.task or 'inversion'}")
        loaded = load_demo_checkpoint(asked.task)
    else:
        say(f"loading {asked.checkpoint}")
        loaded = load_checkpoint(asked.checkpoint, asked.task, asked.encoder)
    if asked.generator is None:
        return loaded
    say(f"loading {asked.generator}")
    return with_generator(loaded, asked.generator, asked.class_index)


def replaced(earlier: dict[Path, str], now: dict[Path, str]) -> dict[Path, str]:
    """Find the files that are of another model now, and say which one they were of."""
    return {path: model for path, model in earlier.items() if now.get(path, model) != model}


def table(files: list["Written"]) -> str:
    """Lay out the written files with their size, the precision found in them, and their parity."""
    rows = [("file", "size", "precision", "against PyTorch FP32")]
    rows += [(str(f.path), _megabytes(f.path.stat().st_size), _precision(f), f.parity) for f in files]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _precision(file: "Written") -> str:
    return f"{file.precision}, {file.note}" if file.note else file.precision


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _require_export_extra() -> None:
    missing = [name for name in ("torch", "onnx", "safetensors", "onnxruntime") if not _installed(name)]
    if missing:
        raise PspError(f"psp-export needs {', '.join(missing)}: pip install '.[cpu,export]'")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# Without options the demo model is exported, so no help instead.
app = console.make_app(Export, psp_export, no_args_is_help=False)

if __name__ == "__main__":
    main()
