"""What drawn faces are painted with: shapes, colours, the head they sit on, and a canvas of three layers.

Picture coordinates: x runs right and y runs down, both from -1 to 1; one unit is half the picture. Shapes are signed
distances in these units (negative inside), which makes a drawing independent of its size in pixels. Colours are RGB in
0 .. 255.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from psp_runtime.pictures.label_classes import IDS

EDGE = 0.014  # half the width of a soft edge: 1.8 pixels at size 256
LINE = 0.017  # half the width of a pencil line, fading to nothing at its rims
BACKGROUND = ((176, 206, 176), (150, 178, 216), (188, 174, 218), (228, 180, 190), (240, 206, 174))


class Face(NamedTuple):
    """A drawn face: image uint8 [H, W, 3] RGB, labels uint8 [H, W], sketch uint8 [H, W] (255 is paper)."""

    image: np.ndarray
    labels: np.ndarray
    sketch: np.ndarray


def gradient(stops: tuple, t: float) -> np.ndarray:
    """Return the colour (float32 [3]) at position t, 0 to 1, on the polyline through evenly spaced stops."""
    position = min(max(t, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    return mix(np.float32(stops[index]), np.float32(stops[index + 1]), position - index)


def mix(a, b, t: float):
    """Go from a at t = 0 to b at t = 1 in a straight line."""
    return a + (b - a) * np.float32(t)


def pencil(colour) -> float:
    """Return how dark, 0 to 0.3, a pencil shades an area of this colour."""
    return 0.3 * (1 - float(colour.mean()) / 255)


def smoothstep(t):
    """Rise smoothly from 0 at t = 0 to 1 at t = 1, and stay there."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def ellipse(x, y, rx: float, ry: float):
    """Approximate the distance to an axis-aligned ellipse by the implicit function over its gradient."""
    u, v = x / rx, y / ry
    radius = np.sqrt(u * u + v * v) + 1e-6
    slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + 1e-6
    return radius * (radius - 1) / slope


def arch(x, y, rx: float, ry: float):
    """Measure to the upper half of an ellipse, continued straight down without end."""
    return ellipse(x, np.minimum(y, 0), rx, ry)


def bar(x, y, half_length: float, radius: float):
    """Measure to a horizontal bar with round ends."""
    beyond = np.maximum(np.abs(x) - half_length, 0)
    return np.sqrt(beyond * beyond + y * y) - radius


def intersection(a, b, rounding: float = 0.05):
    """Intersect two shapes, with rounded corners."""
    return 0.5 * (a + b + np.sqrt((a - b) ** 2 + rounding**2))


def union(a, b, rounding: float = 0.05):
    """Unite two shapes, with a rounded seam."""
    return -intersection(-a, -b, rounding)


class Head:
    """The head as an ellipsoid: where a point of the face lands in the picture after yaw and pitch."""

    depth = 0.34

    def __init__(self, p: dict[str, float]):
        self.width = p["face_width"]
        self.sin, self.cos = math.sin(math.radians(p["yaw"])), math.cos(math.radians(p["yaw"]))
        self.nod = math.sin(math.radians(p["pitch"]))
        self.outline = math.hypot(self.width * self.cos, self.depth * self.sin)  # half width as seen

    def place(self, x: float, y: float, lift: float = 0.0) -> tuple[float, float, float]:
        """Place a point seen at (x, y) from the front: x and y in the picture, and how much its surroundings narrow."""
        bulge = math.sqrt(1 - (x / self.width) ** 2)
        z = self.depth * bulge + lift
        narrowing = self.cos - self.sin * self.depth * x / (self.width**2 * bulge)
        return x * self.cos + z * self.sin, y + z * self.nod, narrowing


class Style(NamedTuple):
    """How a shape is painted: `opacity` 0..1 of its colour, `soft`, half the width of its edge, and the darkness 0..1
    of its pencil outline (`line`) and of what the pencil fills it with (`ink`)."""

    line: float = 0.8
    ink: float = 0.0
    opacity: float = 1.0
    soft: float = EDGE


class Canvas:
    """Picture, labels and pencil lines of one drawing; ``paint`` adds a shape to all three."""

    def __init__(self, size: int, p: dict[str, float], head: Head):
        self.size = size
        self.axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        x, y = self.axis[None], self.axis[:, None]
        top = gradient(BACKGROUND, p["background_hue"]) * p["background_lightness"]
        bottom = gradient(BACKGROUND, p["background_hue"] + 0.15) * (p["background_lightness"] * 0.78)
        self.image = np.stack([mix(a, b, 0.5) + (b - a) / 2 * (y + 0 * x) for a, b in zip(top, bottom)])
        self.labels = np.zeros((size, size), np.uint8)
        self.lines = np.zeros((size, size), np.float32)
        across = np.clip(x / 0.6, -1, 1)
        self.light = 1.02 + p["light"] * 0.16 * across * (1.5 - 0.5 * across**2) - 0.05 * (y + across**2)

    def paint(self, box, shape: Callable, colour, label="", **style: float):
        """Paint ``shape(x, y)`` inside the box (left, top, right, bottom), in the `Style` of these arguments.

        An empty label leaves labels and pencil lines alone.
        """
        line, ink, opacity, soft = Style(**style)
        left, top, right, bottom = (min(max(round((v + 1) / 2 * self.size), 0), self.size) for v in box)
        window = np.s_[top:bottom, left:right]
        distance = shape(self.axis[None, left:right], self.axis[top:bottom, None])
        alpha = opacity * smoothstep(0.5 - distance / (2 * soft))
        for channel, value in zip(self.image, colour):
            channel[window] += alpha * (self.light[window] * value - channel[window])
        if label:
            self.labels[window][alpha > 0.5] = IDS[label]
            contour = np.maximum(1 - (distance / LINE) ** 2, 0) ** 2
            covered = self.lines[window] * (1 - alpha) + ink * alpha
            self.lines[window] = np.maximum(covered, line * opacity * contour)

    def oval(self, x0: float, y0: float, rx: float, ry: float, colour, **label_and_style):
        """Paint an ellipse with a label and a style, as ``paint`` does."""
        rim = LINE + label_and_style.get("soft", EDGE)
        box = (x0 - rx - rim, y0 - ry - rim, x0 + rx + rim, y0 + ry + rim)
        self.paint(box, lambda x, y: ellipse(x - x0, y - y0, rx, ry), colour, **label_and_style)

    def face(self) -> Face:
        """Return what has been painted, as uint8."""
        image = np.clip(self.image.transpose(1, 2, 0) + 0.5, 0, 255).astype(np.uint8)
        sketch = (255.5 - 225 * self.lines).astype(np.uint8)
        return Face(np.ascontiguousarray(image), self.labels, sketch)
