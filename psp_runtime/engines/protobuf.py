"""The messages inside of an ONNX file, found without reading its weights and without onnx (protobuf's wire format)."""

import mmap
from collections.abc import Iterator

Bytes = bytes | mmap.mmap

#: Fields of one message that are walked: an engine of 1024x1024 has about 2,000 nodes and weights.
MOST_FIELDS = 100_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


#: A field of a message: its number in onnx.proto, and where its bytes begin and end. A plain tuple, for speed.
Field = tuple[int, int, int]


def walk(data: Bytes, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of a message, `data[start:end]`, but plain numbers. Raises `EOFError` where it is damaged."""
    for _ in range(MOST_FIELDS):
        if start >= end:
            return
        tag, start = _varint(data, start, end)
        length, start = _length(data, tag & 7, start, end)
        if start + length > end:
            raise EOFError
        if tag & 7 != _VARINT:
            yield tag >> 3, start, start + length
        start += length
    raise EOFError


def _length(data: Bytes, wire: int, start: int, end: int) -> tuple[int, int]:
    """Find how many bytes a field of this type has, and where they begin: behind a number there are none."""
    if wire == _BYTES:
        return _varint(data, start, end)
    if wire == _VARINT:
        return 0, _varint(data, start, end)[1]
    if wire in (_FIXED64, _FIXED32):
        return (8 if wire == _FIXED64 else 4), start
    raise EOFError


def entry(data: Bytes, start: int, end: int) -> tuple[bytes, bytes]:
    """Read key (field 1) and value (field 2) of a StringStringEntryProto."""
    found = {number: data[begin:stop] for number, begin, stop in walk(data, start, end)}
    return found.get(1, b""), found.get(2, b"")


def _varint(data: Bytes, start: int, end: int) -> tuple[int, int]:
    """Read a number, and where it ends."""
    if start < end and data[start] < 0x80:  # most are one byte
        return data[start], start + 1
    value = 0
    for place in range(start, min(end, start + 10)):
        byte = data[place]
        value |= (byte & 0x7F) << (7 * (place - start))
        if byte < 0x80:
            return value, place + 1
    raise EOFError
