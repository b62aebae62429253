"""A procedural face domain: cartoon portraits, their label maps and pencil sketches, all from one vector.

A face vector z has FACE_DIM coordinates.  It is normalised to RMS 1 (as a StyleGAN2 mapping network does),
then coordinate i passes through the normal CDF and lands in the range of ``PARAMETERS[i]``.  ``draw`` paints
soft shapes back to front on three canvases at once, so picture, labels and sketch always agree.

Picture coordinates: x runs right and y runs down, both from -1 to 1; one unit is half the picture.  Shapes are
signed distances in these units (negative inside), which makes a drawing independent of its size in pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

FACE_DIM = 64
LABELS = (
    "background", "skin", "nose", "glasses", "left_eye", "right_eye", "left_brow", "right_brow", "left_ear",
    "right_ear", "mouth", "upper_lip", "lower_lip", "hair", "hat", "earring", "necklace", "neck", "cloth",
)  # fmt: skip
LABEL = {name: index for index, name in enumerate(LABELS)}

EDGE = 0.014  # half the width of a soft edge: 1.8 pixels at size 256
LINE = 0.017  # half the width of a pencil line, fading to nothing at its rims
EXTREME = 1e-3  # with_parameters keeps uniform values this far from 0 and 1

SKIN = ((252, 226, 208), (243, 204, 176), (224, 174, 138), (192, 138, 102), (148, 100, 72), (104, 70, 54))
HAIR = ((44, 38, 44), (80, 54, 44), (126, 82, 54), (176, 88, 52), (224, 180, 110), (200, 200, 206))
EYES = ((92, 58, 38), (138, 106, 58), (86, 138, 92), (72, 128, 182), (122, 138, 154))
LIPS = ((206, 128, 116), (226, 104, 94), (198, 52, 64), (140, 46, 80))
CLOTH = ((50, 68, 108), (54, 122, 128), (106, 132, 88), (222, 172, 80), (202, 104, 78), (124, 72, 108))
BACKGROUND = ((176, 206, 176), (150, 178, 216), (188, 174, 218), (228, 180, 190), (240, 206, 174))


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


class Face(NamedTuple):
    """A drawn face: image uint8 [H, W, 3] RGB, labels uint8 [H, W], sketch uint8 [H, W] (255 is paper)."""

    image: np.ndarray
    labels: np.ndarray
    sketch: np.ndarray


def sample(count: int, seed: int, first: int = 0) -> np.ndarray:
    """Face vectors ``first .. first + count - 1`` of a seed: standard normal float32 [count, FACE_DIM]."""
    rows = [np.random.default_rng([seed, first + i]).standard_normal(FACE_DIM) for i in range(count)]
    return np.asarray(rows, np.float32).reshape(count, FACE_DIM)


def parameters(z: np.ndarray) -> dict[str, float]:
    """The drawing parameters of a face vector [FACE_DIM], by name, each in the range of its Parameter."""
    uniform = [0.5 * (1 + math.erf(value / math.sqrt(2))) for value in _normalised(z)[: len(PARAMETERS)]]
    return {p.name: p.low + (p.high - p.low) * u for p, u in zip(PARAMETERS, uniform)}


def with_parameters(z: np.ndarray, **values: float) -> np.ndarray:
    """The same face with some parameters set: float32 [FACE_DIM] with RMS 1; all other parameters keep theirs.

    Values at the very ends of a range (or beyond) stop a thousandth of the range short of them.  Raises
    ValueError for an unknown name, and when so many values are extreme that no vector of RMS 1 has them all.
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

    Labels follow CelebAMask-HQ (see LABELS); "left" is the side with the smaller x in the picture.  Only the
    frame of a pair of glasses is labelled, so the eyes stay visible.  Raises ValueError for a wrong length of z
    or a size out of range.
    """
    if not 64 <= size <= 1024:
        raise ValueError(f"size is {size}, expected 64 .. 1024")
    p = parameters(z)
    head = _Head(p)
    canvas = _Canvas(size, p, head)
    skin = _walk(SKIN, p["skin_tone"]) * (1 + p["skin_warmth"] * np.float32([0.0, 0.02, -0.07]))
    hair = _walk(HAIR, p["hair_colour"])
    _draw_back_hair(canvas, head, p, hair)
    _draw_body(canvas, head, p, skin)
    _draw_head(canvas, head, p, skin)
    _draw_glasses(canvas, head, p, "arms")
    _draw_front_hair(canvas, head, p, hair)
    for side in (-1, 1):
        _draw_brow(canvas, head, p, hair, side)
        _draw_eye(canvas, head, p, side)
    _draw_nose(canvas, head, p, skin)
    _draw_mouth(canvas, head, p, skin)
    _draw_glasses(canvas, head, p, "frame")
    return canvas.face()


def _normalised(z: np.ndarray) -> np.ndarray:
    z = np.array(z, np.float64)
    if z.shape != (FACE_DIM,):
        raise ValueError(f"a face vector has shape {z.shape}, expected ({FACE_DIM},)")
    return z / math.sqrt(float(z @ z) / FACE_DIM + 1e-16)


def _walk(stops: tuple, t: float) -> np.ndarray:
    """The colour (float32 [3]) at position t in 0..1 on the polyline through evenly spaced stops."""
    position = min(max(t, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    return _mix(np.float32(stops[index]), np.float32(stops[index + 1]), position - index)


def _mix(a, b, t: float):
    return a + (b - a) * np.float32(t)


def _pencil(colour) -> float:
    """How dark a pencil shades an area of this colour."""
    return 0.3 * (1 - float(colour.mean()) / 255)


def _smoothstep(t):
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


# ---- Shapes: signed distances, negative inside ---------------------------------------------------------------


def _ellipse(x, y, rx: float, ry: float):
    """Approximate distance to an axis-aligned ellipse: the implicit function over its gradient."""
    u, v = x / rx, y / ry
    radius = np.sqrt(u * u + v * v) + 1e-6
    slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + 1e-6
    return radius * (radius - 1) / slope


def _arch(x, y, rx: float, ry: float):
    """The upper half of an ellipse, continued straight down without end."""
    return _ellipse(x, np.minimum(y, 0), rx, ry)


def _bar(x, y, half_length: float, radius: float):
    """A horizontal bar with round ends."""
    beyond = np.maximum(np.abs(x) - half_length, 0)
    return np.sqrt(beyond * beyond + y * y) - radius


def _both(a, b, rounding: float = 0.05):
    """Intersection of two shapes with rounded corners."""
    return 0.5 * (a + b + np.sqrt((a - b) ** 2 + rounding**2))


def _either(a, b, rounding: float = 0.05):
    """Union of two shapes with a rounded seam."""
    return -_both(-a, -b, rounding)


# ---- Canvas and head -----------------------------------------------------------------------------------------


class _Head:
    """The head as an ellipsoid: where a point of the face lands in the picture after yaw and pitch."""

    depth = 0.34

    def __init__(self, p: dict[str, float]):
        self.width = p["face_width"]
        self.sin, self.cos = math.sin(math.radians(p["yaw"])), math.cos(math.radians(p["yaw"]))
        self.nod = math.sin(math.radians(p["pitch"]))
        self.outline = math.hypot(self.width * self.cos, self.depth * self.sin)  # half width as seen

    def place(self, x: float, y: float, lift: float = 0.0) -> tuple[float, float, float]:
        """Picture x and y of a point seen at (x, y) from the front, and how much its surroundings narrow."""
        bulge = math.sqrt(1 - (x / self.width) ** 2)
        z = self.depth * bulge + lift
        narrowing = self.cos - self.sin * self.depth * x / (self.width**2 * bulge)
        return x * self.cos + z * self.sin, y + z * self.nod, narrowing


class _Canvas:
    """Picture, labels and pencil lines of one drawing; ``paint`` adds a shape to all three."""

    def __init__(self, size: int, p: dict[str, float], head: _Head):
        self.size = size
        self.axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        x, y = self.axis[None], self.axis[:, None]
        top = _walk(BACKGROUND, p["background_hue"]) * p["background_lightness"]
        bottom = _walk(BACKGROUND, p["background_hue"] + 0.15) * (p["background_lightness"] * 0.78)
        self.image = np.stack([_mix(a, b, 0.5) + (b - a) / 2 * (y + 0 * x) for a, b in zip(top, bottom)])
        self.labels = np.zeros((size, size), np.uint8)
        self.lines = np.zeros((size, size), np.float32)
        across = np.clip(x / 0.6, -1, 1)
        self.light = 1.02 + p["light"] * 0.16 * across * (1.5 - 0.5 * across**2) - 0.05 * (y + across**2)

    def paint(self, box, shape: Callable, colour, label="", line=0.8, ink=0.0, opacity=1.0, soft=EDGE):
        """Paint ``shape(x, y)`` inside the box (left, top, right, bottom).

        An empty label leaves the labels alone; line and ink are the darkness of the shape's pencil outline and
        fill, and soft is half the width of its edge.
        """
        left, top, right, bottom = (min(max(round((v + 1) / 2 * self.size), 0), self.size) for v in box)
        window = np.s_[top:bottom, left:right]
        distance = shape(self.axis[None, left:right], self.axis[top:bottom, None])
        alpha = opacity * _smoothstep(0.5 - distance / (2 * soft))
        for channel, value in zip(self.image, colour):
            channel[window] += alpha * (self.light[window] * value - channel[window])
        if label:
            self.labels[window][alpha > 0.5] = LABEL[label]
            contour = np.maximum(1 - (distance / LINE) ** 2, 0) ** 2
            covered = self.lines[window] * (1 - alpha) + ink * alpha
            self.lines[window] = np.maximum(covered, line * opacity * contour)

    def oval(self, x0: float, y0: float, rx: float, ry: float, colour, **style):
        """Paint an ellipse with the style arguments of ``paint``."""
        rim = LINE + style.get("soft", EDGE)
        box = (x0 - rx - rim, y0 - ry - rim, x0 + rx + rim, y0 + ry + rim)
        self.paint(box, lambda x, y: _ellipse(x - x0, y - y0, rx, ry), colour, **style)

    def face(self) -> Face:
        image = np.clip(self.image.transpose(1, 2, 0) + 0.5, 0, 255).astype(np.uint8)
        sketch = (255.5 - 225 * self.lines).astype(np.uint8)
        return Face(np.ascontiguousarray(image), self.labels, sketch)


# ---- Layers, back to front -----------------------------------------------------------------------------------


def _hair_outline(x, y, head: _Head, p: dict[str, float], bottom: float):
    """The whole head of hair down to the height ``bottom``, as if there were no face in front of it."""
    width = head.outline + p["hair_volume"]
    # The skull reaches backwards, so a turned head shows more hair on the side it turns away from.
    x = x + 0.1 * head.sin
    top = -0.42 - 0.08 * abs(p["parting"]) - p["hair_volume"]
    crown = _ellipse(x - 0.17 * p["parting"], y - top, 0.28, 0.18)
    skull = _arch(x, y + 0.1, width, 0.54 + p["hair_volume"])
    return _both(_either(skull, crown, 0.1), y - bottom, 0.12)


def _draw_back_hair(canvas: _Canvas, head: _Head, p: dict[str, float], hair):
    bottom = 0.08 + 0.8 * p["hair_length"]

    def shape(x, y):
        return _hair_outline(x, y, head, p, bottom)

    canvas.paint((-1, -1, 1, 1), shape, hair * 0.8, "hair", ink=_pencil(hair))


def _draw_body(canvas: _Canvas, head: _Head, p: dict[str, float], skin):
    def neck(x, y):
        return _arch(x, 0.74 - y, 0.22, 0.16)

    def cloth(x, y):
        # The neckline lies a little inside the skin, so that nothing shows through between the two.
        return _both(_ellipse(x, y - 1.32, 0.88, 0.66), -0.02 - neck(x, y), 0.02)

    canvas.paint((-0.26, 0.3, 0.26, 1), neck, skin * 0.86, "neck")
    canvas.paint((-1, 0.6, 1, 1), cloth, _walk(CLOTH, p["clothes_hue"]), "cloth")


def _draw_head(canvas: _Canvas, head: _Head, p: dict[str, float], skin):
    tucked = 0.12 * float(_smoothstep((p["hair_length"] - 0.3) / 0.25))  # under long hair
    for side, label in ((-1, "left_ear"), (1, "right_ear")):
        x0 = side * (head.outline - tucked) - 0.07 * head.sin
        y0 = 0.02 - 0.05 * head.nod
        canvas.oval(x0, y0, 0.065, 0.12, skin * 0.93, label=label)
        canvas.oval(x0, y0, 0.035, 0.075, skin * np.float32([0.84, 0.76, 0.74]), soft=0.03)

    def face(x, y):
        # The lower half tapers towards the chin, and the chin follows the nose when the head turns.
        low = np.clip(y / p["chin_length"], 0, 1.2) ** 2
        u = (x - 0.13 * head.sin * low) / (1 - (0.28 - 0.24 * p["jaw"]) * low) / head.outline
        v = np.where(y > 0, y / p["chin_length"], y / 0.6)
        u2, v2 = u * u, v * v
        square = 0.15 + 0.35 * p["jaw"]
        radius = (1 - square) * np.sqrt(u2 + v2) + square * np.sqrt(np.sqrt(u2 * u2 + v2 * v2))
        return (radius - 1) * (0.5 * head.outline + 0.5 * p["chin_length"])

    canvas.paint((-0.6, -0.7, 0.6, 0.75), lambda x, y: face(x, y - 0.05 - 0.1 * head.nod), skin, "skin")
    for side in (-1, 1):
        x0, y0, narrow = head.place(side * 0.23, 0.2)
        blush = skin * np.float32([1.0, 0.82, 0.8])
        strength = 0.5 * float(_smoothstep(2 * narrow - 0.9))  # gone where the cheek turns away
        canvas.oval(x0, y0, 0.08, 0.08, blush, opacity=strength, soft=0.08)


def _draw_front_hair(canvas: _Canvas, head: _Head, p: dict[str, float], hair):
    bottom = -0.12 + 0.9 * p["hair_length"]
    x0, y0 = 0.55 * head.depth * head.sin, 0.02 + 0.2 * head.nod
    fringe = p["fringe"] + 0.2 * head.nod

    def shape(x, y):
        # The opening widens downwards, so that the locks beside the face end in points.
        u, v = x - x0, y - y0 + 0.25 * p["parting"] * (x - x0)
        u = u / (1 + 0.8 * np.maximum(v - 0.1, 0))
        opening = _arch(u, v, 0.94 * head.outline * head.cos, y0 - fringe)
        return _both(_hair_outline(x, y, head, p, bottom), -opening, 0.08)

    canvas.paint((-1, -1, 1, 1), shape, hair, "hair", ink=_pencil(hair))
    shine = _mix(hair, np.float32([255, 240, 225]), 0.3)
    canvas.oval(0.16 * p["light"], 0.6 * fringe - 0.3, 0.2, 0.06, shine, opacity=0.5, soft=0.07)


def _draw_brow(canvas: _Canvas, head: _Head, p: dict[str, float], hair, side: int):
    x0, y0, narrow = head.place(side * p["eye_spacing"], -0.19)
    length = 0.085 * narrow
    tilt = side * p["brow_tilt"] / narrow

    def shape(x, y):
        x, y = x - x0, y - y0
        return _bar(x, y + tilt * x - 0.025 * (x / length) ** 2, length, p["brow_thickness"])

    colour = _mix(hair * 0.7, np.float32([70, 48, 40]), 0.4)
    label = "left_brow" if side < 0 else "right_brow"
    canvas.paint((x0 - 0.16, y0 - 0.12, x0 + 0.16, y0 + 0.12), shape, colour, label, ink=0.7)


def _draw_eye(canvas: _Canvas, head: _Head, p: dict[str, float], side: int):
    x0, y0, narrow = head.place(side * p["eye_spacing"], -0.04)
    rx, ry = p["eye_size"] * narrow, p["eye_size"] * 0.62
    box = (x0 - 0.16, y0 - 0.14, x0 + 0.16, y0 + 0.14)
    label = "left_eye" if side < 0 else "right_eye"
    iris = _walk(EYES, p["eye_colour"])

    def disc(radius, dx, dy):
        def shape(x, y):
            x, y = x - x0, y - y0
            return np.maximum(_ellipse(x - dx, y - dy, radius * narrow, radius), _ellipse(x, y, rx, ry))

        return shape

    r = 0.92 * ry
    canvas.oval(x0, y0 - 0.02, rx + 0.014, ry + 0.008, (62, 44, 42), label=label, ink=0.8)  # lashes
    canvas.oval(x0, y0, rx, ry, (250, 248, 246), label=label, line=0.5)
    canvas.paint(box, disc(r, 0.0, -0.12 * r), iris, label, ink=0.45)
    canvas.paint(box, disc(0.52 * r, 0.0, -0.12 * r), (30, 24, 28), label, ink=0.95)
    canvas.paint(box, disc(0.3 * r, -0.3 * r, -0.42 * r), (255, 255, 255), label, line=0.0)


def _draw_nose(canvas: _Canvas, head: _Head, p: dict[str, float], skin):
    x_top, y_top, _ = head.place(0, -0.04)
    x_tip, y_tip, _ = head.place(0, -0.02 + p["nose_length"], lift=0.09)
    width = p["nose_width"] * (0.6 + 0.4 * head.cos)

    def nose(x, y):
        # Width and sideways position both run from the bridge (t = 0) to the tip (t = 1).
        t = np.clip((y - y_top) / (y_tip - y_top), 0, 1)
        x = x - x_top - (x_tip - x_top) * t
        bridge = _bar(y - (y_top + y_tip) / 2, x, (y_tip - y_top) / 2, 0.03 + 0.01 * t)
        tip = _ellipse(x, y - y_tip, width, 0.058)
        return _either(bridge, tip, 0.06)

    box = (x_tip - 0.3, y_top - 0.1, x_tip + 0.3, y_tip + 0.15)
    shift = -0.012 * p["light"]
    shadow = skin * np.float32([0.8, 0.7, 0.68])
    canvas.paint(box, lambda x, y: nose(x - shift, y - 0.016), shadow, soft=0.022)
    canvas.paint(box, nose, skin * np.float32([1.03, 1.01, 1.0]), "nose", line=0.5, soft=0.02)


def _draw_mouth(canvas: _Canvas, head: _Head, p: dict[str, float], skin):
    x0, y0, narrow = head.place(0, 0.39, lift=-0.06)
    width, gape = p["mouth_width"] * narrow, 0.014 + 0.06 * p["mouth_open"] ** 2
    lip = _mix(skin * 0.86, _walk(LIPS, p["lip_colour"]), 0.65)

    def bent(x, y):
        """Coordinates in which the mouth is straight: a smile lifts its corners."""
        u = np.minimum(np.abs(x - x0) / width, 1.2)
        return x - x0, y - y0 + p["mouth_curve"] * p["mouth_width"] * (u * u - 0.4)

    def inside(x, y):
        return _ellipse(*bent(x, y), width * 0.86, gape)

    def upper(x, y):
        return np.maximum(_ellipse(*bent(x, y), width, gape + 0.03), bent(x, y)[1])

    def lower(x, y):
        return np.maximum(_ellipse(*bent(x, y), width, gape + 0.042), -bent(x, y)[1])

    def teeth(x, y):
        return np.maximum(inside(x, y) + 0.018, bent(x, y)[1] + 0.1 * gape)

    box = (x0 - 0.26, y0 - 0.22, x0 + 0.26, y0 + 0.22)
    canvas.paint(box, lower, lip * 1.06, "lower_lip", line=0.5)
    canvas.paint(box, upper, lip * 0.92, "upper_lip", line=0.5)
    canvas.paint(box, inside, lip * 0.2 + np.float32([50, 12, 18]), "mouth", ink=0.8)
    shown = float(_smoothstep((p["mouth_open"] - 0.2) / 0.3))
    canvas.paint(box, teeth, (248, 244, 240), "mouth", line=0.0, opacity=shown)


def _draw_glasses(canvas: _Canvas, head: _Head, p: dict[str, float], part: str):
    """Draw the "arms" (they disappear under the hair) or the "frame" (in front of everything)."""
    worn = float(_smoothstep((p["glasses"] - 0.62) / 0.06))
    lenses = [head.place(side * p["eye_spacing"] * 1.03, -0.03, lift=0.03) for side in (-1, 1)]
    (left, height, left_narrow), (right, _, right_narrow) = lenses
    left_rim, right_rim = 0.145 * left_narrow, 0.145 * right_narrow

    def strut(x, y, start, end):
        return _bar(x - (start + end) / 2, y - height + 0.03, abs(end - start) / 2, 0.014)

    def arms(x, y):
        hinges = [head.place(side * 0.98 * head.width, 0)[0] for side in (-1, 1)]
        return np.minimum(strut(x, y, hinges[0], left - left_rim), strut(x, y, right + right_rim, hinges[1]))

    def frame(x, y):
        rims = np.minimum(
            np.abs(_ellipse(x - left, y - height, left_rim, 0.13)),
            np.abs(_ellipse(x - right, y - height, right_rim, 0.13)),
        )
        return np.minimum(rims - 0.015, strut(x, y, left + left_rim, right - right_rim))

    if worn > 0:
        shape = arms if part == "arms" else frame
        canvas.paint((-0.6, -0.3, 0.6, 0.2), shape, (52, 46, 58), "glasses", opacity=worn, line=0.0, ink=0.9)
