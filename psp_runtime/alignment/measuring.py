"""Which detections are faces, and which faces are the largest: meshes are laid on no more of them than that takes."""

import numpy as np
from PIL import Image

from psp_runtime.alignment.faces import LEFT_EYE, RIGHT_EYE, Face, Points, from_mesh
from psp_runtime.alignment.networks import Detection, locate, overlap

#: Scores from which a detection, and a mesh laid on it, count as a face. Measured: every face had 0.79 and 0.87 or
#: more, of what is none one had 0.81, and a mesh of 0.38.
BEST, SURE = 0.7, 0.7
#: The same face, seen twice: overlap over the smaller box.
SAME = 0.4
#: Detections smaller than this many pixels are no use to anybody.
SMALLEST = 8
#: The square a mesh is laid into, against the longer side of the face's box.
ROOM = 1.5
#: The longer side of a detection, and the square by the first mesh, are at least this share of the square by the
#: second. Measured on 144 drawn faces: 0.54 to 0.85, and 0.93 to 1.08 with a standard deviation of 0.02.
LEAST_BOX, LEAST_FIRST = 0.55, 0.95


class Candidate:
    """A detection that may be a face: `measure` lays a mesh on it, and again where the first one says the face is.

    `bound` is the most that the side of its square can be, as far as is known. Once it is `measured`, `face` is there,
    or None where there is no face.
    """

    def __init__(self, picture: Image.Image, seen: Detection) -> None:
        self.seen, self.bound = seen, seen.width / LEAST_BOX
        self.face: Face | None = None
        self.measured = False
        self._picture, self._first = picture, True
        self._square = seen.box.mean(0), ROOM * seen.width, _angle(seen.points[0], seen.points[1])

    def measure(self) -> None:
        """Lay the next mesh on it."""
        mesh = locate(self._picture, *self._square)
        self.measured, self._first = mesh is None or not self._first, False
        if mesh is None or (self.measured and mesh.presence < SURE):
            self.bound = np.inf  # the next one to be looked at, and left
            return
        face = from_mesh(mesh.points - 0.5, self.seen.score)  # from continuous positions
        if self.measured:
            self.face, self.bound = face, face.size
        else:
            self._square, self.bound = _square(mesh.points), face.size / LEAST_FIRST


def largest(candidates: list[Candidate], most: int | None = None) -> tuple[list[Face], int]:
    """Tell apart the faces among candidates, the largest first, and count what else may be some.

    With `most`, so many are looked for: of what may be the largest, more is measured, until the largest one is.
    """
    faces: list[Face] = []
    groups = _grouped(candidates)
    while groups and not (most and len(faces) >= most):
        group = max(groups, key=lambda group: group[0].bound)
        first = group[0]
        known = is_known(first.seen.box, faces)
        if not (known or first.measured):
            first.measure()
            continue
        if first.face and not (known or is_known(first.face.box, faces)):
            faces.append(first.face)
        del group[0]
        groups = [group for group in groups if group]
    return faces, sum(not is_known(group[0].seen.box, faces) for group in groups)


def is_known(box: Points, faces: list[Face]) -> bool:
    """Tell whether a box [2,2] is that of a face already found."""
    return any(overlap(box, face.box, least=True) > SAME for face in faces)


def _grouped(candidates: list[Candidate]) -> list[list[Candidate]]:
    """Put candidates that overlap together, the surest first: the others matter where that one is no face."""
    groups: list[list[Candidate]] = []
    for one in sorted(candidates, key=lambda one: -one.seen.score):
        same = [group for group in groups if overlap(one.seen.box, group[0].seen.box, least=True) > SAME]
        if same:
            same[0].append(one)
        else:
            groups.append([one])
    return groups


def _square(points: Points) -> tuple[Points, float, float]:
    """Give middle, side and angle of the square to lay a mesh into, by the points of another one."""
    angle = _angle(points[LEFT_EYE[0]], points[RIGHT_EYE[1]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = points @ turn
    return turn @ (turned.min(0) + turned.max(0)) / 2, float(ROOM * np.ptp(turned, 0).max()), angle


def _angle(left: Points, right: Points) -> float:
    return float(np.arctan2(*(right - left)[::-1]))
