"""Whole photos: faces are found, cut out as FFHQ was aligned, and put back.

    from psp_runtime import alignment
    photo = alignment.open_photo("holiday.jpg").picture
    for face in alignment.find(photo):
        crop = alignment.crop(photo, face, 256)
        photo = alignment.paste(photo, crop, engine(crop.picture))

It needs ONNX Runtime and nothing else; the two networks are in the package.
"""

from psp_runtime.alignment.cropping import Crop, crop
from psp_runtime.alignment.faces import Face, quad
from psp_runtime.alignment.finding import find
from psp_runtime.alignment.pasting import Mask, paste
from psp_runtime.pictures.photos import Photo, open_photo

__all__ = ["Crop", "Face", "Mask", "Photo", "crop", "find", "open_photo", "paste", "quad"]
