"""Pickles that would run code, fill the memory or end the process where they are opened by the usual ways.

Each is made of a trap, a file that must not be there afterwards, and is a whole pickle of one value.
"""

import builtins
import io
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Calls:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def touching(trap: Path) -> Calls:
    """A call that makes the trap."""
    return Calls(os.system, f"touch {trap}")


def named(module: str, name: str, *arguments: str) -> bytes:
    """A pickle of the call of what a name of protocol 4 means, which may have dots."""
    words = [b"\x8c" + bytes([len(one)]) + one.encode() for one in (module, name)]
    return b"\x80\x04" + b"".join(words) + b"\x93(" + b"".join(map(_text, arguments)) + b"tR."


def _text(one: str) -> bytes:
    return b"X" + struct.pack("<I", len(one)) + one.encode()


def saved(value: Any, zipped: bool) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def storage(stream: bytes) -> bytes:
    """A tensor of an NVIDIA pickle with these bytes for its numbers, as G_ema of a network."""
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + _numbers(stream) + b"K\x00K\x04\x85K\x01\x85\x89}tR"
    return _network(tensor)


def view(offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A tensor that views four numbers in this way, as G_ema of a network."""
    four = torch.storage.TypedStorage(wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32, _internal=True)
    parts = b"".join(pickle.dumps(one, 2)[2:-1].replace(b"q\x00", b"") for one in (offset, sizes, strides))
    return _network(b"ctorch._utils\n_rebuild_tensor_v2\n(" + _numbers(saved(four, False)) + parts + b"\x89}tR")


def _numbers(stream: bytes) -> bytes:
    return b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(stream)) + stream + b"\x85R"


def _network(tensor: bytes) -> bytes:
    """{"G_ema": a module with the parameter "weight"}."""
    module = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}(X\x0a\x00\x00\x00class_nameX\x01\x00\x00\x00G"
    state = b"X\x05\x00\x00\x00state}(X\x0b\x00\x00\x00_parameters}X\x06\x00\x00\x00weight" + tensor + b"s"
    state += b"X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules}u"
    return b"\x80\x03}X\x05\x00\x00\x00G_ema" + module + state + b"u\x85Rs."


def kinds(trap: Path) -> dict[str, bytes]:
    """Every kind, by name."""
    touch = touching(trap)
    text = f"open({str(trap)!r}, 'w')"
    return {
        "os.system": pickle.dumps({"G_ema": touch}, 2),
        "posix.system by protocol 4": pickle.dumps({"G_ema": touch}, 4),
        "eval": pickle.dumps({"G_ema": Calls(builtins.eval, text)}, 3),
        "exec": pickle.dumps({"G_ema": Calls(builtins.exec, text)}, 4),
        "getattr": pickle.dumps({"G_ema": Calls(builtins.getattr, [], "append")}, 4),
        "subprocess": pickle.dumps({"G_ema": Calls(subprocess.check_call, ["touch", str(trap)])}, 4),
        "torch.load": named("torch", "load", str(trap)),
        "a name with dots": named("torch._utils", "_rebuild_tensor_v2.__globals__.get", "os"),
        "a name of ours": named("psp_runtime.arrays.pickles", "pickle.loads", "x"),
        "in a part that is not wanted": pickle.dumps({"D": touch, "G_ema": None}, 4),
        "INST": b"(" + _text(f"touch {trap}") + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + _text(f"touch {trap}") + b"o.",
        "an extension of copyreg": b"\x80\x02\x82\x01.",
        "an id of data outside": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "a state written into a name": b"\x80\x02ctorch.storage\n_load_from_bytes\n}X\x05\x00\x00\x00_makeK\x01sb.",
        "a state written into a class": b"\x80\x02cdnnlib.util\nEasyDict\n}X\x03\x00\x00\x00getK\x01sb.",
        "code among the numbers": storage(pickle.dumps(touch, 2)),
        "code among the numbers, saved": storage(saved(touch, zipped=False)),
        "code among the numbers, zipped": storage(saved(touch, zipped=True)),
        "numbers among the numbers": storage(saved(Calls(torch.storage._load_from_bytes, saved(touch, True)), True)),
        "an array of objects": pickle.dumps({"G_ema": _objects(touch)}, 4),
        "a number of objects": _scalar_object(pickle.dumps(touch)),
        "a codec that unpacks": named("_codecs", "encode", "x" * 10, "zlib"),
        "a value number 2 billion": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "a hundred thousand tuples": b"\x80\x02}(" + b")" + b"\x85" * 100_000 + b"Ku.",
        "bytes beyond the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"few.",
        "numbers beyond the storage": view(1 << 40, (4,), (1,)),
        "numbers before the storage": view(0, (2,), (-1,)),
        "much out of little": view(0, (1 << 20, 1 << 20), (0, 0)),
        "a module in itself": _endless(),
    }


def _objects(value: Any) -> Any:
    array = np.empty(1, object)
    array[0] = value
    return array


def _scalar_object(data: bytes) -> bytes:
    kind = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R"
    return b"\x80\x02cnumpy.core.multiarray\nscalar\n" + kind + b"B" + struct.pack("<I", len(data)) + data + b"\x86R."


def _endless() -> bytes:
    """A module that is one of its own modules."""
    name = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    state = b"}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules}q\x02u"
    module = name + b"}X\x05\x00\x00\x00state" + state + b"s\x85Rq\x03"
    return b"\x80\x03}X\x05\x00\x00\x00G_ema" + module + b"sX\x01\x00\x00\x00Dh\x02X\x01\x00\x00\x00ah\x03ss."
