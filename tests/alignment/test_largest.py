"""The largest faces are told by as few meshes as that takes, whatever the detector saw."""

import numpy as np
import pytest
from PIL import Image

from psp_runtime.alignment import measuring
from psp_runtime.alignment.faces import LEFT_EYE, MOUTH, RIGHT_EYE, Points, from_mesh
from psp_runtime.alignment.measuring import SURE, Candidate, largest
from psp_runtime.alignment.networks import Detection, Mesh

PICTURE = Image.new("RGB", (4000, 200))


def face(x: float, size: float) -> Points:
    """Points whose square is `size` wide and whose box is half of that, around (x, 100)."""
    points = np.zeros((468, 2))
    for indices, place in (((0,), (-1, -1)), ((1,), (1, 1)), (LEFT_EYE, (-0.5, -0.4)), (RIGHT_EYE, (0.5, -0.4))):
        points[list(indices)] = place
    points[MOUTH] = (-0.3, 0.5), (0.3, 0.5)
    return points * size / from_mesh(points, 1.0).size + (x, 100)


class Photo:
    """Faces by their middle: the true size, how much of it the first mesh shows, and whether there is a face."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faces: dict[float, tuple[float, float, float]] = {}
        self.candidates: list[Candidate] = []
        self.laid: list[float] = []
        monkeypatch.setattr(measuring, "locate", self.locate)

    def add(self, x: float, size: float, first: float = 1.0, presence: float = 1.0, box: float = 0.6) -> Candidate:
        self.faces[x] = size, first, presence
        half = size * box / 2
        seen = Detection(0.9 - x / 1e5, np.array([[x - half, 100 - half], [x + half, 100 + half]]), face(x, size)[:6])
        self.candidates.append(Candidate(PICTURE, seen))
        return self.candidates[-1]

    def locate(self, picture: Image.Image, centre: Points, side: float, angle: float) -> Mesh | None:
        x = min(self.faces, key=lambda one: abs(one - centre[0]))
        size, first, presence = self.faces[x]
        self.laid.append(x)
        points = face(x, size * (first if self.laid.count(x) == 1 else 1.0))
        return Mesh(points, presence) if presence else None

    def found(self, most: int | None = None) -> tuple[list[float], int]:
        faces, others = largest(self.candidates, most)
        return [round(one.size, 6) for one in faces], others


@pytest.fixture
def photo(monkeypatch: pytest.MonkeyPatch) -> Photo:
    return Photo(monkeypatch)


@pytest.mark.parametrize("most", [1, 2, 5, None])
@pytest.mark.parametrize("seed", range(5))
def test_the_largest_are_those_of_all(photo: Photo, most: int | None, seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.uniform(60, 180, 9).round(3)
    for place, size in enumerate(sizes):
        photo.add(200 + 400 * place, size, random.uniform(0.955, 1.08), box=random.uniform(0.56, 0.8))
    found, others = photo.found(most)
    assert found == sorted(sizes, reverse=True)[:most] and others == 9 - len(found)
    assert len(photo.laid) == 18 if most is None else 2 * most <= len(photo.laid) < 18


def test_what_is_much_smaller_is_not_measured(photo: Photo) -> None:
    for place, size in enumerate((60, 150, 70)):
        photo.add(200 + 400 * place, size)
    assert photo.found(1) == ([150], 2) and photo.laid == [600, 600]


def test_a_first_mesh_tells_enough_of_the_second_largest(photo: Photo) -> None:
    photo.add(200, 150)
    photo.add(600, 140)
    assert photo.found(1) == ([150], 1) and sorted(photo.laid) == [200, 200, 600]


def test_the_next_one_is_taken_where_the_largest_is_none(photo: Photo) -> None:
    photo.add(200, 180, presence=SURE - 0.1)
    photo.add(600, 190, presence=0)  # outside of the picture: one look
    photo.add(1000, 80)
    photo.add(1400, 60)
    assert photo.found(1) == ([80], 1) and photo.laid == [600, 200, 200, 1000, 1000]


def test_a_face_seen_twice_is_one(photo: Photo) -> None:
    """Where it was seen best counts; the other detection matters where that is no face."""
    photo.add(200, 150)
    photo.add(210, 170)
    assert photo.found() == ([150], 0) and photo.laid == [200, 200]
    photo.faces[200] = 150, 1.0, SURE - 0.1
    photo.laid.clear()
    again = [Candidate(PICTURE, one.seen) for one in photo.candidates]
    faces, others = largest(again)
    assert ([round(one.size, 6) for one in faces], others) == ([170], 0)
    assert again[0].measured and again[0].face is None
