"""What inputs look like to a person: label maps in colours, sketches and pictures as they are."""

import numpy as np
from numpy.typing import NDArray

from psp_runtime.tasks import InputKind

#: One colour per CelebAMask-HQ class, in the order of the ids.
PALETTE = np.array(
    [
        (32, 34, 40), (236, 188, 150), (214, 140, 110), (60, 180, 200), (70, 110, 220), (110, 70, 220),
        (120, 78, 40), (160, 108, 60), (240, 150, 140), (250, 190, 170), (120, 20, 40), (220, 60, 90),
        (190, 40, 70), (230, 200, 80), (90, 160, 70), (255, 255, 120), (170, 220, 255), (200, 160, 130), (90, 100, 150),
    ],
    np.uint8,
)  # fmt: skip


def preview(source: NDArray[np.uint8], kind: InputKind) -> NDArray[np.uint8]:
    """Engine inputs of a kind, [B,H,W,3], [B,H,W,1] or class ids [B,H,W], as uint8 RGB [B,H,W,3]."""
    if kind == "labels":
        return np.asarray(PALETTE[source % len(PALETTE)])
    return np.repeat(source, 3, axis=-1) if kind == "sketch" else source
