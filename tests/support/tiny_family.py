"""Tiny engines whose picture depends on the latents alone, with all their parts: what the applications need.

    latents = 4x4 means of the input, projected -> [B,L,S]      (class ids count as 12 grey levels each)
    output  = codes, projected -> uint8 [B,16,16,3]
    w       = z, projected, + 0.5                                (so the average style is not zero)

Shapes: L = 14 styles, S = 8 style dim, as `tiny_engines` otherwise.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_engines import tiny_info

from psp_runtime.engines.info import ONNX_KEY

STYLES, STYLE_DIM, OUTPUT_SIZE, MAX_BATCH = 14, 8, 16, 4
FACTS = dict(styles=STYLES, style_dim=STYLE_DIM, output_size=OUTPUT_SIZE, max_batch=MAX_BATCH)
MIX = dict(mix_layers=tuple(range(8, STYLES)), mix_alpha=1.0)
NAMES = {
    "full": (("image", "style", "alpha"), ("output", "latents")),
    "encoder": (("image",), ("latents",)),
    "generator": (("latents",), ("output",)),
    "mapping": (("z",), ("w",)),
}
FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
RNG = np.random.default_rng(5)
DECODE = RNG.normal(0, 12, (STYLES * STYLE_DIM, OUTPUT_SIZE * OUTPUT_SIZE * 3)).astype(np.float32)
MAP = RNG.normal(0, 0.5, (STYLE_DIM, STYLE_DIM)).astype(np.float32)


def write_family(folder: Path, name: str = "psp", kind: str = "rgb", parts: bool = True, **changes: object) -> Path:
    """Write NAME.onnx, NAME.mapping.onnx and, with `parts`, encoder and generator; the path of the full engine."""
    for part in ("full", "mapping", *(("encoder", "generator") if parts else ())):
        ending = "" if part == "full" else f".{part}"
        write_part(folder / f"{name}{ending}.onnx", part, kind, **changes)
    return folder / f"{name}.onnx"


def write_part(path: Path, part: str, kind: str = "rgb", **changes: object) -> Path:
    """Write one engine of the family; `changes` go into its metadata."""
    model = helper.make_model(_graph(part, kind), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    info = tiny_info(kind, **{**FACTS, **MIX, "part": part, **changes})
    helper.set_model_props(model, {ONNX_KEY: info.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def picture_of(codes: np.ndarray) -> np.ndarray:
    """What the generator makes of codes [L,S], before it is cut off to uint8: float [16,16,3]."""
    flat = codes.reshape(-1).astype(np.float64) @ DECODE
    return np.clip(128 + flat, 0, 255).reshape(OUTPUT_SIZE, OUTPUT_SIZE, 3)


def _graph(part: str, kind: str) -> onnx.GraphProto:
    channels = {"rgb": (3,), "sketch": (1,), "labels": ()}[kind]
    shapes = {
        "image": (UINT8, [256, 256, *channels]),
        "style": (FLOAT, [STYLES, STYLE_DIM]),
        "alpha": (FLOAT, [STYLES]),
        "latents": (FLOAT, [STYLES, STYLE_DIM]),
        "output": (UINT8, [OUTPUT_SIZE, OUTPUT_SIZE, 3]),
        "z": (FLOAT, [STYLE_DIM]),
        "w": (FLOAT, [STYLE_DIM]),
    }
    nodes = {
        "full": [*_encode(), *_mix(), *_decode("mixed")],
        "encoder": _encode(),
        "generator": _decode("latents"),
        "mapping": [_node("MatMul", "z map", "m"), _node("Add", "m half", "w")],
    }[part]
    used = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(v, k) for k, v in _constants(channels, kind).items() if k in used]
    values = [
        [helper.make_tensor_value_info(n, shapes[n][0], ["B", *shapes[n][1]]) for n in names] for names in NAMES[part]
    ]
    return helper.make_graph(nodes, part, *values, constants)


def _constants(channels: tuple[int, ...], kind: str) -> dict[str, np.ndarray]:
    depth = 4 * 4 * max(1, *channels, 1)
    encode = np.random.default_rng(6).normal(0, 0.5, (depth, STYLES * STYLE_DIM)).astype(np.float32)
    return {
        "cells": np.array([-1, 4, 64, 4, 64, max(1, *channels, 1)], np.int64),
        "flat": np.array([-1, depth], np.int64),
        "level": np.float32(12 / 255 if kind == "labels" else 1 / 255),
        "encode": encode,
        "codes": np.array([-1, STYLES, STYLE_DIM], np.int64),
        "last": np.array([2], np.int64),
        "one": np.float32(1),
        "row": np.array([-1, STYLES * STYLE_DIM], np.int64),
        "decode": DECODE,
        "grey": np.float32(128),
        "low": np.float32(0),
        "high": np.float32(255),
        "picture": np.array([-1, OUTPUT_SIZE, OUTPUT_SIZE, 3], np.int64),
        "map": MAP,
        "half": np.float32(0.5),
    }


def _node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def _encode() -> list[onnx.NodeProto]:
    return [
        _node("Cast", "image", "x", to=FLOAT),
        _node("Reshape", "x cells", "x_cells"),
        _node("ReduceMean", "x_cells", "means", axes=[2, 4], keepdims=0),
        _node("Reshape", "means flat", "x_flat"),
        _node("Mul", "x_flat level", "x_unit"),
        _node("MatMul", "x_unit encode", "e"),
        _node("Reshape", "e codes", "latents"),
    ]


def _mix() -> list[onnx.NodeProto]:
    return [
        _node("Unsqueeze", "alpha last", "a"),
        _node("Sub", "one a", "keep"),
        _node("Mul", "keep latents", "kept"),
        _node("Mul", "a style", "taken"),
        _node("Add", "kept taken", "mixed"),
    ]


def _decode(codes: str) -> list[onnx.NodeProto]:
    return [
        _node("Reshape", f"{codes} row", "w_row"),
        _node("MatMul", "w_row decode", "d"),
        _node("Add", "d grey", "y"),
        _node("Clip", "y low high", "clipped"),
        _node("Cast", "clipped", "bytes", to=UINT8),
        _node("Reshape", "bytes picture", "output"),
    ]
