"""Build a TensorRT plan from an ONNX file: one path for TensorRT 8.6, 10, 11 and TensorRT-RTX. Imports no torch.

Enum members are looked up by name, because their numbers and their existence changed between versions:

* RTX and 11 dropped the FP16 flag; precision is what the ONNX graph says (strongly typed network);
* 8.6 has no strongly typed networks: it gets the FP16 flag, and every layer the type of the ONNX tensor it
  computes, to be obeyed, else the FP32 islands would run in FP16.
"""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from psp_export.graphs.inspect import stored_precision, tensor_types
from psp_export.plans.progress import Tell, watched
from psp_runtime.disk import replacing
from psp_runtime.engines.devices import cuda_devices, gpu_name, importable
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.tensorrt.engine import the_logger
from psp_runtime.engines.tensorrt.interrupts import interrupts_noted
from psp_runtime.errors import PspError

#: TensorRT's own default of its builder optimisation levels 0 to 5.
DEFAULT_LEVEL = 3

#: Module and metadata name of each flavour.
TENSORRT, RTX = "tensorrt", "tensorrt_rtx"


class BuildError(PspError):
    """TensorRT refused the graph or could not build the plan."""


@dataclass(frozen=True)
class BuildSettings:
    """How a plan is built, which changes how fast it is but not what it computes.

    `workspace_mb` is the scratch memory of the build in MiB; `timing_cache` a file of kernel timings kept between
    builds, which TensorRT-RTX does without; `level` TensorRT's builder optimisation level, 0 to 5: how long it looks
    for faster kernels; `tuned_batch` the batch size the kernels are chosen for, at most the largest of the engine.
    """

    workspace_mb: int = 4096
    timing_cache: Path | None = None
    level: int = DEFAULT_LEVEL
    tuned_batch: int = 1


def choose_flavour() -> str | None:
    """Choose what to build with: `tensorrt` where there is a GPU, else TensorRT-RTX, which needs none; or None."""
    if importable(TENSORRT) and cuda_devices() > 0:
        return TENSORRT
    return RTX if importable(RTX) else None


def build_plan(
    source: Path,
    target: Path,
    flavour: str,
    settings: BuildSettings = BuildSettings(),
    tell: Tell = lambda text: None,
) -> EngineInfo:
    """Build the plan of one of our ONNX files and write it to `target`; returns the metadata it carries.

    The batch is dynamic, 1 to the `max_batch` in the metadata. `tell` is given what TensorRT is doing, a few times a
    second. Raises `BuildError` with TensorRT's words, and when the plan does not hold the precision asked for.
    """
    trt = importlib.import_module(flavour)
    logger = the_logger(trt)
    logger.errors.clear()
    # A TensorRT plan is for the GPU it was built on; TensorRT-RTX compiles on the GPU it meets.
    device = gpu_name() if flavour == TENSORRT else ""
    if read_info(source).precision == "int8" and not _strongly_typed(trt):
        raise BuildError(
            f"{flavour} {trt.__version__} builds no INT8 plan: strong typing needs TensorRT 10 or newer, or "
            "TensorRT-RTX"
        )
    info = replace(read_info(source), backend=flavour, backend_version=trt.__version__, device=device)
    plan = _serialized(trt, source, info, settings, tell)
    if plan is None:
        reason = logger.errors[-1] if logger.errors else "it gave no reason"
        raise BuildError(f"{flavour} {trt.__version__} could not build {target.name}: {reason}")
    target.write_bytes(plan)
    found = stored_precision(target, source)
    if found != info.precision:
        raise BuildError(f"{flavour} {trt.__version__} built {target.name} in {found}, expected {info.precision}")
    return info


def _serialized(trt: Any, source: Path, info: EngineInfo, settings: BuildSettings, tell: Tell) -> Any:
    """Build a plan that carries `info`; returns its bytes, or None where TensorRT could not."""
    logger = the_logger(trt)
    with interrupts_noted() as interrupted:
        builder = _builder(trt, logger)
        network, parser = _parsed(trt, builder, logger, source)
        network.name = info.to_plan_name()
        config = _config(trt, builder, network, info, source)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb << 20)
        config.builder_optimization_level = settings.level
        config.add_optimization_profile(_profile(builder, network, settings.tuned_batch, info.max_batch))
        cache = None if info.backend == RTX else settings.timing_cache
        with _timing_cache(trt, config, cache), watched(trt, config, logger, tell, interrupted):
            plan = None if interrupted.is_set() else builder.build_serialized_network(network, config)
        del parser  # until here: the network reads its weights
    return plan


def _builder(trt: Any, logger: Any) -> Any:
    """Make a builder. Raises `BuildError` where TensorRT does not start: its error is about a null pointer."""
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:
        reason = logger.errors[-1] if logger.errors else str(error)
        raise BuildError(f"{trt.__name__} {trt.__version__} does not start on this machine: {reason}") from error


def _parsed(trt: Any, builder: Any, logger: Any, source: Path) -> tuple[Any, Any]:
    """Parse an ONNX file; returns its network, and the parser that holds its weights."""
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(source.read_bytes()):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BuildError(f"{trt.__name__} {trt.__version__} cannot parse {source.name}: {errors}")
    return network, parser


def _config(trt: Any, builder: Any, network: Any, info: EngineInfo, source: Path) -> Any:
    """Configure what keeps the plan right whatever it is tuned for."""
    config = builder.create_builder_config()
    if hasattr(trt, "PreviewFeature") and hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"):
        # 8.6 gives a profile to one execution context only; the runtime has one per batch size. 10 always shares.
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    # TF32 is on by default: it would round what the graph keeps in FP32 to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if info.precision == "fp16" and not _strongly_typed(trt):
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _obey_types(trt, network, tensor_types(onnx.load(str(source))))
    return config


def _creation_flags(trt: Any) -> int:
    """Ask for an explicit batch where that still has to be said, for strong typing where it exists."""
    flags = trt.NetworkDefinitionCreationFlag
    names = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(flags, name)]
    return sum(1 << int(getattr(flags, name)) for name in names)


def _strongly_typed(trt: Any) -> bool:
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(trt.BuilderFlag, "FP16")


def _profile(builder: Any, network: Any, tuned_batch: int, max_batch: int) -> Any:
    """Allow batches of 1 to `max_batch` for every input."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (min(tuned_batch, max_batch), *rest), (max_batch, *rest))
    return profile


def _obey_types(trt: Any, network: Any, types: dict[str, int]) -> None:
    """Bind every layer of a network of TensorRT 8.6 to the types of the ONNX graph.

    The parser splits some ONNX nodes into layers with tensors of its own (a Gemm into products and sums): those take
    the type of their inputs. Shapes, which it computes in layers of their own too, stay integers.
    """
    known = {onnx.TensorProto.FLOAT: trt.float32, onnx.TensorProto.FLOAT16: trt.float16}
    bound = {name: known[kind] for name, kind in types.items() if kind in known}
    for layer in map(network.get_layer, range(network.num_layers)):
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        inherited = next((bound[tensor.name] for tensor in inputs if tensor is not None and tensor.name in bound), None)
        for index, name in _float_outputs(trt, layer):
            if name not in bound and name not in types and inherited is not None:
                bound[name] = inherited
            if name in bound and layer.type not in (trt.LayerType.SHAPE, trt.LayerType.CAST):
                layer.precision = bound[name]
                layer.set_output_type(index, bound[name])


def _float_outputs(trt: Any, layer: Any) -> list[tuple[int, str]]:
    """List a layer's outputs of a floating-point type: index and name."""
    outputs = [(index, layer.get_output(index)) for index in range(layer.num_outputs)]
    return [(index, tensor.name) for index, tensor in outputs if tensor.dtype in (trt.float32, trt.float16)]


def check_timing_cache(path: Path | None, flavour: str | None) -> None:
    """Warn of a timing cache without effect, or raise `PspError`, before the build, which can take minutes."""
    if path is None:
        return
    if flavour != TENSORRT:
        warnings.warn("--timing-cache has no effect: only TensorRT keeps kernel timings", stacklevel=2)
    elif path.is_dir() or not path.parent.is_dir():
        raise PspError(f"--timing-cache {path}: expected a file in an existing folder")


@contextmanager
def _timing_cache(trt: Any, config: Any, path: Path | None) -> Iterator[None]:
    """Keep measured kernel times between builds, so that the next build of the same layers is quick."""
    if path is None:
        yield
        return
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise PspError(
            f"--timing-cache {path} was not made by TensorRT {trt.__version__} on this GPU: delete it, or give another"
        )
    yield
    grown = config.get_timing_cache()
    if grown is not None:
        with replacing(path) as file:
            file.write(grown.serialize())
