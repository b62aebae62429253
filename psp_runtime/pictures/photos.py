"""Whole photos in and out: upright and in RGB, with the colour profile that their values have."""

from typing import NamedTuple

from PIL import Image

from psp_runtime.errors import PictureError
from psp_runtime.pictures.decoding import Picture, open_upright
from psp_runtime.pictures.loading import picture_name, unreadable
from psp_runtime.pictures.strips import Upright
from psp_runtime.pictures.values import eight_bit, grey_top, on_white

#: Where an ICC profile names the space of its values, and the name of RGB there (ICC.1:2022, section 7.2).
_SPACE, _RGB = slice(16, 20), b"RGB "


class Photo(NamedTuple):
    """A photo: an upright RGB picture, and its ICC profile; b"" where it has none, or one of grey or CMYK values."""

    picture: Image.Image
    profile: bytes = b""


def open_photo(picture: Picture) -> Photo:
    """Read a whole photo, turned as EXIF says, transparency on white, grey of more than 8 bits scaled to 8.

    Raises `PictureError` for one that cannot be read, or takes too much memory in its full size.
    """
    name = picture_name(picture)
    try:
        upright = open_upright(picture, name)
        profile = upright.image.info.get("icc_profile") or b""
        return Photo(_in_colours(upright, name), profile if profile[_SPACE] == _RGB else b"")
    except PictureError:
        raise
    except Exception as error:  # on damaged bytes, decoders raise whatever they stumble over
        raise unreadable(name, error) from error


def _in_colours(upright: Upright, name: str) -> Image.Image:
    """Turn and convert a picture, strip by strip."""
    top, place = grey_top(upright.image, upright.white, name), 0
    photo = Image.new("RGB", upright.size)
    for strip in upright.strips():
        photo.paste(on_white(eight_bit(strip, top)).convert("RGB"), (0, place))
        place += strip.height
    return photo
