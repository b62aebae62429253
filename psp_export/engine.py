"""ONNX file -> TensorRT plan: one path for TensorRT 8.6, 10, 11 and TensorRT-RTX. Imports no torch.

Enum members are looked up by name, because their numbers and their existence changed between versions:

* RTX and 11 dropped the FP16 flag; precision is what the ONNX graph says (strongly typed network);
* 8.6 has no strongly typed networks: it gets the FP16 flag, and every layer the type of the ONNX tensor it
  computes, to be obeyed, else the FP32 islands would run in FP16.
"""

import ctypes
import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from psp_runtime.errors import PspError
from psp_runtime.metadata import EngineInfo, read_info
from psp_runtime.sessions import cuda_devices, importable

Progress = Callable[[str], None]

#: Kernels and tables in a plan besides the weights, at most.
PLAN_OVERHEAD = 16 << 20

#: Module and metadata name of each flavour.
TENSORRT, RTX = "tensorrt", "tensorrt_rtx"


class BuildError(PspError):
    """TensorRT refused the graph or could not build the plan."""


def choose_flavour() -> str | None:
    """The TensorRT to build with: `tensorrt` where there is a GPU, else TensorRT-RTX, which needs none; or None."""
    if importable(TENSORRT) and cuda_devices() > 0:
        return TENSORRT
    return RTX if importable(RTX) else None


def build_plan(
    source: Path,
    target: Path,
    flavour: str,
    workspace_mb: int = 4096,
    timing_cache: Path | None = None,
    progress: Progress = lambda message: None,
) -> EngineInfo:
    """Build the plan of one of our ONNX files and write it to `target`; returns the metadata it carries.

    The batch is dynamic, 1 to the `max_batch` in the metadata, tuned for 1. Raises `BuildError` with TensorRT's words.
    """
    trt = importlib.import_module(flavour)
    info = read_info(source)
    info = replace(info, backend=flavour, backend_version=trt.__version__, device=_gpu_name())
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, logger)
    progress("parsing")
    if not parser.parse(_parser_input(source)):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BuildError(f"{flavour} {trt.__version__} cannot parse {source}: {errors}")
    network.name = info.to_plan_name()
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.add_optimization_profile(_profile(builder, network, info.max_batch))
    if info.precision == "fp16" and not _strongly_typed(trt):
        _obey_types(trt, network, config, source)
    if timing_cache and flavour == RTX:
        warnings.warn(
            "TensorRT-RTX compiles for the GPU it meets, it has no timings: --timing-cache ignored", stacklevel=2
        )
        timing_cache = None
    progress("building")
    with _timing_cache(trt, config, timing_cache):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = logger.last_error or "it gave no reason"
        raise BuildError(f"{flavour} {trt.__version__} could not build {target.name}: {reason}")
    target.write_bytes(plan)
    return info


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps the last error for our message; TensorRT's own chatter stays off the terminal."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last_error = message.strip()

    return Logger()


def _creation_flags(trt: Any) -> int:
    """Explicit batch where it still has to be said, strong typing where it exists."""
    flags = trt.NetworkDefinitionCreationFlag
    names = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(flags, name)]
    return sum(1 << int(getattr(flags, name)) for name in names)


def _strongly_typed(trt: Any) -> bool:
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(trt.BuilderFlag, "FP16")


def _parser_input(source: Path) -> bytes:
    """The file, with local functions inlined: TensorRT 8.6 does not know them."""
    model = onnx.load(str(source))
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    return model.SerializeToString()


def _profile(builder: Any, network: Any, max_batch: int) -> Any:
    """Batch 1..max_batch for every input, tuned for 1."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (1, *rest), (max_batch, *rest))
    return profile


def _obey_types(trt: Any, network: Any, config: Any, source: Path) -> None:
    """TensorRT 8.6: FP16 allowed, and every layer bound to the types of the ONNX graph."""
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    types = tensor_types(onnx.load(str(source)))
    known = {onnx.TensorProto.FLOAT: trt.float32, onnx.TensorProto.FLOAT16: trt.float16}
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        outputs = [known.get(types.get(layer.get_output(i).name)) for i in range(layer.num_outputs)]
        if layer.type in (trt.LayerType.SHAPE, trt.LayerType.CAST) or None in outputs or not outputs:
            continue
        layer.precision = outputs[0]
        for index, dtype in enumerate(outputs):
            layer.set_output_type(index, dtype)


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor in the graph, by ONNX's own inference."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


@contextmanager
def _timing_cache(trt: Any, config: Any, path: Path | None) -> Iterator[None]:
    """Measured kernel times kept between builds, so that the next build of the same layers is quick."""
    if path is None:
        yield
        return
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None:
        raise BuildError(f"{path} is not a timing cache of TensorRT {trt.__version__}: delete it, or give another")
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    serialized = config.get_timing_cache().serialize()
    part = path.with_name(path.name + ".part")
    part.write_bytes(serialized)
    part.replace(path)


def weight_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of the weights per element type ("float", "float16", ...)."""
    total: dict[str, int] = {}
    for tensor in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        total[kind] = total.get(kind, 0) + size
    return total


def stored_precision(path: Path, source: Path | None = None) -> str:
    """The precision a file really holds: "fp16" or "fp32".

    An ONNX file is judged by its weights. So is a plan, against its ONNX `source`: FP16 that silently became FP32 makes
    the weights in a plan twice as large (not to be seen in a model smaller than the kernels a plan also holds).
    """
    weights = weight_bytes(onnx.load(str(source or path)))
    half = weights.get("float16", 0) > weights.get("float", 0)
    if source is not None:
        half = half and path.stat().st_size - PLAN_OVERHEAD < 1.5 * sum(weights.values())
    return "fp16" if half else "fp32"


def _gpu_name() -> str:
    """Name and compute capability of the first GPU, or an empty string."""
    if cuda_devices() == 0:
        return ""
    driver = ctypes.CDLL("libcuda.so.1")
    name, major, minor = ctypes.create_string_buffer(100), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, 100, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    return f"{name.value.decode()} (compute capability {major.value}.{minor.value})"
