"""Pictures made of a crop, back in their photo: turned, shrunk, and blended where they meet it."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from psp_runtime.alignment.cropping import Crop
from psp_runtime.alignment.faces import Points
from psp_runtime.errors import PspError

#: How much of a made picture is taken: the face with its forehead, or all of it but a soft edge.
Mask = Literal["face", "square"]
MASKS: tuple[Mask, ...] = get_args(Mask)
Floats = NDArray[np.float32]

#: Masks are drawn in this size: they are soft.
MASK_SIZE = 256
#: A made picture is shrunk to so many times its size in the photo before it is turned.
FINER = 2.0
#: Of the side of the crop: the edge that is never taken, the way from nothing to all, and the softness of a face.
EDGE, RAMP, FEATHER = 0.025, 0.1, 0.03
#: The outline of a face is drawn so much wider and higher, and its upper half higher still: a mesh ends at the
#: hairline of a low forehead.
WIDER, HIGHER, FOREHEAD = 1.1, 1.06, 1.22
#: Pixels that are blended at a time, which bounds the memory.
_BAND = 1 << 20


def paste(photo: Image.Image, face: Crop, made: Image.Image, mask: Mask = "face") -> Image.Image:
    """Put `made`, a square picture of any size, into the RGB photo in the place of the crop it was made of.

    Pixels outside of the crop keep their values, and what the crop showed blurred at the border of the photo nearly
    does. `mask` says how much is taken: the "face" with its forehead, for a
    crop of a `Face`, or the whole "square"; both fade out. Raises `PspError` for a crop that knows no face,
    and for a picture that is no square.
    """
    result = photo.convert("RGB")  # a copy
    lay(result, face, made, mask)
    return result


def lay(photo: Image.Image, face: Crop, made: Image.Image, mask: Mask = "face") -> None:
    """Do as `paste`, in the RGB photo itself."""
    if made.width != made.height:
        raise PspError(f"a picture of {made.width}x{made.height} fits no crop: expected a square")
    share = _mask(face, mask)
    made, size = made.convert("RGB"), made.width
    if size > FINER * face.side:
        size = max(int(np.ceil(FINER * face.side)), 1)
        made = made.resize((size, size), Image.Resampling.LANCZOS)
    low = np.maximum(np.floor(face.corners.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(face.corners.max(0)), photo.size).astype(int)
    rows = max(_BAND // max(int(high[0] - low[0]), 1), 1)
    for top in range(low[1], high[1], rows):
        box = (int(low[0]), top, int(high[0]), min(top + rows, int(high[1])))
        there = _drawn(made, face.to_crop(size), box, Image.Resampling.BICUBIC)
        covered = _drawn(share, face.to_crop(MASK_SIZE), box, Image.Resampling.BILINEAR)
        opaque: Floats = np.asarray(covered, np.float32) * np.float32(1 / 255)
        opaque *= _within(face, photo.size, box)
        photo.paste(_blended(photo.crop(box), there, opaque), box)


def _drawn(picture: Image.Image, to_crop: Points, box: tuple[int, int, int, int], how: Image.Resampling) -> Image.Image:
    """Draw what of a picture on a crop shows in a box of the photo."""
    affine = np.column_stack([to_crop[:, :2], to_crop[:, 2] + to_crop[:, :2] @ box[:2]])
    return picture.transform((box[2] - box[0], box[3] - box[1]), Image.Transform.AFFINE, tuple(affine.ravel()), how)


def _within(face: Crop, size: tuple[int, int], box: tuple[int, int, int, int]) -> Floats:
    """Weigh each pixel of a box, 0 at the border of the photo to 1 where the crop is not blurred, [H,W]."""
    ramps: list[Floats] = []
    for axis in (0, 1):
        place = np.arange(box[axis], box[axis + 2], dtype=np.float32) + 0.5
        before, after = (max(face.blurred[axis + end], 1e-6) for end in (0, 2))
        ramps.append(np.minimum(place / before, (size[axis] - place) / after).clip(0, 1).astype(np.float32))
    return np.asarray(np.minimum(ramps[0], ramps[1][:, None]))


def _blended(below: Image.Image, above: Image.Image, share: Floats) -> Image.Image:
    """Lay `above` on `below` by its share [H,W]."""
    base = np.asarray(below, np.float32)
    change = (np.asarray(above, np.float32) - base) * share[..., None]
    return Image.fromarray(np.rint(base + change).astype(np.uint8))


def _mask(face: Crop, kind: Mask) -> Image.Image:
    """Draw what is taken of a crop, grey [MASK_SIZE,MASK_SIZE]."""
    if kind not in MASKS:
        raise PspError(f"mask {kind!r}: expected one of {', '.join(MASKS)}")
    square = _square()
    if kind == "square":
        return Image.fromarray(np.rint(square * 255).astype(np.uint8))
    if face.outline is None:
        raise PspError("this crop was made of a square alone: paste it with mask='square'")
    to_crop = face.to_crop(MASK_SIZE)
    outline = _widened(face.outline @ to_crop[:, :2].T + to_crop[:, 2])
    drawn = Image.new("L", (MASK_SIZE, MASK_SIZE))
    ImageDraw.Draw(drawn).polygon([(x, y) for x, y in outline.tolist()], fill=255)
    soft = np.asarray(drawn.filter(ImageFilter.GaussianBlur(FEATHER * MASK_SIZE)), np.float32) / 255
    return Image.fromarray(np.rint(np.minimum(soft, square) * 255).astype(np.uint8))


def _widened(outline: Points) -> Points:
    middle = np.array([outline[:, 0].mean(), (outline[:, 1].min() + outline[:, 1].max()) / 2])
    wide = (outline - middle) * (WIDER, HIGHER)
    wide[wide[:, 1] < 0, 1] *= FOREHEAD
    return np.asarray(wide + middle)


def _square() -> Floats:
    place = np.arange(MASK_SIZE, dtype=np.float32) + 0.5
    ramp = np.clip((np.minimum(place, MASK_SIZE - place) / MASK_SIZE - EDGE) / RAMP, 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.asarray(np.minimum(ramp[:, None], ramp))
