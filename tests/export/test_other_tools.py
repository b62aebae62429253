"""Exported files elsewhere: through the tools people run on ONNX files, and in the runtimes they run them with.

Each gives the picture that ONNX Runtime makes of the file as it is exported; quantised, one near it.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader

from psp_export.graphs.trace import share_initializers
from psp_export.verify.cases import pictures
from psp_export.verify.parity import psnr
from psp_runtime.engines.libraries import import_openvino

FEEDS = {
    "image": pictures("rgb", 0, 2, seed=3)[:1],
    "style": np.zeros((1, 10, 32), np.float32),
    "alpha": np.zeros((1, 10), np.float32),
}
#: A CPU rounds an FP16 file's values where another library does not: PSNR of the picture, dB.
NEAR = {"fp32": 60.0, "fp16": 50.0}


def run(path: Path) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(["output", "latents"], FEEDS)


def difference(engine: Path, made: list[np.ndarray]) -> float:
    """PSNR of a picture against the file's own, dB."""
    return psnr(made[0].astype(int) - run(engine)[0])


def test_no_node_only_renames_a_constant(exported: Path) -> None:
    """`quantize_dynamic` looks for constants by name: "Expected generator.convs.3.fir to be an initializer"."""
    for file in exported.glob("*.onnx"):
        graph = onnx.load(file).graph
        constants = {tensor.name for tensor in graph.initializer}
        assert not [node for node in graph.node if node.op_type == "Identity" and node.input[0] in constants], file


def test_chains_of_names_end_at_the_constant_and_outputs_keep_theirs() -> None:
    node = onnx.helper.make_node
    nodes = [node("Identity", ["c"], ["d"]), node("Identity", ["d"], ["e"]), node("Add", ["x", "e"], ["y"])]
    value = onnx.helper.make_tensor_value_info
    values = [value(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y", "z")]
    constant = onnx.numpy_helper.from_array(np.ones(1, np.float32), "c")
    graph = onnx.helper.make_graph([*nodes, node("Identity", ["e"], ["z"])], "g", values[:1], values[1:], [constant])
    model = onnx.helper.make_model(graph)
    share_initializers(model)
    assert [(n.op_type, list(n.input)) for n in model.graph.node] == [("Add", ["x", "c"]), ("Identity", ["c"])]
    onnx.checker.check_model(model)


def external(engine: Path, made: Path) -> None:
    onnx.save(onnx.load(engine), made, save_as_external_data=True, location="weights.bin", size_threshold=0)


def newer_opset(engine: Path, made: Path) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(engine), 21), made)


def slimmer(engine: Path, made: Path) -> None:
    onnx.save(pytest.importorskip("onnxslim").slim(onnx.load(engine)), made)


def simpler(engine: Path, made: Path) -> None:
    model, same = pytest.importorskip("onnxsim").simplify(onnx.load(engine))
    assert same
    onnx.save(model, made)


@pytest.mark.parametrize(
    ("change", "precision"),
    [(external, "fp16"), (newer_opset, "fp32"), (newer_opset, "fp16"), (slimmer, "fp32"), (simpler, "fp16")],
)
def test_tools_that_change_no_value(
    exported: Path, tmp_path: Path, change: Callable[[Path, Path], None], precision: str
) -> None:
    engine, made = exported / f"{precision}.onnx", tmp_path / "made.onnx"
    change(engine, made)
    assert difference(engine, run(made)) > 90 and len(onnx.load(made).graph.node)


class Faces(CalibrationDataReader):
    """Inputs for calibration."""

    def __init__(self) -> None:
        self.left = [{**FEEDS, "image": one[None]} for one in pictures("rgb", 0, 2, seed=9)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def test_dynamic_quantisation(exported: Path, tmp_path: Path) -> None:
    engine, made = exported / "fp32.onnx", tmp_path / "made.onnx"
    quantization.quantize_dynamic(engine, made, weight_type=quantization.QuantType.QUInt8)
    assert made.stat().st_size < 0.5 * engine.stat().st_size
    assert 40 < difference(engine, run(made)) < 90


def test_static_quantisation(exported: Path, tmp_path: Path) -> None:
    engine, made = exported / "fp32.onnx", tmp_path / "made.onnx"
    quantization.quantize_static(engine, made, Faces(), op_types_to_quantize=["Conv"])
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(made).graph.node)
    assert 25 < difference(engine, run(made)) < 90


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_openvino(exported: Path, precision: str) -> None:
    pytest.importorskip("openvino")
    core, engine = import_openvino().Core(), exported / f"{precision}.onnx"
    compiled = core.compile_model(core.read_model(engine), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    made = compiled.create_infer_request().infer(FEEDS)
    assert difference(engine, [made["output"]]) > NEAR[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_opencv(exported: Path, precision: str) -> None:
    engine = exported / f"{precision}.onnx"
    network = pytest.importorskip("cv2").dnn.readNetFromONNX(str(engine))
    for name, value in FEEDS.items():
        network.setInput(value, name)
    assert difference(engine, [network.forward("output")]) > NEAR[precision]


#: Runs an engine in WebAssembly: paths of the engine, of the picture's bytes, and of the output's.
IN_NODE = """
const ort = require("onnxruntime-web"), fs = require("fs");
const [engine, image, made] = process.argv.slice(1);
ort.env.wasm.numThreads = 1;
(async () => {
  const session = await ort.InferenceSession.create(fs.readFileSync(engine), { executionProviders: ["wasm"] });
  const result = await session.run({
    image: new ort.Tensor("uint8", new Uint8Array(fs.readFileSync(image)), [1, 256, 256, 3]),
    style: new ort.Tensor("float32", new Float32Array(320), [1, 10, 32]),
    alpha: new ort.Tensor("float32", new Float32Array(10), [1, 10]),
  });
  fs.writeFileSync(made, result.output.data);
  process.exit(0);
})();
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_web(exported: Path, tmp_path: Path, precision: str) -> None:
    """In Node.js, where NODE_PATH leads to the package."""
    node = shutil.which("node")
    if not node or subprocess.run([node, "-e", "require.resolve('onnxruntime-web')"], capture_output=True).returncode:
        pytest.skip("needs Node.js, and the npm package onnxruntime-web in NODE_PATH")
    image, made, engine = tmp_path / "image", tmp_path / "made", exported / f"{precision}.onnx"
    image.write_bytes(FEEDS["image"].tobytes())
    subprocess.run([node, "-e", IN_NODE, engine, image, made], check=True, timeout=120)
    output = np.frombuffer(made.read_bytes(), np.uint8).reshape(1, 64, 64, 3)
    assert difference(engine, [output]) > NEAR[precision]
