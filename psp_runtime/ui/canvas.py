"""What is drawn on the page `psp-ui`: label maps in the colours of the classes, and back to class ids.

Pictures are uint8 [H,W,3] RGB; label maps uint8 [H,W], ids of the 19 CelebAMask-HQ classes.
"""

import numpy as np
from numpy.typing import NDArray

from psp_runtime.pictures.label_classes import IDS, PALETTE
from psp_runtime.pictures.sheets import shown
from psp_runtime.pictures.sketching import sketch
from psp_runtime.tasks import INPUT_SIZE

Pixels = NDArray[np.uint8]

#: Pixels along an edge of the canvas: twice what engines see, so that a hand has room.
SIDE = 2 * INPUT_SIZE

#: A colour this near to one of the palette, in levels of a channel, was meant. No more: skin fading into the background
#: passes 5 levels from neck.
_MEANT = 2
#: Pixels over which a brush fades at its rim, at most.
_RIM = 6

#: A face to paint on: (class, x, y, half width, half height) of ellipses, back to front, from -1 to 1 down and right.
_FACE = (
    ("cloth", 0, 1.12, 0.9, 0.42), ("hair", 0, -0.1, 0.57, 0.62), ("neck", 0, 0.62, 0.17, 0.28),
    ("left ear", -0.46, 0.04, 0.06, 0.12), ("right ear", 0.46, 0.04, 0.06, 0.12), ("skin", 0, 0.06, 0.44, 0.56),
    ("left brow", -0.2, -0.17, 0.11, 0.022), ("right brow", 0.2, -0.17, 0.11, 0.022),
    ("left eye", -0.2, -0.04, 0.09, 0.045), ("right eye", 0.2, -0.04, 0.09, 0.045),
    ("nose", 0, 0.13, 0.07, 0.15), ("upper lip", 0, 0.35, 0.15, 0.03), ("lower lip", 0, 0.4, 0.13, 0.035),
    ("mouth", 0, 0.37, 0.12, 0.012),
)  # fmt: skip


def brush_colours() -> list[str]:
    """List the palette as a brush takes it, #rrggbb in the order of the ids."""
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in PALETTE]


def blank() -> Pixels:
    """White paper, [SIDE,SIDE,3]."""
    return np.full((SIDE, SIDE, 3), 255, np.uint8)


def coloured(labels: Pixels) -> Pixels:
    """Colour a label map [H,W] as a canvas shows it, [SIDE,SIDE,3]."""
    return shown(labels, "labels", (SIDE, SIDE))


def pencilled(photo: Pixels) -> Pixels:
    """Draw a photo [H,W,3] in pencil as a canvas shows it, [SIDE,SIDE,3]."""
    return shown(sketch(photo)[..., None], "sketch", (SIDE, SIDE))


def class_ids(picture: Pixels) -> Pixels:
    """Read the label map [H,W] that was painted in the colours of the palette.

    A brush fades at its rim into colours that can be nearest to a class nobody painted: such pixels become what
    surrounds them. Other colours, of a picture pasted in, become the nearest class.
    """
    distance = np.abs(picture[:, :, None].astype(np.int16) - PALETTE.astype(np.int16)).max(-1)
    edge = _RIM + 1  # np.roll goes round: what is beyond one edge must not get across to the other
    ids, meant = np.pad(distance.argmin(-1), edge), np.pad(distance.min(-1) <= _MEANT, edge)
    for _ in range(_RIM):
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            beside, known = np.roll(ids, step, axis), np.roll(meant, step, axis)
            ids = np.where(known & ~meant, beside, ids)
            meant = meant | known
    return np.asarray(ids[edge:-edge, edge:-edge], np.uint8)


def face_labels(size: int = INPUT_SIZE) -> Pixels:
    """Draw a plain face as a label map [size,size], to begin with."""
    y, x = (np.mgrid[:size, :size] + 0.5) * 2 / size - 1
    labels = np.zeros((size, size), np.uint8)
    for name, centre_x, centre_y, width, height in _FACE:
        inside = ((x - centre_x) / width) ** 2 + ((y - centre_y) / height) ** 2 <= 1
        labels[inside] = IDS[name]
    return labels
