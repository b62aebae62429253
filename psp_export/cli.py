"""Provide the command `psp-export`: a pSp checkpoint to ONNX files, and to TensorRT plans where they can be built."""

import importlib.util
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from psp_export.stages import Stages
from psp_runtime import console
from psp_runtime.errors import PspError
from psp_runtime.tasks import get_task

if TYPE_CHECKING:
    from psp_export.output_files import Written
    from psp_train.checkpoints.psp import Checkpoint

#: Exit code of an engine that does not match the reference.
UNFAITHFUL = 3

app = console.new_app()


class Backend(str, Enum):
    """What to write besides the ONNX file, which is always written."""

    auto = "auto"
    onnx = "onnx"
    tensorrt = "tensorrt"


def main() -> NoReturn:
    """Run the command, and exit with its code."""
    console.run(app)


@app.command(cls=console.Command)
def psp_export(
    task: Annotated[str | None, typer.Option(help="Task of the checkpoint or, without one, of the demo model.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Published pSp checkpoint or your own (.pt). Default: the bundled demo model.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16/--fp32", help="Half precision where it is safe.")] = False,
    backend: Annotated[
        Backend,
        typer.Option(help="The ONNX file is always written; auto adds a TensorRT plan where one can be built."),
    ] = Backend.auto,
    output: Annotated[
        Path, typer.Option(help="Base name of all files: NAME.onnx, NAME.trt, NAME.mapping.onnx.")
    ] = Path("psp"),
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Largest batch the plan serves.")] = 8,
    workspace: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="Scratch memory of TensorRT's builder, in MiB.")
    ] = 4096,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File where TensorRT keeps kernel timings between builds.")
    ] = None,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, help="How long TensorRT looks for faster kernels.")
    ] = 3,
    tune_batch: Annotated[int, typer.Option(min=1, help="Batch size the plan is tuned for.")] = 1,
    opset: Annotated[int, typer.Option(min=17, max=20, help="ONNX opset.")] = 17,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Verify engines against PyTorch FP32.")] = True,
    parts: Annotated[bool, typer.Option("--parts", help="Also write encoder and generator separately.")] = False,
    custom_ops: Annotated[
        bool,
        typer.Option("--custom-ops", help="FIR filters and activations as custom nodes: CUDA kernels in TensorRT."),
    ] = False,
    triton: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write a model repository for Triton Inference Server.")
    ] = None,
) -> None:
    """Export a pSp model to ONNX and TensorRT engines, each verified against PyTorch FP32."""
    _require_export_extra()
    if task is not None:
        get_task(task)  # an unknown one is said at once, an empty one is not "inversion"
    from psp_export.export import Options, check, export
    from psp_export.triton import check_repository, model_name, write_repository
    from psp_export.verify.parity import ParityError

    options = Options(
        output=output,
        precision="fp16" if fp16 else "fp32",
        backend=backend.value,
        max_batch=max_batch,
        workspace_mb=workspace,
        timing_cache=timing_cache,
        opset=opset,
        verify=verify,
        parts=parts,
        custom_ops=custom_ops,
        optimization_level=optimization_level,
        tune_batch=tune_batch,
    )
    check(options)
    if triton:
        check_repository(triton, model_name(output))
    try:
        with Stages() as say:
            loaded = _load(checkpoint, task, say)
            files = export(loaded, options, say)
    except ParityError as error:
        console.error(error)
        raise typer.Exit(UNFAITHFUL) from None
    print(table(files))
    print(loaded.license)
    if triton:
        choice = write_repository(triton, files, model_name(output))
        print(f"{triton}: for Triton {choice.release}. {choice.reason}")


def _load(checkpoint: Path | None, task: str | None, say: Stages) -> "Checkpoint":
    from psp_train.checkpoints.psp import load_checkpoint, load_demo_checkpoint

    if checkpoint is None:
        say(f"loading the bundled demo model (no --checkpoint given), task {task or 'inversion'}")
        return load_demo_checkpoint(task)
    say(f"loading {checkpoint}")
    return load_checkpoint(checkpoint, task)


def table(files: list["Written"]) -> str:
    """Lay out the written files with their size, the precision found in them, and their parity."""
    rows = [("file", "size", "precision", "against PyTorch FP32")]
    rows += [(str(f.path), _megabytes(f.path.stat().st_size), f.precision, f.parity) for f in files]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _require_export_extra() -> None:
    missing = [name for name in ("torch", "onnx", "safetensors", "onnxruntime") if not _installed(name)]
    if missing:
        raise PspError(f"psp-export needs {', '.join(missing)}: pip install 'psp-toolkit[cpu,export]'")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


if __name__ == "__main__":
    main()
