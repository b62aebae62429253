"""Check the options of an export before any work is done."""

import warnings

from psp_export.int8 import samples
from psp_export.options import Options
from psp_export.output_files import check_output
from psp_export.plans.build import check_timing_cache, choose_flavour
from psp_runtime.errors import PspError
from psp_train.checkpoints.psp import DEMO_LICENSE, Checkpoint

#: Options that change nothing but plans.
PLAN_OPTIONS = ("workspace", "optimization_level", "tune_batch")


def check(options: Options) -> None:
    """Raise `PspError` for options that will not do, and warn of those without effect, before any work is done."""
    check_output(options.output)
    if options.calibrate and options.precision != "int8":
        raise PspError(f"--calibrate {options.calibrate} is for --int8, which is not given")
    if options.calibrate:
        samples.check_folder(options.calibrate)
    flavour = flavour_of(options)
    check_timing_cache(options.timing_cache, flavour)
    unused = [
        f"--{name.replace('_', '-')}" for name in PLAN_OPTIONS if getattr(options, name) != getattr(Options, name)
    ]
    if unused and flavour is None:
        warnings.warn(f"ignoring {', '.join(unused)}: no plan is built", stacklevel=2)
    if options.tune_batch > options.max_batch:
        raise PspError(
            f"--tune-batch {options.tune_batch}: the plan serves batches of 1..{options.max_batch}; raise --max-batch"
        )


def check_pictures(checkpoint: Checkpoint, options: Options) -> None:
    """Raise `PspError` for an INT8 export of other weights than the bundled ones without pictures to calibrate on."""
    if options.precision == "int8" and options.calibrate is None and checkpoint.license != DEMO_LICENSE:
        raise PspError(
            f"--int8 needs pictures to calibrate {checkpoint.name} on: give --calibrate FOLDER with "
            f"{samples.expected()}, here {checkpoint.task.name}"
        )


def flavour_of(options: Options) -> str | None:
    """Choose the TensorRT to build plans with, or None."""
    if options.backend == "onnx":
        return None
    flavour = choose_flavour()
    if flavour is None and options.backend == "tensorrt":
        raise PspError(
            "no TensorRT to build a plan with: pip install '.[rtx]' (builds without a GPU), or "
            "'.[tensorrt]' on a machine with an NVIDIA GPU; or use --backend onnx"
        )
    return flavour
