"""A tiny step engine of ReStyle, and what it computes in float64.

    y = start/4 + (1 - start) previous,   w0 = start BASE + (1 - start) codes
    latents = w0 + (mean(image)/255 - mean(y)) RAMP,   level = mean of the mixed latents
    output = clip(128 + 100 level + SHADE) as uint8,   picture = level everywhere

Shapes: L = 14 styles, S = 8 style dim, as `tiny_family`; output [B,H,16,3] with H = 16, of cars 12.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_engines import tiny_info
from tiny_family import FACTS, MIX, STYLE_DIM, STYLES, write_part

from psp_runtime.engines.info import ONNX_KEY, EngineInfo

RNG = np.random.default_rng(7)
BASE = RNG.normal(0, 0.3, (STYLES, STYLE_DIM)).astype(np.float32)
RAMP = RNG.uniform(0.2, 0.6, (STYLES, STYLE_DIM)).astype(np.float32)
FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
CARS = dict(task="cars", input_height=192, rows=(2, 14))


def write_steps(folder: Path, name: str = "steps", scale: float = 1.0, **changes: object) -> Path:
    """Write NAME.onnx and its mapping network; `scale` makes another engine of it."""
    info = tiny_info(**{**FACTS, **MIX, "encoder": "restyle_psp", "part": "step", "iterations": 5, **changes})
    model = helper.make_model(_graph(info, scale), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {ONNX_KEY: info.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")
    write_part(folder / f"{name}.mapping.onnx", "mapping")
    return folder / f"{name}.onnx"


def expected_steps(
    image: np.ndarray, count: int, scale: float = 1.0, state: tuple | None = None
) -> list[tuple[np.ndarray, float]]:
    """Latents [L,S] and level after each step, of one picture uint8 [H,W,3], from `state` (latents, level) on."""
    latents, y = (BASE.astype(np.float64), 0.25) if state is None else state
    found = []
    for _ in range(count):
        latents = latents + (image.mean() / 255 - y) * RAMP * scale
        y = latents.mean()
        found.append((latents, y))
    return found


def picture_of(latents: np.ndarray, height: int = 16) -> np.ndarray:
    """What the generator makes of latents [L,S], before it is cut off to uint8: float [H,16,3]."""
    return np.clip(128 + 100 * latents.mean() + shade(height), 0, 255)


def shade(height: int) -> np.ndarray:
    """What tells the pixels apart, [H,16,3]."""
    y, x, c = np.mgrid[:height, :16, :3]
    return (y - x + 5.0 * c).astype(np.float32)


def _graph(info: EngineInfo, scale: float) -> onnx.GraphProto:
    (height, width), (rows, columns) = info.input_shape, info.output_shape
    constants = {
        "base": BASE,
        "ramp": RAMP * np.float32(scale),
        "one": np.float32(1),
        "quarter": np.float32(0.25),
        "white": np.float32(255),
        "low": np.float32(0),
        "grey": np.float32(128),
        "gain": np.float32(100),
        "shade": shade(rows),
        "two": np.array([2], np.int64),
        "three": np.array([3], np.int64),
        "row": np.array([-1, 1, 1], np.int64),
        "cell": np.array([-1, 1, 1, 1], np.int64),
        "fed_back": np.array([1, 3, height, width], np.int64),
    }

    def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    nodes = [
        node("Sub", "one start", "later"),
        node("Unsqueeze", "start two", "start3"),
        node("Unsqueeze", "later two", "later3"),
        node("Unsqueeze", "later3 three", "later4"),
        node("Unsqueeze", "start3 three", "start4"),
        node("Mul", "start4 quarter", "y0"),
        node("Mul", "later4 previous", "y1"),
        node("Add", "y0 y1", "y"),
        node("ReduceMean", "y", "y_mean", axes=[1, 2, 3], keepdims=0),
        node("Cast", "image", "x", to=FLOAT),
        node("ReduceMean", "x", "x_sum", axes=[1, 2, 3], keepdims=0),
        node("Div", "x_sum white", "x_mean"),
        node("Sub", "x_mean y_mean", "error"),
        node("Reshape", "error row", "error3"),
        node("Mul", "error3 ramp", "change"),
        node("Mul", "start3 base", "w0"),
        node("Mul", "later3 codes", "w1"),
        node("Add", "w0 w1", "before"),
        node("Add", "before change", "latents"),
        node("Unsqueeze", "alpha two", "a"),
        node("Sub", "one a", "keep"),
        node("Mul", "keep latents", "kept"),
        node("Mul", "a style", "taken"),
        node("Add", "kept taken", "mixed"),
        node("ReduceMean", "mixed", "mean", axes=[1, 2], keepdims=0),
        node("Reshape", "mean cell", "level"),
        node("Expand", "level fed_back", "picture"),
        node("Mul", "level gain", "bright"),
        node("Add", "bright grey", "lit"),
        node("Add", "lit shade", "shaded"),
        node("Clip", "shaded low white", "clipped"),
        node("Cast", "clipped", "output", to=UINT8),
    ]
    tensors = [
        ("image", UINT8, [height, width, 3]),
        ("style", FLOAT, [STYLES, STYLE_DIM]),
        ("alpha", FLOAT, [STYLES]),
        ("previous", FLOAT, [3, height, width]),
        ("codes", FLOAT, [STYLES, STYLE_DIM]),
        ("start", FLOAT, [1]),
        ("output", UINT8, [rows, columns, 3]),
        ("latents", FLOAT, [STYLES, STYLE_DIM]),
        ("picture", FLOAT, [3, height, width]),
    ]
    values = [helper.make_tensor_value_info(name, kind, ["B", *shape]) for name, kind, shape in tensors]
    initial = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_graph(nodes, "step", values[:6], values[6:], initial)
