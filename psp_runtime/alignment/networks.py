"""The two networks that look at faces: where some are in a small picture, and where the points of one are.

BlazeFace, short range (Bazarevsky et al. 2019, arXiv 1907.05047) and FaceMesh (Kartynnik et al. 2019, arXiv
1907.06724), both of MediaPipe and under Apache-2.0: see `models/NOTICE`. `tools/convert_face_models.py` made the files.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_runtime.alignment.faces import Points
from psp_runtime.engines.libraries import import_onnxruntime

FOLDER = Path(__file__).parent / "models"
#: Width and height of the pictures they take.
DETECTOR_SIZE, MESH_SIZE = 128, 192
#: Each pixel of the detector's picture is the mean of the nearest pixels at so many places a side: the mean of all that
#: it covers takes five times as long, and finds no more.
FINER = 4
#: Score of a detection that is looked at.
SEEN = 0.5
#: Two detections in one picture that overlap (intersection over union) as much are of one face.
SAME = 0.3


@dataclass(frozen=True, eq=False)
class Detection:
    """A face in a picture: its score 0..1, box [2,2] (low and high corner) and six points [6,2]: the eyes come first.

    Positions are continuous.
    """

    score: float
    box: Points
    points: Points

    @property
    def width(self) -> float:
        """Give the longer side of its box."""
        return float(np.ptp(self.box, 0).max())

    def scaled(self, scale: Points) -> "Detection":
        """Give the same in a picture `scale` [2] times as wide and high."""
        return Detection(self.score, self.box * scale, self.points * scale)


class Mesh(NamedTuple):
    """The points [468,2] of a face, in the order of FaceMesh, and the probability 0..1 that there is one."""

    points: Points
    presence: float


def detect(picture: Image.Image, box: tuple[int, int, int, int]) -> list[Detection]:
    """Find the faces in a box (left, top, right, bottom) of an RGB picture, the surest first, in its positions.

    It sees faces from a tenth of the box on.
    """
    corner, extent = np.array(box[:2], np.float64), np.array([box[2] - box[0], box[3] - box[1]], np.float64)
    small = np.maximum(np.rint(extent * DETECTOR_SIZE / extent.max()), 1).astype(int)
    (x, y), (width, height) = (DETECTOR_SIZE - small) // 2, small
    canvas = np.zeros((1, DETECTOR_SIZE, DETECTOR_SIZE, 3), np.float32)
    finer = FINER * width, FINER * height
    shrunk = picture.resize(finer, Image.Resampling.NEAREST, box).reduce(FINER)
    canvas[0, y : y + height, x : x + width] = np.asarray(shrunk, np.float32) / 127.5 - 1
    raw, logits = session("blazeface").run(["boxes", "scores"], {"image": canvas})
    scores = _sigmoid(logits[0, :, 0])
    seen = np.flatnonzero(scores > SEEN)
    # Of each anchor: centre, width and height of a box, then six points, all in pixels from the anchor.
    values = raw[0, seen].reshape(-1, 8, 2).astype(np.float64)
    places = values + _anchors()[seen, None] * DETECTOR_SIZE
    half = values[:, 1] / 2
    places = np.concatenate([places[:, :1] - half[:, None], places[:, :1] + half[:, None], places[:, 2:]], 1)
    places = (places - (x, y)) * (extent / small) + corner
    return _distinct([Detection(float(scores[one]), p[:2], p[2:]) for one, p in zip(seen, places, strict=True)])


def locate(picture: Image.Image, centre: Points, side: float, angle: float) -> Mesh | None:
    """Lay a mesh on the face in a square of a picture; None where the square lies outside.

    `centre` [2] and the points are continuous positions, `side` is in pixels, `angle` says how far the square is turned
    clockwise, in radians.
    """
    x = np.array([np.cos(angle), np.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    corners = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(0)), picture.size).astype(int)
    if (high - low < 1).any():
        return None
    part, shrink = picture.crop((*low, *high)), max(int(side // (2 * MESH_SIZE)), 1)
    part = part.reduce(shrink) if shrink > 1 else part
    square = _sampled(part, (corners[0] - low) / shrink, 2 * x / shrink, 2 * y / shrink)
    pixels = np.asarray(square, np.float32)[None] / 255
    found, presence = session("facemesh").run(["points", "presence"], {"image": pixels})
    share = found[0, :, :2].astype(np.float64) * 2 / MESH_SIZE - 1
    return Mesh(centre + share[:, :1] * x + share[:, 1:] * y, float(_sigmoid(presence)[0, 0]))


def _sampled(picture: Image.Image, start: Points, x: Points, y: Points) -> Image.Image:
    """Take a square of MESH_SIZE from a picture: from `start` along the edges `x` and `y`, vectors [2] in its pixels.

    Where it is shrunk to the half or less, each pixel is the mean of the nearest pixels at four places of it, which
    takes half the time of a bilinear one, and shows more of what is under it.
    """
    finer = 2 if np.hypot(*x) >= 2 * MESH_SIZE else 1
    size = finer * MESH_SIZE
    places = (x[0] / size, y[0] / size, start[0], x[1] / size, y[1] / size, start[1])
    how = Image.Resampling.NEAREST if finer > 1 else Image.Resampling.BILINEAR
    return picture.transform((size, size), Image.Transform.AFFINE, places, how).reduce(finer)


def overlap(a: Points, b: Points, least: bool = False) -> float:
    """Divide the intersection of two boxes [2,2] by their union, or by the smaller one."""
    (left, top), (right, bottom) = a.tolist()  # plain numbers: arrays of two take ten times as long
    (left_b, top_b), (right_b, bottom_b) = b.tolist()
    width, height = min(right, right_b) - max(left, left_b), min(bottom, bottom_b) - max(top, top_b)
    first, second = (right - left) * (bottom - top), (right_b - left_b) * (bottom_b - top_b)
    shared = max(width, 0.0) * max(height, 0.0)
    whole = min(first, second) if least else first + second - shared
    return float(shared / max(whole, 1e-9))


def _distinct(detections: list[Detection]) -> list[Detection]:
    kept: list[Detection] = []
    for one in sorted(detections, key=lambda one: -one.score):
        if all(overlap(one.box, other.box) < SAME for other in kept):
            kept.append(one)
    return kept


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))), np.float32)


@cache
def _anchors() -> Points:
    """List where the 896 detections are seen from, [896,2] in 0..1: 2 at each place of 16x16, 6 at each of 8x8."""

    def grid(count: int, each: int) -> Points:
        places = (np.arange(count) + 0.5) / count
        return np.repeat(np.stack(np.meshgrid(places, places), -1).reshape(-1, 2), each, 0)

    return np.concatenate([grid(16, 2), grid(8, 6)])


@cache
def session(name: str) -> Any:
    """Open one of the networks, once for all threads. It has one thread: pictures are looked at in several."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(FOLDER / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
