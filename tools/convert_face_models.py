"""The two networks of psp_runtime/alignment/models, converted from MediaPipe's TensorFlow Lite files.

    pip download mediapipe==0.10.21 --no-deps        # its wheel is a zip file; nothing of it is installed
    pip install tflite==2.18.0
    python tools/convert_face_models.py mediapipe-0.10.21-*.whl

Both files of the wheel are checked by their SHA-256 before they are read. Weights stay in half precision, as they are
there, and are cast when the network opens. Prints the SHA-256 of what was written, which a test compares.
"""

import argparse
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper
from tflite import BuiltinOperator as Op

FOLDER = Path("psp_runtime/alignment/models")
#: Of each network: its place in the wheel, the SHA-256 of that file, and what its outputs are called.
NETWORKS = {
    "blazeface": (
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        ("boxes", "scores"),
    ),
    "facemesh": (
        "mediapipe/modules/face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        ("points", "presence"),
    ),
}
OPSET, IR_VERSION = 17, 8
#: Arrays of more values are weights, stored in half precision.
FEW = 64
_TYPES = {0: np.float32, 1: np.float16, 2: np.int32}
_RELU = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="mediapipe-0.10.21-*.whl")
    with zipfile.ZipFile(parser.parse_args().wheel) as wheel:
        for name, (member, digest, outputs) in NETWORKS.items():
            content = wheel.read(member)
            if hashlib.sha256(content).hexdigest() != digest:
                raise SystemExit(f"{member} is not the file that was converted: expected the SHA-256 {digest}")
            target = FOLDER / f"{name}.onnx"
            onnx.save(Converter(content, outputs).model(), target)
            print(target, hashlib.sha256(target.read_bytes()).hexdigest())


class Converter:
    """One graph of TensorFlow Lite, operator by operator. Its pictures are [N,H,W,C], those of ONNX [N,C,H,W]."""

    def __init__(self, content: bytes, outputs: tuple[str, str]) -> None:
        self.source = tflite.Model.GetRootAs(content, 0)
        self.graph, self.outputs = self.source.Subgraphs(0), outputs
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.dequantized: dict[int, np.ndarray] = {}

    def model(self) -> Any:
        """Convert all of it."""
        image = self.graph.Inputs(0)
        self.add("Transpose", ["image"], self.name(image), perm=[0, 3, 1, 2])
        for index in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(index)
            kind = self.source.OperatorCodes(operator.OpcodeIndex())
            CONVERSIONS[max(kind.BuiltinCode(), kind.DeprecatedBuiltinCode())](self, operator)
        given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *self.shape(image)[1:]])]
        made = [self.output(self.graph.Outputs(place), name) for place, name in enumerate(self.outputs)]
        graph = helper.make_graph(self.nodes, "face", given, made, self.weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="")
        onnx.checker.check_model(model)
        return model

    def output(self, index: int, name: str) -> Any:
        """Give an output its name; one that is still a picture of 1x1 becomes a row, or points [N,K,3]."""
        shape = self.shape(index)[1:]
        if len(shape) == 3:
            count = shape[-1]
            shape = [count // 3, 3] if count > 1 else [1]
            self.add("Reshape", [self.name(index), self.integers(f"{name}_shape", [0, *shape])], name)
        else:
            self.add("Identity", [self.name(index)], name)
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def name(self, index: int) -> str:
        return f"t{index}"

    def shape(self, index: int) -> list[int]:
        return [int(length) for length in self.graph.Tensors(index).ShapeAsNumpy()]

    def data(self, index: int) -> np.ndarray:
        """The constant in a tensor."""
        if index in self.dequantized:
            return self.dequantized[index]
        tensor = self.graph.Tensors(index)
        content = self.source.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
        return np.frombuffer(content, _TYPES[tensor.Type()]).reshape(self.shape(index))

    def constant(self, name: str, values: np.ndarray) -> str:
        """Store floating-point values; many of them in half precision, cast when they are used."""
        if values.size <= FEW:
            self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        else:
            self.weights.append(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            self.add("Cast", [f"{name}_half"], name, to=TensorProto.FLOAT)
        return name

    def integers(self, name: str, values: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def activate(self, code: int, output: str) -> None:
        """Put the activation that is fused into the last node behind it."""
        if code:
            if code != _RELU:
                raise SystemExit(f"activation {code} is not known")
            self.nodes[-1].output[0] = f"{output}_linear"
            self.add("Relu", [f"{output}_linear"], output)


def dequantize(to: Converter, operator: Any) -> None:
    """Weights in half precision: they stay so."""
    to.dequantized[operator.Outputs(0)] = to.data(operator.Inputs(0))


def convolve(to: Converter, operator: Any) -> None:
    """A convolution, whose weights are [O,H,W,I]."""
    weights = to.data(operator.Inputs(1)).transpose(0, 3, 1, 2)
    convolution(to, operator, options_of(operator, tflite.Conv2DOptions), weights, 1)


def convolve_each(to: Converter, operator: Any) -> None:
    """A convolution of each channel by itself, whose weights are [1,H,W,O]."""
    weights = to.data(operator.Inputs(1)).transpose(3, 0, 1, 2)
    convolution(to, operator, options_of(operator, tflite.DepthwiseConv2DOptions), weights, len(weights))


def convolution(to: Converter, operator: Any, options: Any, weights: np.ndarray, groups: int) -> None:
    image, output = operator.Inputs(0), operator.Outputs(0)
    kernel, strides = weights.shape[2:], (options.StrideH(), options.StrideW())
    parts = [to.name(image), to.constant(f"w{output}", np.ascontiguousarray(weights))]
    if operator.InputsLength() > 2:
        parts.append(to.constant(f"b{output}", to.data(operator.Inputs(2))))
    pads = padding(to.shape(image)[1:3], kernel, strides, options.Padding())
    to.add("Conv", parts, to.name(output), kernel_shape=kernel, strides=strides, pads=pads, group=groups)
    to.activate(options.FusedActivationFunction(), to.name(output))


def pool(to: Converter, operator: Any) -> None:
    image, options = operator.Inputs(0), options_of(operator, tflite.Pool2DOptions)
    kernel, strides = (options.FilterHeight(), options.FilterWidth()), (options.StrideH(), options.StrideW())
    pads = padding(to.shape(image)[1:3], kernel, strides, options.Padding())
    to.add("MaxPool", [to.name(image)], to.name(operator.Outputs(0)), kernel_shape=kernel, strides=strides, pads=pads)


def add(to: Converter, operator: Any) -> None:
    output = to.name(operator.Outputs(0))
    to.add("Add", [to.name(operator.Inputs(0)), to.name(operator.Inputs(1))], output)
    to.activate(options_of(operator, tflite.AddOptions).FusedActivationFunction(), output)


def rectify(to: Converter, operator: Any) -> None:
    to.add("Relu", [to.name(operator.Inputs(0))], to.name(operator.Outputs(0)))


def rectify_by_channel(to: Converter, operator: Any) -> None:
    """A PReLU of slope a: (1 - a) max(x, 0) + a x. ONNX Runtime's own takes more time than all convolutions.

    Without slopes above 1 the maximum comes last: then it is part of the product, which is a convolution there.
    """
    x, output = to.name(operator.Inputs(0)), operator.Outputs(0)
    values = to.data(operator.Inputs(1)).reshape(-1, 1, 1)
    slopes = to.constant(f"a{output}", values)
    to.add("Sub", [to.constant(f"one{output}", np.ones(1)), slopes], f"bend{output}")
    if (values <= 1).all():
        to.add("Mul", [x, f"bend{output}"], f"bending{output}")
        to.add("Relu", [f"bending{output}"], f"bent{output}")
    else:
        to.add("Relu", [x], f"positive{output}")
        to.add("Mul", [f"positive{output}", f"bend{output}"], f"bent{output}")
    to.add("Mul", [x, slopes], f"straight{output}")
    to.add("Add", [f"bent{output}", f"straight{output}"], to.name(output))


def pad(to: Converter, operator: Any) -> None:
    """Channels of zeros behind the others, as a convolution: ONNX Runtime leaves its blocked layout for a Pad."""
    before, after = to.data(operator.Inputs(1)).T
    if before.any() or after[:3].any():
        raise SystemExit(f"padding by {before.tolist()} and {after.tolist()} is not known: expected more channels")
    output, count = operator.Outputs(0), to.shape(operator.Inputs(0))[3]
    weights = to.constant(f"p{output}", np.eye(count + after[3], count)[..., None, None])
    to.add("Conv", [to.name(operator.Inputs(0)), weights], to.name(output), kernel_shape=[1, 1])


def reshape(to: Converter, operator: Any) -> None:
    """Numbers of a picture in the order of TensorFlow Lite."""
    output = operator.Outputs(0)
    to.add("Transpose", [to.name(operator.Inputs(0))], f"n{output}", perm=[0, 2, 3, 1])
    shape = to.integers(f"r{output}", [0, *to.shape(output)[1:]])
    to.add("Reshape", [f"n{output}", shape], to.name(output))


def concatenate(to: Converter, operator: Any) -> None:
    inputs = [to.name(operator.Inputs(place)) for place in range(operator.InputsLength())]
    to.add("Concat", inputs, to.name(operator.Outputs(0)), axis=1)


def padding(size: list[int], kernel: Any, strides: Any, kind: int) -> list[int]:
    """Pads of rows and columns, before and after, where the size of the output follows from the strides (SAME)."""
    if kind != tflite.Padding.SAME:
        return [0, 0, 0, 0]
    every = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, strides, strict=True)]
    return [*(one // 2 for one in every), *(one - one // 2 for one in every)]


def options_of(operator: Any, kind: Any) -> Any:
    options, table = kind(), operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options


CONVERSIONS: dict[int, Callable[[Converter, Any], None]] = {
    Op.DEQUANTIZE: dequantize,
    Op.CONV_2D: convolve,
    Op.DEPTHWISE_CONV_2D: convolve_each,
    Op.MAX_POOL_2D: pool,
    Op.ADD: add,
    Op.RELU: rectify,
    Op.PRELU: rectify_by_channel,
    Op.PAD: pad,
    Op.RESHAPE: reshape,
    Op.CONCATENATION: concatenate,
}

if __name__ == "__main__":
    main()
