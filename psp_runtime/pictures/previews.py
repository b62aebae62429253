"""What inputs look like to a person: label maps in colours, sketches and pictures as they are."""

import numpy as np
from numpy.typing import NDArray

from psp_runtime.pictures.label_classes import PALETTE
from psp_runtime.tasks import InputKind


def preview(source: NDArray[np.uint8], kind: InputKind) -> NDArray[np.uint8]:
    """Engine inputs of a kind, [B,H,W,3], [B,H,W,1] or class ids [B,H,W], as uint8 RGB [B,H,W,3]."""
    if kind == "labels":
        return np.asarray(PALETTE[source % len(PALETTE)])
    return np.repeat(source, 3, axis=-1) if kind == "sketch" else source
