"""The 19 classes of CelebAMask-HQ, which label maps of faces are made of, in the order of their ids.

"left" is the side with the smaller x in the picture, as in the data set.
"""

import numpy as np

_CLASSES = (
    ("background", (32, 34, 40)),
    ("skin", (236, 188, 150)),
    ("nose", (214, 140, 110)),
    ("glasses", (60, 180, 200)),
    ("left eye", (70, 110, 220)),
    ("right eye", (110, 70, 220)),
    ("left brow", (120, 78, 40)),
    ("right brow", (160, 108, 60)),
    ("left ear", (240, 150, 140)),
    ("right ear", (250, 190, 170)),
    ("mouth", (120, 20, 40)),
    ("upper lip", (220, 60, 90)),
    ("lower lip", (190, 40, 70)),
    ("hair", (230, 200, 80)),
    ("hat", (90, 160, 70)),
    ("earring", (255, 255, 120)),
    ("necklace", (170, 220, 255)),
    ("neck", (200, 160, 130)),
    ("cloth", (90, 100, 150)),
)

#: Names of the classes, and the id of each name.
NAMES = tuple(name for name, _ in _CLASSES)
IDS = {name: index for index, name in enumerate(NAMES)}

#: The colour each class is shown in, uint8 [19,3] RGB.
PALETTE = np.array([colour for _, colour in _CLASSES], np.uint8)

#: What a mirrored face has in the place of each id, uint8 [256]: left and right change places, other ids stay.
MIRRORED = np.arange(256, dtype=np.uint8)
for _part in ("eye", "brow", "ear"):
    _pair = [IDS[f"left {_part}"], IDS[f"right {_part}"]]
    MIRRORED[_pair] = _pair[::-1]

#: Ids outside of the face: what surrounds, covers or carries it.
NOT_FACE = tuple(IDS[name] for name in ("background", "hat", "earring", "necklace", "neck", "cloth"))
