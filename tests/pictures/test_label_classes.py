"""The classes of label maps: the order of CelebAMask-HQ, and what is derived from it."""

import numpy as np

from psp_runtime.pictures.label_classes import IDS, MIRRORED, NAMES, NOT_FACE, PALETTE
from psp_runtime.tasks import CHANNELS

#: CelebAMask-HQ's own names of its classes, in the order of the published label maps.
CELEBAMASK_HQ = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
LONG = {
    "eye_g": "glasses", "u_lip": "upper lip", "l_lip": "lower lip", "ear_r": "earring", "neck_l": "necklace",
    "l_eye": "left eye", "r_eye": "right eye", "l_brow": "left brow", "r_brow": "right brow",
    "l_ear": "left ear", "r_ear": "right ear",
}  # fmt: skip


def test_the_order_is_that_of_the_data_set() -> None:
    assert ("background", *(LONG.get(name, name) for name in CELEBAMASK_HQ)) == NAMES
    assert len(NAMES) == len(PALETTE) == len(IDS) == CHANNELS["labels"]


def test_a_mirrored_face_changes_its_sides_and_nothing_else() -> None:
    expected = [name.replace("left", "_").replace("right", "left").replace("_", "right") for name in NAMES]
    assert [NAMES[MIRRORED[index]] for index in range(len(NAMES))] == expected
    np.testing.assert_array_equal(MIRRORED[MIRRORED], np.arange(256))


def test_everything_but_the_face() -> None:
    assert NOT_FACE == (0, 14, 15, 16, 17, 18)
