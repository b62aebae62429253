"""A procedural face domain: cartoon portraits, their label maps and pencil sketches, all from one vector.

A face vector z has FACE_DIM coordinates. It is normalised to RMS 1 (as a StyleGAN2 mapping network does), then
coordinate i passes through the normal CDF and lands in the range of ``PARAMETERS[i]``. ``draw`` paints the parts of
layers.py back to front on the canvas of canvas.py: picture, labels and sketch at once, so that they always agree.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from psp_train.drawn.canvas import Canvas, Face, Head
from psp_train.drawn.layers import draw_layers

__all__ = ["FACE_DIM", "PARAMETERS", "Face", "Parameter", "draw", "parameters", "sample", "with_parameters"]

FACE_DIM = 64
EXTREME = 1e-3  # with_parameters keeps uniform values this far from 0 and 1


@dataclass(frozen=True)
class Parameter:
    """One property of a face and the range it is drawn from (uniformly)."""

    name: str
    low: float
    high: float


PARAMETERS = (
    Parameter("skin_tone", 0, 1),  # light .. dark
    Parameter("skin_warmth", -1, 1),  # rosy .. golden
    Parameter("face_width", 0.41, 0.49),
    Parameter("jaw", 0, 1),  # pointed .. square
    Parameter("chin_length", 0.56, 0.66),
    Parameter("hair_colour", 0, 1),  # black, brown, red, blond, grey
    Parameter("hair_length", 0, 1),  # above the ears .. on the shoulders
    Parameter("hair_volume", 0.06, 0.14),
    Parameter("fringe", -0.46, -0.24),  # the height where the forehead begins
    Parameter("parting", -1, 1),  # the side on which the fringe is higher
    Parameter("eye_size", 0.085, 0.115),
    Parameter("eye_spacing", 0.175, 0.215),
    Parameter("eye_colour", 0, 1),  # brown, hazel, green, blue, grey
    Parameter("brow_thickness", 0.013, 0.028),
    Parameter("brow_tilt", -0.25, 0.25),  # worried .. stern
    Parameter("nose_length", 0.16, 0.23),
    Parameter("nose_width", 0.065, 0.1),
    Parameter("mouth_width", 0.12, 0.19),
    Parameter("mouth_curve", -0.15, 0.5),  # frown .. smile, relative to the mouth's width
    Parameter("mouth_open", 0, 1),
    Parameter("lip_colour", 0, 1),  # rose, coral, red, berry
    Parameter("glasses", 0, 1),  # worn above 0.65, fading in around it
    Parameter("yaw", -35, 35),  # degrees; positive turns the nose to the right of the picture
    Parameter("pitch", -8, 8),  # degrees; positive looks down
    Parameter("light", -1, 1),  # from the left .. from the right
    Parameter("background_hue", 0, 1),
    Parameter("background_lightness", 0.7, 1.08),
    Parameter("clothes_hue", 0, 1),
)
_INDEX = {parameter.name: index for index, parameter in enumerate(PARAMETERS)}


def sample(count: int, seed: int, first: int = 0) -> np.ndarray:
    """Draw the face vectors ``first .. first + count - 1`` of a seed: standard normal float32 [count, FACE_DIM]."""
    rows = [np.random.default_rng([seed, first + i]).standard_normal(FACE_DIM) for i in range(count)]
    return np.asarray(rows, np.float32).reshape(count, FACE_DIM)


def parameters(z: np.ndarray) -> dict[str, float]:
    """Return the drawing parameters of a face vector [FACE_DIM] by name, each in the range of its Parameter.

    Raises ValueError for a wrong length.
    """
    uniform = [0.5 * (1 + math.erf(value / math.sqrt(2))) for value in _normalised(z)[: len(PARAMETERS)]]
    return {p.name: p.low + (p.high - p.low) * u for p, u in zip(PARAMETERS, uniform)}


def with_parameters(z: np.ndarray, **values: float) -> np.ndarray:
    """Set some parameters of a face vector: float32 [FACE_DIM] with RMS 1; all other parameters keep their values.

    Values at the very ends of a range (or beyond) stop a thousandth of the range short of them. Raises ValueError for
    an unknown name, a wrong length, and when so many values are extreme that no vector of RMS 1 has them all.
    """
    z = _normalised(z)
    for name, value in values.items():
        if name not in _INDEX:
            raise ValueError(f"unknown face parameter {name!r}; expected one of {', '.join(_INDEX)}")
        parameter = PARAMETERS[_INDEX[name]]
        uniform = (value - parameter.low) / (parameter.high - parameter.low)
        z[_INDEX[name]] = NormalDist().inv_cdf(min(max(uniform, EXTREME), 1 - EXTREME))
    # The unused coordinates make up for the change in length, so that normalising again changes nothing.
    used, unused = z[: len(PARAMETERS)], z[len(PARAMETERS) :]
    room = FACE_DIM - float(used @ used)
    if room < 0:
        raise ValueError(f"too many extreme values: their squares sum to {FACE_DIM - room:.1f} > {FACE_DIM}")
    unused += 1e-12  # an all-zero rest has no direction to stretch in
    unused *= math.sqrt(room / float(unused @ unused))
    return z.astype(np.float32)


def draw(z: np.ndarray, size: int = 256) -> Face:
    """Draw the face of a vector [FACE_DIM] at ``size`` pixels square (64 .. 1024).

    Labels are ids of `label_classes`; "left" is the side with the smaller x in the picture. Only the
    frame of a pair of glasses is labelled, so the eyes stay visible. Raises ValueError for a wrong length of z
    or a size out of range.
    """
    if not 64 <= size <= 1024:
        raise ValueError(f"size is {size}, expected 64 .. 1024")
    p = parameters(z)
    head = Head(p)
    canvas = Canvas(size, p, head)
    draw_layers(canvas, head, p)
    return canvas.face()


def _normalised(z: np.ndarray) -> np.ndarray:
    z = np.array(z, np.float64)
    if z.shape != (FACE_DIM,):
        raise ValueError(f"a face vector has shape {z.shape}, expected ({FACE_DIM},)")
    return z / math.sqrt(float(z @ z) / FACE_DIM + 1e-16)
