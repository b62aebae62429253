"""Export a checkpoint to verified engine files: the main path of `psp-export`."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from psp_export.checks import check, check_pictures, flavour_of
from psp_export.deploy import DeployedMapping, DeployedPSP, DeployedStep, deploy
from psp_export.deploy.custom_ops import use_custom_ops
from psp_export.deploy.precision import balance_encoder, to_half
from psp_export.draft import Draft
from psp_export.graphs.functions import add_bodies
from psp_export.graphs.inspect import stored_precision
from psp_export.graphs.trace import to_onnx
from psp_export.int8.layouts import CPU, GPU
from psp_export.int8.quantiser import Quantiser, Source, prepare
from psp_export.int8.samples import drawn, from_folder
from psp_export.options import Options
from psp_export.output_files import Written, files_of, put_in_place, staging, stem
from psp_export.plans.build import BuildError, BuildSettings, build_plan
from psp_export.plans.source import plan_source
from psp_export.verify.bf16 import measure_bf16
from psp_export.verify.cases import CALIBRATION_SEED, Case, pictures, reference_cases
from psp_export.verify.headroom import check_headroom
from psp_export.verify.parity import chained, compare, compare_mapping, feeds, whole
from psp_runtime.engines.fields import WHOLE
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.session import open_session, plan_obstacle
from psp_runtime.errors import EngineError
from psp_runtime.tasks import INPUT_SIZE
from psp_train.checkpoints.psp import Checkpoint
from psp_train.networks import PSP

#: Called with each stage as it begins, and again with what happens in it.
Say = Callable[..., object]

CALIBRATION_PICTURES = 6


def _build_settings(options: Options) -> BuildSettings:
    return BuildSettings(options.workspace, options.timing_cache, options.optimization_level, options.tune_batch)


def export(checkpoint: Checkpoint, options: Options, say: Say = lambda *words: None) -> list[Written]:
    """Write the engine of a checkpoint and the files beside it; returns what was written.

    `say` is called with each stage of the work as it begins, and with a second argument for what happens in it.
    Raises `ParityError` when an engine does not match the reference, `PspError` for everything a user can mend; in
    both cases, as on a full disk or Ctrl-C, no file is written and earlier ones stay.
    """
    check(options)
    check_pictures(checkpoint, options)
    flavour = flavour_of(options)
    base = stem(options.output)
    with staging(base.parent) as folder:
        exporter = Exporter(checkpoint, options, folder / base.name, say)
        files = exporter.write_onnx()
        if flavour:
            files += exporter.write_plans(flavour)
        places = put_in_place([file.path for file in files], base.parent)
    _warn_of_others(base, places)
    return [replace(file, path=place) for file, place in zip(files, places, strict=True)]


def _warn_of_others(base: Path, written: list[Path]) -> None:
    left = [path.name for path in files_of(base) if path.exists() and path not in written]
    if left:
        warnings.warn(f"left over from an earlier export: {', '.join(left)}", stacklevel=3)


def engine_info(checkpoint: Checkpoint, options: Options) -> EngineInfo:
    """Describe a full engine that has not been verified yet."""
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
        mix_layers=checkpoint.mix_layers,
        mix_alpha=task.mix_alpha,
        max_batch=options.max_batch,
        precision=options.precision,
        backend="onnx",
        backend_version=f"opset {options.opset}",
        checkpoint=checkpoint.sha256,
        license=checkpoint.license,
        custom_ops=options.custom_ops,
        crop_scale=checkpoint.crop_scale,
        part="step" if encoder.refines else "full",
        input_height=task.input_height,
        rows=task.rows(generator.size),
        iterations=checkpoint.model.iterations if encoder.refines else 0,
    )


def deployable(model: PSP, info: EngineInfo) -> DeployedPSP | DeployedStep:
    """Turn a trained model into its deployable form, in the precision of the engine."""
    module = deploy(model, info.input)
    if info.custom_ops:
        use_custom_ops(module)
    if info.precision == "fp16":
        drawn = pictures(info.input, info.classes, CALIBRATION_PICTURES, CALIBRATION_SEED, info.input_height)
        images = torch.from_numpy(drawn)
        balance_encoder(module.encoder, *(module.encoder.calibration_inputs(images) if info.iterations else (images,)))
        to_half(module)
    return module


class Exporter:
    """An export under way: the model, what its engines say about themselves, and the cases they are verified with."""

    def __init__(self, checkpoint: Checkpoint, options: Options, stem: Path, say: Say) -> None:
        """Compute the reference's pictures if `options` ask for verification; `stem` is where the files are made."""
        self.model, self.info = checkpoint.model, engine_info(checkpoint, options)
        self.options, self.stem, self.say = options, stem, say
        self.cases: list[Case] = []
        if options.verify and options.precision != "int8":  # which has cases of its own
            say("computing the reference pictures")
            self.cases = reference_cases(self.model, self.info)
        self.engines: list[Written] = []
        self.quantiser: Quantiser | None = None

    def write_onnx(self) -> list[Written]:
        """Write the full engine, the mapping network and, if asked for, encoder and generator separately."""
        self.say("preparing the model for export")
        module = deployable(self.model, self.info)
        self.say("exporting to ONNX")
        if self.info.precision == "int8":
            self.quantiser = self._calibrated(module)
            self.engines = self.quantiser.write(CPU, self.stem)
        else:
            self.engines = [self._write_full(module)] + (self._write_parts(module) if self.options.parts else [])
        full, *parts = self.engines
        return [full, self._write_mapping(), *parts]

    def _calibrated(self, module: DeployedPSP | DeployedStep) -> Quantiser:
        """Write the FP32 files that INT8 ones are made of, and calibrate."""
        stem = self._folder("fp32") / self.stem.name
        parts = ("encoder", "generator") if self.options.parts else ()
        drafts = [self._draft(module, stem, precision="fp32")]
        drafts += [self._draft(getattr(module, part), stem, part=part, precision="fp32") for part in parts]
        sources = [Source(draft.path, draft.info) for draft in drafts]
        del drafts  # a gigabyte
        folder = self.options.calibrate
        samples = from_folder(folder, self.info) if folder else drawn(self.info)
        quantiser = prepare(self.model, sources, samples, self.options.verify, self.say)
        self.cases = list(quantiser.cases)
        return quantiser

    def _write_full(self, module: DeployedPSP | DeployedStep) -> Written:
        draft = self._draft(module)
        if self.cases:
            self.say("verifying against PyTorch FP32")
            headroom = None
            if self.info.precision == "fp16":
                headroom = check_headroom(draft.path, feeds(draft.session(), self.cases))
            parity = compare(whole(draft.session()), self.info, self.cases, headroom)
            in_bf16 = measure_bf16(draft.path, self.cases) if self.info.precision == "fp16" else ({}, "")
            draft.verified(parity, *in_bf16)
        return draft.written()

    def _write_mapping(self) -> Written:
        self.say("writing the mapping network")
        draft = self._draft(DeployedMapping(self.model.decoder), part="mapping", precision="fp32")
        if self.cases:
            draft.verified(compare_mapping(draft.session(), self.model))
        return draft.written()

    def _write_parts(self, module: DeployedPSP | DeployedStep) -> list[Written]:
        """Write encoder and generator separately, compared as one."""
        self.say("writing encoder and generator separately")
        drafts = [self._draft(getattr(module, part), part=part) for part in ("encoder", "generator")]
        if self.cases:
            parity = compare(chained(*(draft.session() for draft in drafts)), self.info, self.cases)
            for draft in drafts:
                draft.verified(parity)
        return [draft.written() for draft in drafts]

    def _folder(self, name: str) -> Path:
        """Make a folder for files that the export does not leave behind, gone with the staging folder."""
        folder = self.stem.parent / name
        folder.mkdir()
        return folder

    def _draft(self, module: nn.Module, stem: Path | None = None, **changes: str) -> Draft:
        """Write a module that is not verified yet, with `changes` to the metadata of the full engine."""
        info = replace(self.info, **changes)
        model = to_onnx(module, info, self.options.opset)
        return Draft(model, replace(info, custom_ops=add_bodies(model)), stem or self.stem)

    def write_plans(self, flavour: str) -> list[Written]:
        """Write a plan of every ONNX file but the mapping network, which is small and FP32: ONNX Runtime serves it.

        With "auto" the ONNX files stand even where TensorRT refuses: a warning says so. INT8 plans are built from files
        of their own form.
        """
        sources = self.engines
        if self.quantiser:
            sources = self.quantiser.write(GPU, self._folder("gpu") / self.stem.name)
        try:
            plans = [self._build_plan(source, flavour) for source in sources]
            return self._verify_plans(plans, sources[0]) if self.cases else plans
        except (BuildError, EngineError) as error:
            if self.options.backend == "tensorrt":
                raise
            warnings.warn(f"no plan was written: {error}", stacklevel=3)
            return []

    def _build_plan(self, source: Written, flavour: str) -> Written:
        plan = source.path.with_suffix(".trt")
        stage = f"building {plan.name} with {flavour}"
        self.say(stage)
        with plan_source(source.path, flavour) as path:
            build_plan(path, plan, flavour, _build_settings(self.options), tell=partial(self.say, stage))
        return Written(plan, source.part, stored_precision(plan, source.path), "not verified", source.note)

    def _verify_plans(self, plans: list[Written], source: Written) -> list[Written]:
        """Run the plans where this machine can, encoder and generator as one."""
        info = read_info(plans[0].path)
        obstacle = plan_obstacle(plans[0].path, info)
        if obstacle:
            from_what = f"its {info.precision.upper()} graph" if self.quantiser else source.path.name
            parity = f"not run here: it needs {obstacle}; {from_what}: {source.parity}"
            return [replace(plan, parity=parity if plan.part in WHOLE else "not run here") for plan in plans]
        self.say("verifying on the GPU")
        with ExitStack() as opened:
            full, *parts = [opened.enter_context(closing(open_session(plan.path, "cuda"))) for plan in plans]
            found = [compare(whole(full), info, self.cases)]
            if parts:
                found += [compare(chained(*parts), info, self.cases)] * len(parts)
        return [replace(plan, parity=str(parity)) for plan, parity in zip(plans, found, strict=True)]
