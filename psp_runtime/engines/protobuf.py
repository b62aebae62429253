"""The messages inside of an ONNX file, found without reading its weights and without onnx (protobuf's wire format)."""

import mmap
from collections.abc import Iterator
from typing import NamedTuple

Bytes = bytes | mmap.mmap

#: Fields of one message that are walked: an engine of 1024x1024 has about 2,000 nodes and weights.
MOST_FIELDS = 100_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message by its number in onnx.proto; `start` to `end` are its bytes, none of a plain number's."""

    number: int
    start: int
    end: int


def walk(data: Bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in `data[start:end]`. Raises `EOFError` where it is none, or is cut off."""
    for _ in range(MOST_FIELDS):
        if start >= end:
            return
        tag, start = _varint(data, start, end)
        wire = tag & 7
        if wire == _VARINT:
            _, start = _varint(data, start, end)
            continue
        if wire == _BYTES:
            length, start = _varint(data, start, end)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise EOFError
        if start + length > end:
            raise EOFError
        yield Field(tag >> 3, start, start + length)
        start += length
    raise EOFError


def entry(data: Bytes, start: int, end: int) -> tuple[bytes, bytes]:
    """Key (field 1) and value (field 2) of a StringStringEntryProto."""
    found = {field.number: data[field.start : field.end] for field in walk(data, start, end)}
    return found.get(1, b""), found.get(2, b"")


def _varint(data: Bytes, start: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for place in range(start, min(end, start + 10)):
        byte = data[place]
        value |= (byte & 0x7F) << (7 * (place - start))
        if byte < 0x80:
            return value, place + 1
    raise EOFError
