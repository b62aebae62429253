"""A checkpoint becomes verified engine files: the main path of `psp-export`.

Everything is made in a temporary folder beside the target and moved into place at the very end, so that a failed
verification, a full disk or Ctrl-C leaves earlier files as they were and nothing half-written.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from psp_export import custom_ops, engine, graph, verify
from psp_export.deploy import DeployedMapping, DeployedPSP
from psp_export.precision import balance_encoder, to_half
from psp_runtime.errors import EngineError, PspError
from psp_runtime.metadata import EngineInfo, read_info
from psp_runtime.sessions import OnnxSession, lacking_for_plan, open_session
from psp_runtime.tasks import INPUT_SIZE
from psp_train.checkpoints import Checkpoint
from psp_train.networks import PSP

Say = Callable[[str], None]
Cases = list[verify.Case]

ENGINE_SUFFIXES = (".onnx", ".trt", ".plan", ".engine")
CALIBRATION_PICTURES = 6
PARTS = ("encoder", "generator")


@dataclass(frozen=True)
class Options:
    """What `psp-export` was asked for; `backend` is "auto", "onnx" or "tensorrt"."""

    output: Path = Path("psp")
    precision: str = "fp32"
    backend: str = "auto"
    max_batch: int = 8
    workspace_mb: int = 4096
    timing_cache: Path | None = None
    opset: int = graph.DEFAULT_OPSET
    verify: bool = True
    parts: bool = False
    custom_ops: bool = False
    optimization_level: int = engine.DEFAULT_LEVEL
    tune_batch: int = 1


@dataclass(frozen=True)
class Written:
    """One finished file: what it is, the precision found in it, and its parity ("" where none was measured)."""

    path: Path
    part: str
    precision: str
    parity: str


def check(options: Options) -> None:
    """What can be said before any work: raises `PspError` for a target or backend that will not do."""
    base = _base(options.output)
    for path in _files_of(base):
        if path.is_dir():
            raise PspError(f"{path} is a folder: give another --output")
    engine.check_timing_cache(options.timing_cache, _flavour(options))
    if options.tune_batch > options.max_batch:
        raise PspError(f"--tune-batch {options.tune_batch}: the plan serves batches of 1..{options.max_batch}")


def export(checkpoint: Checkpoint, options: Options, say: Say = lambda message: None) -> list[Written]:
    """Write the engine of a checkpoint and the files beside it.

    Raises `ParityError` when an engine does not match the reference, `PspError` for everything a user can mend; in
    both cases no file is written.
    """
    check(options)
    flavour = _flavour(options)
    base, info = _base(options.output), engine_info(checkpoint, options)
    model = checkpoint.model
    with _workshop(base) as folder:
        if options.verify:
            say("computing the reference pictures")
        cases = verify.reference_cases(model, info) if options.verify else []
        files = _write_onnx(model, info, options.opset, folder / base.name, cases, options.parts, say)
        if flavour:
            files += _write_plans(files, flavour, options, cases, say)
        for file in files:
            os.replace(file.path, base.parent / file.path.name)
    files = [replace(file, path=base.parent / file.path.name) for file in files]
    left = [path.name for path in _files_of(base) if path.exists() and path not in {file.path for file in files}]
    if left:
        warnings.warn(f"left from an earlier export, not of this one: {', '.join(left)}", stacklevel=2)
    return files


def _files_of(base: Path) -> list[Path]:
    """Every file an export of that name may write."""
    stems = [base.name, *(f"{base.name}.{part}" for part in graph.TENSORS if part != "full")]
    return [base.parent / f"{stem}{suffix}" for stem in stems for suffix in (".onnx", ".trt")]


def _base(output: Path) -> Path:
    """The common stem of all files. Raises `PspError` where none can be written."""
    base = output.with_suffix("") if output.suffix in ENGINE_SUFFIXES else output
    if not output.name or (output.is_dir() and output != Options.output):
        raise PspError(f"--output {output} is a folder: give a name in it, such as {output / 'psp'}")
    if not base.parent.is_dir():
        raise PspError(f"--output {output}: there is no folder {base.parent}; create it first")
    return base


def _flavour(options: Options) -> str | None:
    """The TensorRT to build plans with, or None."""
    if options.backend == "onnx":
        return None
    flavour = engine.choose_flavour()
    if flavour is None and options.backend == "tensorrt":
        raise PspError(
            "no TensorRT to build a plan with: install psp-toolkit[rtx] (builds without a GPU), or "
            "psp-toolkit[tensorrt] on a machine with an NVIDIA GPU; or use --backend onnx"
        )
    return flavour


@contextmanager
def _workshop(base: Path) -> Iterator[Path]:
    """A temporary folder on the target's own file system, gone at the end whatever happens."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{base.name}-", dir=base.parent))
    except OSError as error:
        raise PspError(f"cannot write into {base.parent}: {error.strerror}; give another --output") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
        images = verify.pictures(info.input, info.classes, CALIBRATION_PICTURES, verify.CALIBRATION_SEED)
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
    full = _Draft(module, info, opset, stem.with_name(f"{stem.name}.onnx"))
    if cases:
        say("verifying against PyTorch FP32")
        headroom = verify.check_headroom(full.path, cases) if info.precision == "fp16" else None
        full.verified(verify.compare(verify.whole(full.session()), info, cases, headroom))
    say("writing the mapping network")
    mapping = _Draft(DeployedMapping(model.decoder), replace(info, part="mapping", precision="fp32"), opset, stem)
    words = f"relative error {verify.check_mapping(mapping.session(), model):.0e}" if cases else ""
    files = [full.written(), mapping.written(words)]
    del full  # up to 1.2 GB
    if parts:
        say("writing encoder and generator alone")
        drafts = [_Draft(getattr(module, part), replace(info, part=part), opset, stem) for part in PARTS]
        if cases:
            parity = verify.compare(verify.parts(*(draft.session() for draft in drafts)), info, cases)
            for draft in drafts:
                draft.verified(parity)
        files += [draft.written() for draft in drafts]
    return files


class _Draft:
    """An ONNX file in the making: on disk, and in memory until its parity is known."""

    def __init__(self, module: nn.Module, info: EngineInfo, opset: int, path: Path) -> None:
        self.path = path if info.part == "full" else path.with_name(f"{path.name}.{info.part}.onnx")
        self.parity = "not verified"
        self.model = graph.to_onnx(module, info, opset)
        self.info = replace(info, custom_ops=custom_ops.add_bodies(self.model))
        graph.set_info(self.model, self.info)
        graph.save(self.model, self.path)

    def session(self) -> OnnxSession:
        return OnnxSession(self.path, "cpu")

    def verified(self, parity: verify.Parity) -> None:
        """Write the measured parity into the file."""
        self.parity = _words(parity)
        graph.set_info(self.model, replace(self.info, parity=parity.to_metadata()))
        graph.save(self.model, self.path)

    def written(self, parity: str = "") -> Written:
        return Written(self.path, self.info.part, engine.stored_precision(self.path), parity or self.parity)


def _write_plans(files: list[Written], flavour: str, options: Options, cases: Cases, say: Say) -> list[Written]:
    """A plan of every ONNX file but the mapping network, which is small and FP32: ONNX Runtime serves it.

    With "auto" the ONNX files stand even where TensorRT refuses: a warning says so.
    """
    sources = [file for file in files if file.part != "mapping"]
    try:
        plans = []
        for source in sources:
            target = source.path.with_suffix(".trt")
            say(f"building {target.name} with {flavour}")
            with custom_ops.plan_source(source.path, flavour) as path:
                engine.build_plan(
                    path,
                    target,
                    flavour,
                    options.workspace_mb,
                    options.timing_cache,
                    options.optimization_level,
                    options.tune_batch,
                )
            plans.append(Written(target, source.part, engine.stored_precision(target, source.path), "not verified"))
        return _verify_plans(plans, sources[0], cases, say) if cases else plans
    except (engine.BuildError, EngineError) as error:
        if options.backend == "tensorrt":
            raise
        warnings.warn(f"no plan was written: {error}", stacklevel=3)
        return []


def _verify_plans(plans: list[Written], source: Written, cases: Cases, say: Say) -> list[Written]:
    """Run the plans where this machine can, the encoder and generator alone as one."""
    info = read_info(plans[0].path)
    lacking = lacking_for_plan(plans[0].path, info)
    if lacking:
        parity = f"not run here, for want of {lacking}; {source.path.name}: {source.parity}"
        return [replace(plan, parity=parity if plan.part == "full" else "not run here") for plan in plans]
    say("verifying on the GPU")
    sessions = [open_session(plan.path, "cuda") for plan in plans]
    words = [_words(verify.compare(verify.whole(sessions[0]), info, cases))]
    if len(sessions) > 1:
        words += [_words(verify.compare(verify.parts(*sessions[1:]), info, cases))] * len(PARTS)
    for session in sessions:
        session.close()
    return [replace(plan, parity=parity) for plan, parity in zip(plans, words, strict=True)]


def _words(parity: verify.Parity) -> str:
    words = f"{parity.psnr:.1f} dB, within {parity.max_difference} levels"
    return words if parity.headroom is None else f"{words}, FP16 headroom {parity.headroom:.0f}x"
