"""The custom operations as TensorRT plugins over our CUDA kernels (IPluginV3: TensorRT from 10.7, and TensorRT-RTX).

A node `psp::PspUpFirDn2d` or `psp::PspFusedBiasLeakyReLU` of an ONNX file made with `psp-export --custom-ops` becomes a
plugin where these classes are registered, and its function body elsewhere. A plan with plugins needs them again when
it is opened: `prepare` before it is deserialised. Tensors are plain NCHW, FP32 or FP16; FIR and bias are FP32.
"""

import ctypes
import functools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from psp_runtime.errors import EngineError
from psp_runtime.kernels import driver, launches, ptx
from psp_runtime.kernels.launches import Launch, Resampling, Tensor

NAMESPACE, VERSION = "psp", "1"

#: The first TensorRT whose parser prefers a plugin to the function body in the file (its release notes).
FIRST_TENSORRT = (10, 7)

# What the kernels call TensorRT's types, which are looked up by name: their numbers changed between versions.
_DTYPES = {"FLOAT": "float32", "HALF": "float16"}


def obstacle(trt: Any) -> str:
    """Say what a plan with plugins needs to be built and is not there; empty where nothing is missing."""
    if trt.__name__ != "tensorrt_rtx":
        major, minor = (int(number) for number in trt.__version__.split(".")[:2])
        known = hasattr(trt, "IPluginV3") and (major, minor) >= FIRST_TENSORRT
        return "" if known else f"TensorRT {'.'.join(map(str, FIRST_TENSORRT))} (this is {trt.__version__})"
    if not sys.platform.startswith("linux"):
        return "Linux (TensorRT-RTX's parser has not been seen to accept Python plugins elsewhere)"
    return _library_obstacle(trt)


def _library_obstacle(trt: Any) -> str:
    """TensorRT-RTX's parser opens libtensorrt_rtx.so by this very name, and ends the process where it is missing."""
    folder = Path(trt.__file__).parent.parent / "tensorrt_rtx_libs"
    if (folder / "libtensorrt_rtx.so").exists():
        return ""
    try:
        ctypes.CDLL("libtensorrt_rtx.so")
    except OSError:
        return f"the library under its plain name: ln -s libtensorrt_rtx.so.1 {folder / 'libtensorrt_rtx.so'}"
    return ""


def register(trt: Any) -> None:
    """Make the plugins known to a TensorRT module, once. Raises `EngineError` where it cannot take them."""
    if not hasattr(trt, "IPluginV3"):
        raise EngineError(f"plans with custom operations need TensorRT 10.7 or newer, this is {trt.__version__}")
    registry = trt.get_plugin_registry()
    for creator in _creators(trt):
        known = registry.get_creator(creator.name, VERSION, NAMESPACE) is not None
        if not known and not registry.register_creator(creator, NAMESPACE):
            raise EngineError(f"{trt.__name__} {trt.__version__} does not take the plugin {creator.name}")


def prepare(trt: Any) -> None:
    """Register the plugins and load their kernels into the current context: before a plan with them is deserialised.

    Raises `EngineError` where TensorRT cannot take the plugins, `DeviceError` where the GPU cannot take the kernels;
    a plugin that found out while it runs could only say that it failed.
    """
    register(trt)
    for source in ptx.SOURCES:
        for dtype in _DTYPES.values():
            driver.prepare(source, dtype)


class UpFirDn2d:
    """y = upfirdn2d(x, fir) with down 1, as the transposed convolution of ONNX: strides, crops (`pads`), groups.

    x [B,C,H,W], fir [C,1,kh,kw], the same for every channel.
    """

    name = "PspUpFirDn2d"
    fields = {"strides": np.int64, "pads": np.int64, "group": np.int64}

    @staticmethod
    def shape(values: dict[str, Any], x: list[int], fir: list[int]) -> list[int]:
        """Compute the output's shape."""
        strides, pads = values["strides"], values["pads"]
        sides = [(x[2 + a] - 1) * strides[a] + fir[2 + a] - pads[a] - pads[2 + a] for a in (0, 1)]
        return [x[0], x[1], *(int(side) for side in sides)]

    @staticmethod
    def launch(values: dict[str, Any], x: Tensor, fir: Tensor, y: Tensor) -> Launch | None:
        """Plan the kernel for these tensors. A crop of the full convolution is a padding of kernel size - 1 less it."""
        up, kh, kw = int(values["strides"][0]), *fir.shape[2:]
        top, left = kh - 1 - int(values["pads"][0]), kw - 1 - int(values["pads"][1])
        both_rows, both_columns = (y.shape[a] + fir.shape[a] - 1 - x.shape[a] * up for a in (2, 3))
        how = Resampling(up, 1, (top, both_rows - top, left, both_columns - left))
        return launches.upfirdn2d(x, fir.address, (kh, kw), y, how)


class FusedBiasLeakyReLU:
    """y = gain * leaky_relu(x + bias, slope): x [B,C,H,W], bias [C,1,1]."""

    name = "PspFusedBiasLeakyReLU"
    fields = {"slope": np.float32, "gain": np.float32}

    @staticmethod
    def shape(values: dict[str, Any], x: list[int], bias: list[int]) -> list[int]:
        """Compute the output's shape."""
        return x

    @staticmethod
    def launch(values: dict[str, Any], x: Tensor, bias: Tensor, y: Tensor) -> Launch | None:
        """Plan the kernel for these tensors."""
        slope, gain = float(values["slope"][0]), float(values["gain"][0])
        return launches.bias_leaky_relu(x, bias.address, y.address, x.shape[1], math.prod(x.shape[2:]), slope, gain)


OPERATIONS = (UpFirDn2d, FusedBiasLeakyReLU)


@functools.cache
def _creators(trt: Any) -> list[Any]:
    """Kept alive by the cache: TensorRT holds no reference of its own."""
    plugin, creator = _plugin_class(trt), _creator_class(trt)
    return [creator(operation, plugin) for operation in OPERATIONS]


def _creator_class(trt: Any) -> Any:
    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, operation: Any, plugin: Any) -> None:
            super().__init__()
            self.operation, self.plugin = operation, plugin
            self.name, self.plugin_version, self.plugin_namespace = operation.name, VERSION, NAMESPACE
            kinds = {np.int64: trt.PluginFieldType.INT64, np.float32: trt.PluginFieldType.FLOAT32}
            self.field_names = trt.PluginFieldCollection(
                [trt.PluginField(name, np.empty(0, kind), kinds[kind]) for name, kind in operation.fields.items()]
            )

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            """From the attributes of a node (whose integers some parsers make 32 bit wide), or from a plan."""
            kinds = self.operation.fields
            return self.plugin(self.operation, {f.name: np.array(f.data, kinds[f.name]) for f in fields})

    return Creator


def _plugin_class(trt: Any) -> Any:
    bases: Any = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class Plugin(*bases):  # type: ignore[misc]
        def __init__(self, operation: Any, values: dict[str, Any]) -> None:
            for base in bases:
                base.__init__(self)
            self.operation, self.values = operation, values
            self.plugin_name, self.plugin_version, self.plugin_namespace = operation.name, VERSION, NAMESPACE
            self.num_outputs = 1
            self._ready: tuple[Any, Launch | None] = (None, None)

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin(self.operation, self.values)

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            """Kept by the plugin: TensorRT reads them after this has returned."""
            kinds = {np.int64: trt.PluginFieldType.INT64, np.float32: trt.PluginFieldType.FLOAT32}
            self._fields = trt.PluginFieldCollection(
                [trt.PluginField(f, v, kinds[self.operation.fields[f]]) for f, v in self.values.items()]
            )
            return self._fields

        def get_output_data_types(self, types: Any) -> list[Any]:
            return [types[0]]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expressions: Any) -> list[Any]:
            """Take the batch as it comes; everything else is a constant of the network."""
            x, other = ([_constant(dim) for dim in dims] for dims in inputs)
            shape = trt.DimsExprs(inputs[0])
            for axis, size in enumerate(self.operation.shape(self.values, x, other)[1:], 1):
                shape[axis] = expressions.constant(size)
            return [shape]

        def supports_format_combination(self, position: int, tensors: Any, count: int) -> bool:
            given, first = tensors[position].desc, tensors[0].desc
            wanted = trt.float32 if position == 1 else first.type
            known = first.type in (trt.float32, trt.float16)
            return bool(known and given.format == trt.TensorFormat.LINEAR and given.type == wanted)

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            """Nothing depends on the shapes before they are known."""

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            """Do nothing: the launch is planned when the addresses are known as well."""

        def set_tactic(self, tactic: int) -> None:
            """There is one: the launch plan chooses the kernel."""

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> int:
            """Queue the kernel; TensorRT reports what is raised here as the failure of the run."""
            key = (tuple(inputs), tuple(outputs), tuple(input_desc[0].dims))
            if self._ready[0] != key:
                x, other, y = map(_tensor, (*input_desc, *output_desc), (*inputs, *outputs))
                self._ready = (key, self.operation.launch(self.values, x, other, y))
            driver.launch(self._ready[1], stream)
            return 0

    return Plugin


def _constant(dim: Any) -> int:
    """Read the value of a dimension; 0 for the batch, which is not known yet."""
    return int(dim.get_constant_value()) if dim.is_constant() else 0


def _tensor(desc: Any, address: int) -> Tensor:
    """Describe a tensor without gaps, as TensorRT's linear format has it."""
    shape = tuple(desc.dims)
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Tensor(int(address), _DTYPES[desc.type.name], shape, strides)
