"""Faces of a photo: found, and measured for their crop."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
from PIL import Image

from psp_runtime.alignment.faces import LEFT_EYE, RIGHT_EYE, Face, Points, from_mesh
from psp_runtime.alignment.networks import Detection, detect, locate, overlap

#: Photos are looked at in this size of their longer side at most.
LOOKED_AT = 1600
#: Scores from which a detection, and a mesh laid on it, count as a face. Measured: every face had 0.79 and 0.87 or
#: more, of what is none one had 0.81, and a mesh of 0.38.
BEST, SURE = 0.7, 0.7
#: The same face, seen twice: overlap over the smaller box.
SAME = 0.4
#: Detections smaller than this many pixels are no use to anybody.
SMALLEST = 8
#: The square a mesh is laid into, against the longer side of the face's box.
ROOM = 1.5
#: After the whole photo, squares are looked at, as wide as its shorter side divided by these. The finer ones only where
#: a face was narrower than NARROW of the squares before: then there may be others, still smaller.
DIVIDED, NARROW = (1, 2, 4, 8), 0.25
#: Ways to turn a picture by a quarter.
_Turn = Image.Transpose
_LEFT, _RIGHT = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270
#: The least side of such a square, in pixels.
LEAST_TILE = 64


def find(picture: Image.Image, most: int | None = None) -> list[Face]:
    """Find the faces of an upright picture, the largest first; with `most`, so many at most.

    With `most`, smaller parts of the picture are looked at only while fewer are found. Faces turned by up to 90 degrees
    are found, those that stand on their head are not.
    """
    return look(picture, most)[:most]


def look(picture: Image.Image, most: int | None = None) -> list[Face]:
    """Do as `find`, but give every face that was seen: with `most` that may be more, and not all there are."""
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    faces = _upright(picture, most)
    if not (most and len(faces) >= most):
        for turn in _turns(faces):
            turned = [_turned_back(face, turn, picture.size) for face in _upright(picture.transpose(turn), most)]
            faces += [face for face in turned if not _known(face.box, faces)]
    return sorted(faces, key=lambda face: -face.size)


def _turns(faces: list[Face]) -> tuple[_Turn, ...]:
    """Choose how the picture is turned to look for more: faces that lie on their side are hard to see."""
    if not faces:
        return _LEFT, _RIGHT
    across, down = max(faces, key=lambda face: face.size).across
    lying = abs(down) > 2 * abs(across)
    return () if not lying else (_LEFT,) if down > 0 else (_RIGHT,)


def _turned_back(face: Face, turn: _Turn, size: tuple[int, int]) -> Face:
    """Turn a face back, from the turned picture to the picture of `size`."""
    x, y = face.points.T
    points = (size[0] - 1 - y, x) if turn == _LEFT else (y, size[1] - 1 - x)
    return from_mesh(np.stack(points, 1), face.score)


def _upright(picture: Image.Image, most: int | None) -> list[Face]:
    """Find the faces of a picture that are not turned by much, and some of the others."""
    small, scale = _shrunk(picture)
    faces: list[Face] = []
    tried: list[Detection] = []
    measure = cache(partial(_measure, picture))
    for tiles in _tilings(small.size):
        if most and len(faces) >= most:
            break
        seen = [one for tile in tiles for one in _whole(detect(small, tile), tile, small.size)]
        tried += [one.scaled(scale) for one in seen]
        faces = _distinct(tried, measure)
        width = max(tiles[0][2] - tiles[0][0], tiles[0][3] - tiles[0][1])
        narrowest = min((one.width for one in seen), default=width)
        if len(tiles) > 1 and width <= min(small.size) / DIVIDED[1] and narrowest > NARROW * width:
            break
    return faces


def _shrunk(picture: Image.Image) -> tuple[Image.Image, Points]:
    """Make the picture that is looked at, and what its positions are multiplied by for those of the whole one."""
    shrink = max(picture.size) / LOOKED_AT
    if shrink <= 1:
        return picture, np.ones(2)
    width, height = (max(round(length / shrink), 1) for length in picture.size)
    small = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)
    return small, np.divide(picture.size, small.size)


def _tilings(size: tuple[int, int]) -> list[list[tuple[int, int, int, int]]]:
    """List the boxes to look into: the whole picture, then squares that overlap by half, smaller and smaller."""
    tilings = [[(0, 0, *size)]]
    for part in DIVIDED:
        side = min(size) // part
        if side >= LEAST_TILE:
            columns, rows = (_starts(length, side) for length in size)
            tilings.append([(x, y, x + side, y + side) for y in rows for x in columns])
    return tilings


def _starts(length: int, side: int) -> list[int]:
    steps = int(np.ceil((length - side) / (side / 2))) + 1
    return sorted(set(np.linspace(0, length - side, steps).astype(int).tolist()))


def _whole(seen: list[Detection], tile: tuple[int, int, int, int], size: tuple[int, int]) -> list[Detection]:
    """Keep those that the edge of the tile does not cut, unless the picture ends there; others are for other tiles."""
    low = [edge if edge > 0 else -np.inf for edge in tile[:2]]
    high = [edge if edge < length else np.inf for edge, length in zip(tile[2:], size, strict=True)]
    return [one for one in seen if (one.box[0] >= low).all() and (one.box[1] <= high).all()]


def _distinct(seen: list[Detection], measure: Callable[[Detection], Face | None]) -> list[Face]:
    """Tell apart the faces among detections, each where it was seen best."""
    faces: list[Face] = []
    for one in sorted(seen, key=lambda one: -one.score):
        if one.score < BEST or one.width < SMALLEST or _known(one.box, faces):
            continue
        face = measure(one)
        if face and not _known(face.box, faces):
            faces.append(face)
    return faces


def _known(box: Points, faces: list[Face]) -> bool:
    return any(overlap(box, face.box, least=True) > SAME for face in faces)


def _measure(picture: Image.Image, seen: Detection) -> Face | None:
    """Lay the mesh on a detection, and again where the first one says the face is. None where there is no face."""
    centre, side = seen.box.mean(0), ROOM * seen.width
    angle = _angle(seen.points[0], seen.points[1])
    for _ in range(2):
        points, sure = locate(picture, centre, side, angle)
        angle = _angle(points[LEFT_EYE[0]], points[RIGHT_EYE[1]])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned = points @ turn
        centre, side = turn @ (turned.min(0) + turned.max(0)) / 2, ROOM * np.ptp(turned, 0).max()
    if sure < SURE:
        return None
    return from_mesh(points - 0.5, seen.score)  # from continuous positions


def _angle(left: Points, right: Points) -> float:
    return float(np.arctan2(*(right - left)[::-1]))
