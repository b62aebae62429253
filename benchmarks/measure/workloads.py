"""What the benchmarks run: the published architecture on seeded weights, and its engine files.

Nothing is downloaded: `psp_train.seeded` rebuilds the same weights everywhere, and the time does not depend on their
values. Engine files take minutes to make and up to a gigabyte each, so they are kept in the user's cache folder
(`$XDG_CACHE_HOME` or `~/.cache`, there `psp-toolkit/benchmarks`), under a key of everything that determines them.
"""

import functools
import hashlib
import importlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch

import psp_export
import psp_train
from measure.baseline import Baseline
from measure.peers.pieces import peer_info, peer_inputs
from measure.peers.shapes import PEERS, PeerKind, PeerSize, peer_size
from measure.peers.weights import seeded_peer
from psp_export.export import Options, engine_info, export
from psp_export.graphs.trace import DEFAULT_OPSET, save, set_info
from psp_export.plans.build import BuildSettings, build_plan, choose_flavour
from psp_runtime.engines import contract
from psp_runtime.engines.devices import gpu_name
from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.tasks import INPUT_SIZE, get_task
from psp_train import demo
from psp_train.checkpoints.psp import Checkpoint
from psp_train.networks import PSP, EncoderConfig, GeneratorConfig
from psp_train.networks.config import EncoderKind
from psp_train.seeded import seeded_state_dict, unit_uniform

SIZES = (64, 128, 256, 512, 1024)
#: Encoders whose baseline torch's tracing exporter refuses, and why.
NOT_EXPORTABLE = {"naive_wplus": "its adaptive pooling from 16 to 7 has no ONNX form in torch's tracing exporter"}
#: What a plan is built for at most.
MAX_BATCH = 16
HASH_LENGTH, DAY = 12, 24 * 3600


class Piece(NamedTuple):
    """What is timed: a "full" model, or the "encoder" or "generator" of it alone; pSp, or a peer of its paper."""

    kind: EncoderKind | PeerKind
    part: str

    @property
    def peer(self) -> bool:
        """Whether it is a network of others (`measure/peers`): there is no engine of ours."""
        return self.kind in PEERS


FULL, GENERATOR = Piece("psp", "full"), Piece("psp", "generator")


@dataclass(frozen=True)
class Workload:
    """Pictures of one size in batches of one size; `small` has the widths of the bundled demo model, up to 256."""

    size: int = 1024
    batch: int = 1
    small: bool = False


def configs(workload: Workload, kind: EncoderKind) -> tuple[EncoderConfig, GeneratorConfig]:
    """The architecture: published widths, or those of the demo model."""
    if workload.small:
        generator = replace(demo.GENERATOR, size=workload.size)
        return replace(demo.encoder_config("inversion"), kind=kind, styles=generator.styles), generator
    generator = GeneratorConfig(size=workload.size)
    return EncoderConfig(kind, styles=generator.styles), generator


@functools.lru_cache(1)  # a gigabyte: one at a time, and the pieces of one model stand together
def seeded_checkpoint(workload: Workload, kind: EncoderKind = "psp") -> Checkpoint:
    """The model on seeded weights, as if it had been loaded from a file. Shared between callers: do not change it."""
    encoder, generator = configs(workload, kind)
    with torch.device("meta"):
        model = PSP(encoder, generator)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in seeded_state_dict(shapes).items()}
    model.load_state_dict(state, assign=True)
    model.latent_avg = torch.zeros(generator.styles, generator.style_dim)
    model.eval().requires_grad_(False)
    return Checkpoint(model, get_task("inversion"), encoder, generator, "0" * 64, "seeded weights", "seeded")


def inputs(workload: Workload, piece: Piece) -> dict[str, np.ndarray]:
    """Inputs of a piece by name, as the engine contract has them; alpha 0, so that nothing is mixed."""
    _, generator = configs(workload, piece.kind)
    codes = (workload.batch, generator.styles, generator.style_dim)
    if piece.part == "generator":
        return {"latents": unit_uniform("latents", codes)}
    shape = (workload.batch, INPUT_SIZE, INPUT_SIZE, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if piece.part == "encoder":
        return {"image": image}
    return {"image": image, "style": np.zeros(codes, np.float32), "alpha": np.zeros(codes[:2], np.float32)}


def our_engine(workload: Workload, piece: Piece, precision: str) -> Path:
    """The .onnx file `psp-export --parts` writes for a piece. The batch of the workload does not matter: dynamic."""
    model = replace(workload, batch=1)
    folder = cached(
        f"ours-{model_name(model, piece)}-{precision}", functools.partial(_export_ours, model, piece, precision)
    )
    return folder / f"{_stem(piece)}.onnx"


def our_plan(workload: Workload, piece: Piece, precision: str) -> Path:
    """A plan of `our_engine`, tuned for the batch of the workload. Raises `PspError` where no TensorRT can build it."""
    return plan_of(our_engine(workload, piece, precision), workload, piece, precision)


def plan_of(source: Path, workload: Workload, piece: Piece, precision: str) -> Path:
    """A plan of an ONNX file of a piece. Raises `PspError` where no TensorRT can build it."""
    flavour = choose_flavour()
    if flavour is None:
        raise PspError("no TensorRT is installed")
    name = f"plan-{model_name(workload, piece)}-{piece.part}-{precision}-batch{workload.batch}-{flavour}"
    target, maker = source.with_suffix(".trt").name, _plan_maker(flavour)
    timings = cache_folder() / f"{hashlib.sha256(maker.encode()).hexdigest()[:HASH_LENGTH]}.timing"

    settings = BuildSettings(timing_cache=timings, tuned_batch=workload.batch)

    def build(folder: Path) -> None:
        build_plan(source, folder / target, flavour, settings)

    return cached(name, build, maker) / target


def peer_plan(workload: Workload, piece: Piece) -> Path:
    """A plan of the file of a peer. Raises `PspError` where no TensorRT can build it."""
    return plan_of(baseline_engine(workload, piece), workload, piece, "fp32")


def _plan_maker(flavour: str) -> str:
    """What only opens plans it has made itself: this version of TensorRT, on this GPU."""
    return f"{flavour} {importlib.import_module(flavour).__version__} {gpu_name()}"


def baseline_engine(workload: Workload, piece: Piece) -> Path:
    """The baseline of a piece, or a peer, as torch's tracing exporter writes it: FP32, the batch of a baseline fixed.

    Raises `PspError` for the one that cannot be exported.
    """
    if piece.kind in NOT_EXPORTABLE:
        raise PspError(f"the baseline of {piece.kind} cannot be exported: {NOT_EXPORTABLE[piece.kind]}")
    name = f"reference-{model_name(workload, piece)}-{piece.part}-batch{workload.batch}"
    return cached(name, functools.partial(_export_reference, workload, piece)) / f"{_stem(piece)}.onnx"


def cached(name: str, write: Callable[[Path], object], maker: str = "") -> Path:
    """The folder `name` of the cache, filled by `write` where it is not there yet: whole, or not at all.

    Other sources, libraries or another `maker` make it anew.
    """
    target = cache_folder() / f"{name}-{hashlib.sha256(f'{_sources()} {maker}'.encode()).hexdigest()[:HASH_LENGTH]}"
    if target.is_dir():
        os.utime(target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _forget(name)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as workshop:
        draft = Path(workshop) / target.name
        draft.mkdir()
        write(draft)
        os.sync()  # gigabytes on their way to the disk would slow what is timed next
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():  # else another benchmark was faster, with the same files
                raise
    return target


def _forget(name: str) -> None:
    """Remove what earlier sources made under a name, unless it was used today: then another checkout may need it."""
    for folder in cache_folder().glob(f"{name}-{'[0-9a-f]' * HASH_LENGTH}"):
        if folder.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(folder)


def cache_folder() -> Path:
    """Where the engine files are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "psp-toolkit" / "benchmarks"


@functools.cache
def _sources() -> str:
    """A hash of the sources and libraries that make engine files."""
    folders = [Path(module.__file__).parent for module in (psp_export, psp_train)]
    files = [*folders[0].rglob("*.py"), folders[1] / "seeded.py"]
    for folder in ("networks", "ops", "drawn"):  # drawn faces calibrate the FP16 engines
        files += (folders[1] / folder).glob("*.py")
    files += [Path(__file__).with_name(name) for name in ("baseline.py", "workloads.py", "quantised.py")]
    files += [*(Path(__file__).parent / "peers").glob("*.py")]
    digest = hashlib.sha256(f"{torch.__version__} {onnx.__version__}".encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def model_name(workload: Workload, piece: Piece) -> str:
    """What folders of the cache call the model of a piece: "1024-psp"."""
    return f"{workload.size}-{piece.kind}{'-small' if workload.small else ''}"


def _stem(piece: Piece) -> str:
    return "psp" if piece.part == "full" else f"psp.{piece.part}"


def _export_ours(workload: Workload, piece: Piece, precision: str, folder: Path) -> None:
    """All parts in one go. `latency.py` compares their pictures with the reference's itself."""
    options = Options(folder / "psp", precision, "onnx", max_batch=MAX_BATCH, verify=False, parts=True)
    export(seeded_checkpoint(workload, piece.kind), options)
    for file in folder.iterdir():
        if piece.kind != "psp" and file.stem in ("psp", "psp.mapping"):  # only the pSp model is timed as a whole
            file.unlink()


def _export_reference(workload: Workload, piece: Piece, folder: Path) -> None:
    info, arrays = baseline_info(workload, piece), baseline_inputs(workload, piece)
    _trace(baseline_module(workload, piece), info, arrays, folder / f"{_stem(piece)}.onnx", dynamic=piece.peer)


def baseline_module(workload: Workload, piece: Piece) -> torch.nn.Module:
    """The baseline of a piece, or a peer, in torch."""
    if piece.peer:
        return seeded_peer(piece.kind, size_of_peer(workload, piece))
    return Baseline(seeded_checkpoint(workload, piece.kind).model, piece.part).eval()


def size_of_peer(workload: Workload, piece: Piece) -> PeerSize:
    """The side that was published for a peer, or that of the workload where it is less."""
    return peer_size(piece.kind, workload.size, workload.small)


def baseline_info(workload: Workload, piece: Piece) -> EngineInfo:
    """The metadata of the file of a baseline, or a peer."""
    if piece.peer:
        return peer_info(piece.kind, size_of_peer(workload, piece), piece.part, workload.batch)
    info = engine_info(seeded_checkpoint(workload, piece.kind), Options())
    return replace(info, part=piece.part, max_batch=workload.batch)


def baseline_inputs(workload: Workload, piece: Piece) -> dict[str, np.ndarray]:
    """Inputs of the baseline, or a peer, by name: it mixes nothing."""
    if piece.peer:
        return peer_inputs(piece.kind, size_of_peer(workload, piece), workload.batch)
    return {name: array for name, array in inputs(workload, piece).items() if name not in ("style", "alpha")}


def _trace(module: torch.nn.Module, info: EngineInfo, arrays: dict[str, np.ndarray], file: Path, dynamic: bool) -> None:
    """Export, with a dynamic batch or not: the grouped convolutions of the baseline need a fixed one."""
    outputs = list(contract.outputs(info))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Python values become constants: so they should
        torch.onnx.export(
            module,
            tuple(torch.from_numpy(array) for array in arrays.values()),
            str(file),
            input_names=list(arrays),
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in (*arrays, *outputs)} if dynamic else None,
            opset_version=DEFAULT_OPSET,
            dynamo=False,
        )
    model = onnx.load(str(file))
    set_info(model, info)  # so that psp_runtime opens it
    save(model, file)
