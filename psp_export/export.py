"""A checkpoint becomes verified engine files: the main path of `psp-export`."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from psp_export.deploy import DeployedMapping, DeployedPSP, custom_ops
from psp_export.deploy.precision import balance_encoder, to_half
from psp_export.graphs.functions import add_bodies
from psp_export.graphs.inspect import stored_precision
from psp_export.graphs.trace import DEFAULT_OPSET, save, set_info, to_onnx
from psp_export.output_files import DEFAULT_OUTPUT, Written, check_output, files_of, put_in_place, staging, stem
from psp_export.plans.build import (
    DEFAULT_LEVEL,
    BuildError,
    BuildSettings,
    build_plan,
    check_timing_cache,
    choose_flavour,
)
from psp_export.plans.source import plan_source
from psp_export.verify import parity as verify
from psp_export.verify.cases import CALIBRATION_SEED, Case, pictures, reference_cases
from psp_export.verify.headroom import check_headroom
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.session import OnnxSession, lacking_for_plan, open_session
from psp_runtime.errors import EngineError, PspError
from psp_runtime.tasks import INPUT_SIZE
from psp_train.checkpoints.psp import Checkpoint
from psp_train.networks import PSP

#: Called with each stage as it begins, and again with what happens in it.
Say = Callable[..., object]
Cases = list[Case]

CALIBRATION_PICTURES = 6
PARTS = ("encoder", "generator")
#: Options of plans alone, and their names on the command line.
PLAN_OPTIONS = {
    "workspace_mb": "--workspace",
    "optimization_level": "--optimization-level",
    "tune_batch": "--tune-batch",
}


@dataclass(frozen=True)
class Options:
    """What `psp-export` was asked for; `backend` is "auto", "onnx" or "tensorrt"."""

    output: Path = DEFAULT_OUTPUT
    precision: str = "fp32"
    backend: str = "auto"
    max_batch: int = 8
    workspace_mb: int = 4096
    timing_cache: Path | None = None
    opset: int = DEFAULT_OPSET
    verify: bool = True
    parts: bool = False
    custom_ops: bool = False
    optimization_level: int = DEFAULT_LEVEL
    tune_batch: int = 1

    @property
    def build_settings(self) -> BuildSettings:
        """The options a plan is built with."""
        return BuildSettings(self.workspace_mb, self.timing_cache, self.optimization_level, self.tune_batch)


def check(options: Options) -> None:
    """What can be said before any work: raises `PspError` for an output or backend that will not do."""
    check_output(options.output)
    flavour = _flavour(options)
    check_timing_cache(options.timing_cache, flavour)
    unused = [flag for name, flag in PLAN_OPTIONS.items() if getattr(options, name) != getattr(Options, name)]
    if unused and flavour is None:
        warnings.warn(f"{', '.join(unused)} without effect: no plan is built", stacklevel=2)
    if options.tune_batch > options.max_batch:
        raise PspError(
            f"--tune-batch {options.tune_batch}: the plan serves batches of 1..{options.max_batch}; raise --max-batch"
        )


def export(checkpoint: Checkpoint, options: Options, say: Say = lambda *words: None) -> list[Written]:
    """Write the engine of a checkpoint and the files beside it.

    Raises `ParityError` when an engine does not match the reference, `PspError` for everything a user can mend; in
    both cases, as on a full disk or Ctrl-C, no file is written and earlier ones stay.
    """
    check(options)
    flavour = _flavour(options)
    base, info = stem(options.output), engine_info(checkpoint, options)
    model = checkpoint.model
    with staging(base.parent, base.name) as folder:
        if options.verify:
            say("computing the reference pictures")
        cases = reference_cases(model, info) if options.verify else []
        files = _write_onnx(model, info, options.opset, folder / base.name, cases, options.parts, say)
        if flavour:
            files += _write_plans(files, flavour, options, cases, say)
        places = put_in_place([file.path for file in files], base.parent)
    _warn_of_others(base, places)
    return [replace(file, path=place) for file, place in zip(files, places, strict=True)]


def _warn_of_others(base: Path, written: list[Path]) -> None:
    left = [path.name for path in files_of(base) if path.exists() and path not in written]
    if left:
        warnings.warn(f"left from an earlier export, not of this one: {', '.join(left)}", stacklevel=3)


def _flavour(options: Options) -> str | None:
    """The TensorRT to build plans with, or None."""
    if options.backend == "onnx":
        return None
    flavour = choose_flavour()
    if flavour is None and options.backend == "tensorrt":
        raise PspError(
            "no TensorRT to build a plan with: install psp-toolkit[rtx] (builds without a GPU), or "
            "psp-toolkit[tensorrt] on a machine with an NVIDIA GPU; or use --backend onnx"
        )
    return flavour


def engine_info(checkpoint: Checkpoint, options: Options) -> EngineInfo:
    """The metadata of a full engine that has not been verified yet."""
    task, encoder, generator = checkpoint.task, checkpoint.encoder, checkpoint.generator
    return EngineInfo(
        task=task.name,
        encoder=encoder.kind,
        input=task.input,
        input_size=INPUT_SIZE,
        classes=encoder.input_channels if task.input == "labels" else 0,
        output_size=generator.size,
        styles=generator.styles,
        style_dim=generator.style_dim,
        mix_layers=task.mix_layers(generator.styles),
        mix_alpha=task.mix_alpha,
        max_batch=options.max_batch,
        precision=options.precision,
        backend="onnx",
        backend_version=f"opset {options.opset}",
        checkpoint=checkpoint.sha256,
        license=checkpoint.license,
        custom_ops=options.custom_ops,
    )


def deployable(model: PSP, info: EngineInfo) -> DeployedPSP:
    """The deployable form of a trained model, in the precision of the engine."""
    module = DeployedPSP(model, info.input).eval()
    if info.custom_ops:
        custom_ops.use_in(module)
    if info.precision == "fp16":
        images = pictures(info.input, info.classes, CALIBRATION_PICTURES, CALIBRATION_SEED)
        balance_encoder(module.encoder, torch.from_numpy(images))
        to_half(module)
    return module


def _write_onnx(
    model: PSP, info: EngineInfo, opset: int, stem: Path, cases: Cases, parts: bool, say: Say
) -> list[Written]:
    """The ONNX files: the full engine, the mapping network and, if asked for, encoder and generator alone."""
    say("preparing the deployable form")
    module = deployable(model, info)
    say("exporting ONNX")
    files = [_write_full(module, info, opset, stem, cases, say)]
    say("writing the mapping network")
    mapping = _Draft(DeployedMapping(model.decoder), replace(info, part="mapping", precision="fp32"), opset, stem)
    if cases:
        mapping.verified(verify.compare_mapping(mapping.session(), model))
    files.append(mapping.written())
    if parts:
        say("writing encoder and generator alone")
        files += _write_parts(module, info, opset, stem, cases)
    return files


def _write_full(module: DeployedPSP, info: EngineInfo, opset: int, stem: Path, cases: Cases, say: Say) -> Written:
    draft = _Draft(module, info, opset, stem)
    if cases:
        say("verifying against PyTorch FP32")
        headroom = check_headroom(draft.path, cases) if info.precision == "fp16" else None
        draft.verified(verify.compare(verify.whole(draft.session()), info, cases, headroom))
    return draft.written()


def _write_parts(module: DeployedPSP, info: EngineInfo, opset: int, stem: Path, cases: Cases) -> list[Written]:
    """Encoder and generator alone, compared as one."""
    drafts = [_Draft(getattr(module, part), replace(info, part=part), opset, stem) for part in PARTS]
    if cases:
        parity = verify.compare(verify.parts(*(draft.session() for draft in drafts)), info, cases)
        for draft in drafts:
            draft.verified(parity)
    return [draft.written() for draft in drafts]


class _Draft:
    """An ONNX file in the making: on disk, and in memory (up to 1.2 GB) until its parity is known."""

    def __init__(self, module: nn.Module, info: EngineInfo, opset: int, stem: Path) -> None:
        part = "" if info.part == "full" else f".{info.part}"
        self.path = stem.with_name(f"{stem.name}{part}.onnx")
        self.parity = "not verified"
        self.model = to_onnx(module, info, opset)
        self.info = replace(info, custom_ops=add_bodies(self.model))
        set_info(self.model, self.info)
        save(self.model, self.path)

    def session(self) -> OnnxSession:
        return OnnxSession(self.path, "cpu")

    def verified(self, parity: verify.Parity | verify.MappingParity) -> None:
        """Write the measured parity into the file."""
        self.parity = str(parity)
        set_info(self.model, replace(self.info, parity=parity.to_metadata()))
        save(self.model, self.path)

    def written(self) -> Written:
        return Written(self.path, self.info.part, stored_precision(self.path), self.parity)


def _write_plans(files: list[Written], flavour: str, options: Options, cases: Cases, say: Say) -> list[Written]:
    """A plan of every ONNX file but the mapping network, which is small and FP32: ONNX Runtime serves it.

    With "auto" the ONNX files stand even where TensorRT refuses: a warning says so.
    """
    sources = [file for file in files if file.part != "mapping"]
    try:
        plans = [_build_plan(source, flavour, options, say) for source in sources]
        return _verify_plans(plans, sources[0], cases, say) if cases else plans
    except (BuildError, EngineError) as error:
        if options.backend == "tensorrt":
            raise
        warnings.warn(f"no plan was written: {error}", stacklevel=3)
        return []


def _build_plan(source: Written, flavour: str, options: Options, say: Say) -> Written:
    plan = source.path.with_suffix(".trt")
    stage = f"building {plan.name} with {flavour}"
    say(stage)
    with plan_source(source.path, flavour) as path:
        build_plan(path, plan, flavour, options.build_settings, tell=partial(say, stage))
    return Written(plan, source.part, stored_precision(plan, source.path), "not verified")


def _verify_plans(plans: list[Written], source: Written, cases: Cases, say: Say) -> list[Written]:
    """Run the plans where this machine can, the encoder and generator alone as one."""
    info = read_info(plans[0].path)
    lacking = lacking_for_plan(plans[0].path, info)
    if lacking:
        parity = f"not run here, for want of {lacking}; {source.path.name}: {source.parity}"
        return [replace(plan, parity=parity if plan.part == "full" else "not run here") for plan in plans]
    say("verifying on the GPU")
    with ExitStack() as opened:
        sessions = [opened.enter_context(closing(open_session(plan.path, "cuda"))) for plan in plans]
        words = [str(verify.compare(verify.whole(sessions[0]), info, cases))]
        if len(sessions) > 1:
            words += [str(verify.compare(verify.parts(*sessions[1:]), info, cases))] * len(PARTS)
    return [replace(plan, parity=parity) for plan, parity in zip(plans, words, strict=True)]
