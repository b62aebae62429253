"""Tiny engines that honour the engine contract, for tests that need no weights.

Shapes: B batch, L = 4 styles, S = 8 style dim. output [B,64,64,3] = every fourth pixel of the input
+ 100 * mean(w), so that style and alpha show; latents [B,L,S] = mean(input) / 2550 * (0..31), of each picture alone.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from psp_runtime.engines.info import ONNX_KEY, EngineInfo

STYLES, STYLE_DIM, OUTPUT_SIZE, MAX_BATCH = 4, 8, 64, 3

INFO = EngineInfo(
    task="inversion",
    encoder="GradualStyleEncoder",
    input="rgb",
    input_size=256,
    classes=19,
    output_size=OUTPUT_SIZE,
    styles=STYLES,
    style_dim=STYLE_DIM,
    mix_layers=(2, 3),
    mix_alpha=0.5,
    max_batch=MAX_BATCH,
    precision="fp32",
    backend="onnx",
    backend_version="1.23",
    checkpoint="ab" * 32,
    license="test weights",
    parity={"psnr": 61.5, "max": 1.0},
)

TASK_OF = {"rgb": "inversion", "sketch": "sketch", "labels": "segmentation"}


def tiny_info(kind: str = "rgb", **changes: object) -> EngineInfo:
    """The metadata of the tiny engine of one input kind."""
    return replace(INFO, **{"task": TASK_OF[kind], "input": kind, **changes})


def write_onnx(path: Path, kind: str = "rgb", **changes: object) -> Path:
    """Write the tiny engine as ONNX, or its encoder with part="encoder"; `changes` go into its metadata."""
    model = helper.make_model(_graph(kind), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if changes.get("part") == "encoder":
        model = onnx.utils.Extractor(model).extract_model(["image"], ["latents"])
    helper.set_model_props(model, {ONNX_KEY: tiny_info(kind, **changes).to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_plan(path: Path, kind: str = "rgb", **changes: object) -> Path:
    """Write a file that carries the metadata as a plan does; no TensorRT opens it."""
    info = tiny_info(kind, **{"backend": "tensorrt", "backend_version": "10.13.2", "device": "sm_90", **changes})
    path.write_bytes(b"ftrt\0\0\0" + bytes(500) + info.to_plan_name().encode() + bytes(500))
    return path


def expected_output(pixels: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """What the engine makes of one rgb picture uint8 [256,256,3] and its mixed latents [L,S]."""
    return np.clip(pixels[::4, ::4].astype(np.float32) + 100 * latents.mean(), 0, 255).astype(np.uint8)


def _graph(kind: str) -> onnx.GraphProto:
    channels = {"rgb": (3,), "sketch": (1,), "labels": ()}[kind]
    axes = list(range(1, 3 + len(channels)))
    ramp = np.arange(STYLES * STYLE_DIM, dtype=np.float32).reshape(1, STYLES, STYLE_DIM) / 2550
    constants = {
        "ramp": ramp,
        "one": np.float32(1),
        "gain": np.float32(100),
        "low": np.float32(0),
        "high": np.float32(255),
        "last": np.array([2], np.int64),
        "pixel": np.array([-1, 1, 1], np.int64),
        "image_shape": np.array([-1, 256, 256, max(1, *channels, 1)], np.int64),
        "rgb_shape": np.array([1, OUTPUT_SIZE, OUTPUT_SIZE, 3], np.int64),
        "starts": np.array([0, 0], np.int64),
        "ends": np.array([256, 256], np.int64),
        "axes": np.array([1, 2], np.int64),
        "steps": np.array([4, 4], np.int64),
        "per_picture": np.array([-1, 1, 1, 1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        node("ReduceMean", ["x"], ["mean"], axes=axes, keepdims=0),
        node("Reshape", ["mean", "pixel"], ["mean3"]),
        node("Mul", ["mean3", "ramp"], ["latents"]),
        node("Unsqueeze", ["alpha", "last"], ["a"]),
        node("Sub", ["one", "a"], ["keep"]),
        node("Mul", ["keep", "latents"], ["kept"]),
        node("Mul", ["a", "style"], ["taken"]),
        node("Add", ["kept", "taken"], ["w"]),
        node("ReduceMean", ["w"], ["w_mean"], axes=[1, 2], keepdims=0),
        node("Reshape", ["w_mean", "per_picture"], ["w_mean4"]),
        node("Mul", ["w_mean4", "gain"], ["shift"]),
        node("Reshape", ["x", "image_shape"], ["x4"]),
        node("Slice", ["x4", "starts", "ends", "axes", "steps"], ["small"]),
        node("Expand", ["small", "rgb_shape"], ["rgb"]),
        node("Add", ["rgb", "shift"], ["y"]),
        node("Clip", ["y", "low", "high"], ["clipped"]),
        node("Cast", ["clipped"], ["output"], to=TensorProto.UINT8),
    ]
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        "tiny",
        [
            value("image", TensorProto.UINT8, ["B", 256, 256, *channels]),
            value("style", TensorProto.FLOAT, ["B", STYLES, STYLE_DIM]),
            value("alpha", TensorProto.FLOAT, ["B", STYLES]),
        ],
        [
            value("output", TensorProto.UINT8, ["B", OUTPUT_SIZE, OUTPUT_SIZE, 3]),
            value("latents", TensorProto.FLOAT, ["B", STYLES, STYLE_DIM]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
