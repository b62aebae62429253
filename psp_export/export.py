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

from psp_export import engine, graph, verify
from psp_export.deploy import DeployedMapping, DeployedPSP
from psp_export.precision import balance_encoder, to_half
from psp_runtime.errors import PspError
from psp_runtime.metadata import EngineInfo
from psp_runtime.sessions import OnnxSession, cuda_devices, open_session
from psp_runtime.tasks import INPUT_SIZE
from psp_train.checkpoints import Checkpoint
from psp_train.networks import PSP

Say = Callable[[str], None]
Cases = list[verify.Case]

ENGINE_SUFFIXES = (".onnx", ".trt", ".plan", ".engine")
CALIBRATION_PICTURES = 6


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


@dataclass(frozen=True)
class Written:
    """One finished file: what it is, the precision found in it, and its parity ("" where none was measured)."""

    path: Path
    part: str
    precision: str
    parity: str


def export(checkpoint: Checkpoint, options: Options, say: Say = lambda message: None) -> list[Written]:
    """Write the engine of a checkpoint and the files beside it.

    Raises `ParityError` when an engine does not match the reference, `PspError` for everything a user can mend; in
    both cases no file is written.
    """
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
    _warn_of_leftovers(base, files)
    return [replace(file, path=base.parent / file.path.name) for file in files]


def _warn_of_leftovers(base: Path, files: list[Written]) -> None:
    """Files of an earlier export under the same name would be taken for parts of this one."""
    stems = (base.name, *(f"{base.name}.{part}" for part in graph.TENSORS))
    names = {stem + suffix for stem in stems for suffix in (".onnx", ".trt")} - {file.path.name for file in files}
    left = sorted(name for name in names if (base.parent / name).exists())
    if left:
        warnings.warn(f"left from an earlier export, not of this one: {', '.join(left)}", stacklevel=3)


def _base(output: Path) -> Path:
    """The common stem of all files. Raises `PspError` where none can be written."""
    base = output.with_suffix("") if output.suffix in ENGINE_SUFFIXES else output
    if base.is_dir() or not base.name:
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
    folder = Path(tempfile.mkdtemp(prefix=f".{base.name}-", dir=base.parent))
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
    )


def deployable(model: PSP, info: EngineInfo) -> DeployedPSP:
    """The deployable form of a trained model, in the precision of the engine."""
    module = DeployedPSP(model, info.input).eval()
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
    files = [_write_full(module, info, opset, stem, cases, say)]
    say("writing the mapping network")
    mapping = _write_part(DeployedMapping(model.decoder), "mapping", info, opset, stem)
    if cases:
        verify.check_mapping(OnnxSession(mapping.path, "cpu"), model)
    files.append(mapping)
    if parts:
        say("writing encoder and generator alone")
        encoder = _write_part(module.encoder, "encoder", info, opset, stem)
        generator = _write_part(module.generator, "generator", info, opset, stem)
        if cases:
            run = verify.parts(OnnxSession(encoder.path, "cpu"), OnnxSession(generator.path, "cpu"))
            parity = _words(verify.compare(run, info, cases))
            encoder, generator = replace(encoder, parity=parity), replace(generator, parity=parity)
        files += [encoder, generator]
    return files


def _write_full(module: DeployedPSP, info: EngineInfo, opset: int, stem: Path, cases: Cases, say: Say) -> Written:
    say("exporting ONNX")
    model, path = graph.to_onnx(module, info, opset), stem.with_name(f"{stem.name}.onnx")
    graph.save(model, path)
    if not cases:
        return Written(path, "full", engine.stored_precision(path), "not verified")
    say("verifying against PyTorch FP32")
    headroom = verify.check_headroom(path, cases[0].inputs) if info.precision == "fp16" else None
    parity = verify.compare(verify.whole(OnnxSession(path, "cpu")), info, cases, headroom)
    graph.set_info(model, replace(info, parity=parity.to_metadata()))
    graph.save(model, path)
    return Written(path, "full", engine.stored_precision(path), _words(parity))


def _write_part(module: nn.Module, part: str, info: EngineInfo, opset: int, stem: Path) -> Written:
    info = replace(info, part=part, precision="fp32" if part == "mapping" else info.precision)
    path = stem.with_name(f"{stem.name}.{part}.onnx")
    graph.save(graph.to_onnx(module, info, opset), path)
    return Written(path, part, engine.stored_precision(path), "")


def _write_plans(files: list[Written], flavour: str, options: Options, cases: Cases, say: Say) -> list[Written]:
    """A plan of every ONNX file but the mapping network, which is small and FP32: ONNX Runtime serves it.

    With "auto" the ONNX files stand even where TensorRT refuses: a warning says so.
    """
    sources = [file for file in files if file.part != "mapping"]
    try:
        return [_write_plan(source, flavour, options, cases, say) for source in sources]
    except engine.BuildError as error:
        if options.backend == "tensorrt":
            raise
        warnings.warn(f"no plan was written: {error}", stacklevel=4)
        return []


def _write_plan(source: Written, flavour: str, options: Options, cases: Cases, say: Say) -> Written:
    """The plan of one ONNX file, verified where a GPU can run it."""
    target = source.path.with_suffix(".trt")
    say(f"building {target.name} with {flavour}")
    engine.build_plan(source.path, target, flavour, options.workspace_mb, options.timing_cache)
    precision = engine.stored_precision(target, source.path)
    if not cases or source.part != "full":
        return Written(target, source.part, precision, "not verified")
    if not cuda_devices():
        return Written(target, source.part, precision, f"no GPU to run it; {source.path.name}: {source.parity}")
    say("verifying the plan on the GPU")
    session = open_session(target, "cuda")
    parity = verify.compare(verify.whole(session), session.info, cases)
    session.close()
    return Written(target, source.part, precision, _words(parity))


def _words(parity: verify.Parity) -> str:
    words = f"{parity.psnr:.1f} dB, within {parity.max_difference} levels"
    return words if parity.headroom is None else f"{words}, FP16 headroom {parity.headroom:.0f}x"
