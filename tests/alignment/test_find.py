"""Faces of photos are found, and nothing else is."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from psp_runtime import alignment
from psp_runtime.alignment import networks
from psp_runtime.alignment.faces import Points
from psp_runtime.alignment.finding import look
from psp_runtime.disk import sha256_of
from psp_runtime.pictures.label_classes import IDS
from psp_train.drawn.faces import draw, sample
from psp_train.drawn.samples import draw_scene

GOLDEN = Path(__file__).parents[1] / "golden" / "align"
#: What `tools/convert_face_models.py` writes.
HASHES = {
    "blazeface": "87e7b2c4481b9ab9bc15a85f8119885949a49c7af553d00ae5845ce92355e54d",
    "facemesh": "01375e060ef4226dafb77289dd8e86a95417c05e75720adddaf668b057687da1",
}
#: How near their outputs are to those of TensorFlow Lite.
LIMITS = {"blazeface": {"boxes": 2e-4, "scores": 2e-4}, "facemesh": {"points": 2e-4, "presence": 2e-4}}
FACES = sample(30, seed=2)


def placed(z: np.ndarray, size: int, angle: float = 0) -> Image.Image:
    """A drawn face of `size` pixels, turned, in the middle of a grey picture twice as wide."""
    face = Image.fromarray(draw(z, size).image).convert("RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
    photo = Image.new("RGB", (3 * size, 3 * size), (120, 130, 140))
    photo.paste(face, tuple((a - b) // 2 for a, b in zip(photo.size, face.size)), face)
    return photo


def drawn_quad(z: np.ndarray, size: int) -> Points:
    """The quad by the label map of a drawn face: the middles of the eyes, the ends of the mouth."""
    labels = draw(z, size).labels

    def places(*names: str) -> np.ndarray:
        return np.argwhere(np.isin(labels, [IDS[name] for name in names]))[:, ::-1]

    mouth = places("mouth", "upper lip", "lower lip")
    ends = [mouth[np.flatnonzero(mouth[:, 0] == x)].mean(0) for x in (mouth[:, 0].min(), mouth[:, 0].max())]
    return alignment.quad(places("left eye").mean(0), places("right eye").mean(0), *ends)


@pytest.mark.parametrize("name", HASHES)
def test_the_networks_are_those_that_were_converted(name: str) -> None:
    assert sha256_of(networks.FOLDER / f"{name}.onnx") == HASHES[name]


@pytest.mark.parametrize("name", HASHES)
def test_the_networks_answer_as_those_of_mediapipe(name: str) -> None:
    """What TensorFlow Lite computes with the original files of a drawn face: positions in pixels, logits."""
    size = {"blazeface": networks.DETECTOR_SIZE, "facemesh": networks.MESH_SIZE}[name]
    pixels = draw(FACES[0], size).image.astype(np.float32)
    image = (pixels / 127.5 - 1 if name == "blazeface" else pixels / 255)[None]
    with np.load(GOLDEN / "networks.npz") as stored:
        for output, limit in LIMITS[name].items():
            found = networks.session(name).run([output], {"image": image})[0]
            np.testing.assert_allclose(found, stored[output], rtol=0, atol=limit)


def test_the_networks_come_with_their_licence() -> None:
    assert "Apache License" in (networks.FOLDER / "LICENSE").read_text()
    notice = (networks.FOLDER / "NOTICE").read_text()
    assert "mediapipe 0.10.21" in notice and all(f"{name}.onnx" in notice for name in HASHES)


def test_drawn_faces_are_where_they_were_drawn() -> None:
    distances = []
    for z in FACES:
        faces = alignment.find(Image.fromarray(draw(z, 256).image))
        assert len(faces) == 1
        drawn = drawn_quad(z, 256)
        distances.append(np.hypot(*(faces[0].quad - drawn).T).mean() / np.hypot(*(drawn[3] - drawn[0])))
    assert np.mean(distances) < 0.05


@pytest.mark.parametrize("side", [150, 500, 900])
def test_a_turned_square_shows_the_places_it_covers(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red and green of a pixel say where its middle is in the photo: of squares enlarged, sampled, and shrunk first."""
    y, x = np.mgrid[:1000, :1000] / 4
    photo = Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8))
    seen: list[np.ndarray] = []

    class Network:
        def run(self, outputs: object, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(inputs["image"][0] * 255)
            return [np.zeros((1, 468, 3), np.float32), np.zeros((1, 1), np.float32)]

    monkeypatch.setattr(networks, "session", lambda name: Network())
    centre, angle = np.array([510.0, 490.0]), 0.3
    networks.locate(photo, centre, side, angle)
    across = (np.arange(networks.MESH_SIZE) + 0.5) / networks.MESH_SIZE - 0.5
    right, down = np.meshgrid(across * side, across * side)
    wanted = np.stack(
        [
            centre[0] + right * np.cos(angle) - down * np.sin(angle),
            centre[1] + right * np.sin(angle) + down * np.cos(angle),
        ],
        -1,
    )
    inside = ((wanted > 10) & (wanted < 990)).all(-1)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(seen[0][inside][:, :2], (wanted[inside] - 0.5) / 4, atol=1)


def test_turned_and_small_faces_are_found() -> None:
    ways = [(64, 0), (64, -90), (64, 90), (96, 15), (96, 30), (96, -45), (96, 60), (96, 75), (128, 90), (192, -90)]
    for index, z in enumerate(FACES):
        size, angle = ways[index % len(ways)]
        assert len(alignment.find(placed(z, size, angle), most=1)) == 1, (index, size, angle)


@cache
def textures() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:480, :640]
    noise = random.integers(0, 256, (480, 640, 3), np.uint8)
    clouds = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    return {
        "empty": np.zeros((480, 640, 3), np.uint8),
        "white": np.full((480, 640, 3), 255, np.uint8),
        "noise": noise,
        "soft noise": np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6))),
        "clouds": np.asarray(clouds),
        "checks": np.repeat((((x // 40 + y // 40) % 2) * 255).astype(np.uint8)[..., None], 3, 2),
        "dots": np.repeat(
            ((((x % 60) - 30) ** 2 + ((y % 60) - 30) ** 2 < 300) * 255).astype(np.uint8)[..., None], 3, 2
        ),
        "stripes": np.repeat((128 + 120 * np.sin(x / 9 + y / 17)).astype(np.uint8)[..., None], 3, 2),
        "gradient": np.stack([x * 255 // 640, y * 255 // 480, (x + y) * 255 // 1120], -1).astype(np.uint8),
        "skin": np.full((480, 640, 3), (224, 172, 138), np.uint8),
    }


@pytest.mark.parametrize("name", textures())
def test_no_face_where_there_is_none(name: str) -> None:
    assert alignment.find(Image.fromarray(textures()[name])) == []


def test_pictures_of_a_few_pixels() -> None:
    for size in ((1, 1), (1, 300), (20, 10)):
        assert alignment.find(Image.new("RGB", size, "pink")) == []


def test_every_face_of_a_scene_the_largest_first() -> None:
    scene = Image.fromarray(draw_scene(0, 360))
    faces = alignment.find(scene)
    assert len(faces) == 4 and [face.size for face in faces] == sorted((face.size for face in faces), reverse=True)
    assert [face.quad.tolist() for face in alignment.find(scene, most=2)] == [face.quad.tolist() for face in faces[:2]]
    assert look(scene, 1)[1] > 0  # which a warning can tell of


def test_meshes_are_laid_on_what_may_be_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two meshes on a face much larger than the others, and one look at the photo; two on each where all are wanted."""
    runs: Counter[str] = Counter()
    session = networks.session
    monkeypatch.setattr(networks, "session", lambda name: runs.update([name]) or session(name))
    photo = Image.new("RGB", (640, 320), (150, 160, 170))
    for z, size, place in zip(FACES, (256, 96, 96), ((340, 32), (20, 20), (180, 200))):
        photo.paste(Image.fromarray(draw(z, size).image), place)
    largest = alignment.find(photo, most=1)
    assert len(largest) == 1 and largest[0].quad[:, 0].min() > 320
    assert runs == {"blazeface": 1, "facemesh": 2}
    assert len(alignment.find(photo)) == 3 and runs["facemesh"] >= 2 + 6


def test_a_hundred_faces() -> None:
    photo = Image.new("RGB", (1600, 1600), (150, 160, 170))
    people = [Image.fromarray(draw(z, 128).image) for z in FACES[:10]]
    for index in range(100):
        row, column = divmod(index, 10)
        photo.paste(people[(row + column) % 10], (column * 160 + 16, row * 160 + 16))
    faces = alignment.find(photo)
    cells = {tuple((face.quad.mean(0) // 160).astype(int)) for face in faces}
    assert len(faces) == len(cells) == 100


def test_a_frame_is_wider_around_the_same_middle() -> None:
    face = alignment.find(Image.fromarray(draw(FACES[0], 256).image))[0]
    wider = face.framed(1.28)
    np.testing.assert_allclose(wider.quad.mean(0), face.quad.mean(0))
    assert wider.size == pytest.approx(1.28 * face.size) and wider.points is face.points
