"""What tests send to a real psp-serve, and what comes back."""

import io
import urllib.request

import numpy as np
from measure.server import Server
from PIL import Image

LABELS = np.kron(np.random.default_rng(4).integers(0, 19, (8, 8), np.uint8), np.ones((32, 32), np.uint8))


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 256, 256, 3), np.uint8)


def file_of(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def get(server: Server, path: str):
    return urllib.request.urlopen(f"{server.url}{path}", timeout=30)
