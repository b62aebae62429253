"""Faces of a photo: found, and measured for their crop."""

import numpy as np
from PIL import Image

from psp_runtime.alignment.faces import Face, Points, from_mesh
from psp_runtime.alignment.measuring import BEST, SMALLEST, Candidate, is_known, largest
from psp_runtime.alignment.networks import Detection, detect

#: Photos are looked at in this size of their longer side at most.
LOOKED_AT = 1600
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
    return look(picture, most)[0]


def look(picture: Image.Image, most: int | None = None) -> tuple[list[Face], int]:
    """Do as `find`, and count the faces that were seen besides: with `most` these may not be all there are."""
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    faces, others = _upright(picture, most)
    if not (most and len(faces) >= most):
        for turn in _turns(faces):
            turned, more = _upright(picture.transpose(turn), most)
            back = [_turned_back(face, turn, picture.size) for face in turned]
            faces += [face for face in back if not is_known(face.box, faces)]
            others += more
    faces.sort(key=lambda face: -face.size)
    return faces[:most], others + len(faces[most:] if most else [])


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


def _upright(picture: Image.Image, most: int | None) -> tuple[list[Face], int]:
    """Find the faces of a picture that are not turned by much and some of the others, the largest first.

    With `most`, so many at most, and how many more were seen.
    """
    small, scale = _shrunk(picture)
    faces: list[Face] = []
    others, candidates = 0, list[Candidate]()
    for tiles in _tilings(small.size):
        if most and len(faces) >= most:
            break
        seen = [one for tile in tiles for one in _whole(detect(small, tile), tile, small.size)]
        candidates += [Candidate(picture, one.scaled(scale)) for one in seen if one.score >= BEST]
        faces, others = largest([one for one in candidates if one.seen.width >= SMALLEST], most)
        width = max(tiles[0][2] - tiles[0][0], tiles[0][3] - tiles[0][1])
        narrowest = min((one.width for one in seen), default=width)
        if len(tiles) > 1 and width <= min(small.size) / DIVIDED[1] and narrowest > NARROW * width:
            break
    return faces, others


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
