"""What to export, and how: each option of `psp-export` once, on a field. Imports neither torch nor onnx."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from psp_export.output_files import DEFAULT_OUTPUT
from psp_runtime.console import INPUT, MAKE, PLANS, SAVE, Talk, option

Precision = Literal["fp32", "fp16", "int8"]
Backend = Literal["auto", "onnx", "tensorrt"]


@dataclass(frozen=True)
class Options:
    """What to export, and how.

    `output` is what the names of all files begin with; `precision` is "fp32", "fp16" or "int8", `backend` "auto",
    "onnx" or "tensorrt", `opset` 17 to 20. INT8 is calibrated on the pictures in the folder `calibrate`, at least 144
    inputs of the task; the bundled models do without, on drawn faces. A plan serves batches of 1 to `max_batch`; it is
    built in `workspace` MiB of scratch memory, with kernel timings kept in the file `timing_cache`, with an effort of
    `optimization_level`, 0 to 5, and tuned for batches of `tune_batch`. With `parts`, encoder and generator are also
    written separately.
    """

    output: Annotated[Path, option(SAVE, "Base name of all files: NAME.onnx, NAME.trt, …", "--output", "-o")] = (
        DEFAULT_OUTPUT
    )
    precision: Precision = "fp32"
    backend: Annotated[Backend, option(SAVE, "The ONNX file always; auto adds a plan where one can be built.")] = "auto"
    max_batch: Annotated[int, option(PLANS, "Largest batch a plan serves.", min=1, max=1024)] = 8
    workspace: Annotated[int, option(PLANS, "Scratch memory of the builder, in MiB.", min=1, max=1 << 20)] = 4096
    timing_cache: Annotated[Path | None, option(PLANS, "File that keeps kernel timings between builds.")] = None
    opset: Annotated[int, option(MAKE, "ONNX opset.", min=17, max=20)] = 17
    verify: Annotated[bool, option(MAKE, "Verify engines against PyTorch FP32.", "--verify/--no-verify")] = True
    parts: Annotated[bool, option(MAKE, "Also write encoder and generator separately.", "--parts")] = False
    calibrate: Annotated[
        Path | None,
        option(INPUT, "INT8: 144 or more inputs of the task. Default: drawn faces.", metavar="FOLDER"),
    ] = None
    custom_ops: Annotated[
        bool, option(MAKE, "FIR filters and activations as custom nodes: CUDA kernels in TensorRT.", "--custom-ops")
    ] = False
    optimization_level: Annotated[int, option(PLANS, "How long to look for faster kernels.", min=0, max=5)] = 3
    tune_batch: Annotated[int, option(PLANS, "Batch size a plan is tuned for.", min=1)] = 1


@dataclass(frozen=True)
class Model:
    """Which model to export, and in which precision."""

    task: Annotated[
        str | None, option(INPUT, "Task of the checkpoint or, without one, of the demo model.", show_default=False)
    ] = None
    checkpoint: Annotated[
        Path | None, option(INPUT, "Of pSp, e4e or ReStyle (.pt). Default: the bundled demo model.", show_default=False)
    ] = None
    encoder: Annotated[
        str | None, option(INPUT, "Its kind, where the file does not say: psp, e4e, restyle_psp, …", show_default=False)
    ] = None
    generator: Annotated[Path | None, option(INPUT, "Another StyleGAN2 under its encoder (.pt, NVIDIA's .pkl).")] = None
    class_index: Annotated[
        int | None, option(INPUT, "Which class of a conditional --generator.", "--class", min=0, metavar="NUMBER")
    ] = None
    fp16: Annotated[bool, option(MAKE, "Half precision where it is safe.", "--fp16/--fp32")] = False
    int8: Annotated[bool, option(MAKE, "Convolutions in 8 bits; see --calibrate.", "--int8")] = False


@dataclass(frozen=True)
class Export(Talk, Options, Model):
    """Export a pSp model to ONNX and TensorRT engines, each verified against PyTorch FP32."""

    triton: Annotated[
        Path | None, option(SAVE, "Also a model repository for Triton Inference Server.", metavar="FOLDER")
    ] = None
