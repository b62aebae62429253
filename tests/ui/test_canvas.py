"""What is drawn on the page, and what the engine sees of it."""

import warnings

import numpy as np
from ui_pages import PIXELS, RNG

from psp_runtime.pictures.label_classes import IDS, NAMES, PALETTE
from psp_runtime.pictures.loading import load
from psp_runtime.ui.canvas import _MEANT, brush_colours, class_ids, coloured, face_labels, pencilled
from psp_runtime.ui.runs import Runs
from psp_runtime.ui.style import css


def test_label_maps_survive_the_canvas(runs: Runs) -> None:
    labels = RNG.integers(0, 19, (64, 64), np.uint8).repeat(4, 0).repeat(4, 1)
    saved = runs.save_drawing(coloured(labels), "labels")
    assert np.array_equal(load(saved, "labels", 256), labels)


def test_the_rim_of_a_brush_makes_no_third_class() -> None:
    """Half way between two colours of the palette another one can be nearest: here every pair is blended."""
    for inner, outer in ((1, 0), (13, 0), (4, 1), (11, 18)):
        share = np.clip((np.arange(40) - 17) / 5, 0, 1)[None, :, None]
        stroke = (PALETTE[outer] * (1 - share) + PALETTE[inner] * share).round().astype(np.uint8).repeat(8, 0)
        ids = class_ids(stroke)
        assert set(np.unique(ids)) == {inner, outer} and ids[0, 0] == outer and ids[0, -1] == inner


def test_a_brush_at_one_edge_paints_nothing_at_the_other() -> None:
    picture = np.full((40, 40, 3), PALETTE[0], np.uint8)
    picture[-2:] = PALETTE[18]
    picture[0] = (PALETTE[0].astype(int) + PALETTE[13]) // 2  # the rim of a stroke beyond the upper edge
    assert set(np.unique(class_ids(picture)[:20])) == {0}


def test_the_palette_of_the_brush() -> None:
    assert [tuple(bytes.fromhex(colour[1:])) for colour in brush_colours()] == [tuple(c) for c in PALETTE]
    assert len(NAMES) == len(PALETTE) and all(colour in css() for colour in brush_colours())
    far = np.abs(PALETTE[:, None].astype(int) - PALETTE).max(-1) + 255 * np.eye(len(PALETTE), dtype=int)
    assert far.min() > 2 * _MEANT


def test_the_face_to_paint_on() -> None:
    labels = face_labels()
    assert labels.shape == (256, 256) and {"skin", "hair", "nose", "left eye", "mouth"} <= {
        NAMES[label] for label in np.unique(labels)
    }
    assert NAMES[labels[128, 128]] == "nose"
    left, right = (np.argwhere(labels == IDS[f"{side} eye"])[:, 1].mean() for side in ("left", "right"))
    assert left < 128 < right


def test_a_photo_in_pencil_is_no_longer_in_colours(runs: Runs) -> None:
    saved = runs.save_drawing(pencilled(PIXELS[0]), "sketch")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sketch = load(saved, "sketch")
    assert sketch.shape == (256, 256, 1) and sketch.std() > 1
