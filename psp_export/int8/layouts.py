"""Say which layers of an engine compute in 8 bits, and in which form, on a CPU and on a GPU: one description of both.

Float stay: the stem, which sees pixels; gates; style affines and demodulation, which are no convolutions; ToRGB and the
RGB skip, which the picture is the sum of.
"""

import re
from dataclasses import dataclass
from typing import Literal

import onnx

from psp_export.int8.scales import Kind, Method

Role = Literal["generator", "body", "head"]
#: What of the heads stays float.
Float = Literal["none", "last layers", "all"]

#: Node names of the traced modules. A part alone lacks the first word.
_ROLES: dict[Role, re.Pattern[str]] = {
    "generator": re.compile(r"/convs\.\d+/Conv\w*"),
    "body": re.compile(r"/stages\.\d+/.*/(conv\d|shortcut)/Conv\w*"),
    "head": re.compile(r"/head/.*Conv\w*"),
}
_RESIDUAL_ADD = re.compile(r"/stages\.\d+/stages[.\d]+/Add")
_CHAIN = re.compile(r"(/head/heads.*)/convs\.(\d+)/")


@dataclass(frozen=True)
class Layout:
    """The form of 8 bits in each role, None for float; `adds`: the sums of residual units are quantised as well."""

    processor: Literal["cpu", "gpu"]
    kinds: dict[Role, Kind | None]
    adds: bool


#: Activations have made the encoder's tensors one-sided, so unsigned values are finer; the generator's are behind
#: styles of both signs, and symmetric 8 bits are faster there.
CPU = Layout("cpu", {"generator": "s8", "body": "u8", "head": "u8"}, adds=False)
#: TensorRT takes no zero points. Symmetric heads would cost most, and they are a small part of the work.
GPU = Layout("gpu", {"generator": "s8", "body": "s8", "head": None}, adds=True)


@dataclass(frozen=True)
class Rung:
    """A step of the ladder from fast to exact: how ranges are chosen, and what of the heads stays float."""

    method: Method
    heads: Float

    def __str__(self) -> str:
        words = "" if self.heads == "none" else f", heads float{': last layers' if self.heads == 'last layers' else ''}"
        return f"{self.method} scales{words}"


def general(name: str) -> str:
    """Take the part off the name of a node or tensor: what remains is the same in the whole engine and in the part."""
    return re.sub(r"^/(encoder|generator)(?=/)", "", name)


def role(node: onnx.NodeProto) -> Role | None:
    """Tell what a node does, if it is a convolution that may compute in 8 bits."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return None
    return next((role for role, pattern in _ROLES.items() if pattern.fullmatch(general(node.name))), None)


def kinds(graph: onnx.GraphProto, layout: Layout, heads: Float) -> dict[str, Kind]:
    """Choose the form of 8 bits of every layer that gets one: node name -> kind."""
    last = _last_layers(graph)
    found: dict[str, Kind] = {}
    for node in graph.node:
        which = role(node)
        kind = layout.kinds[which] if which else None
        stays = which == "head" and (heads == "all" or (heads == "last layers" and node.name in last))
        if kind and not stays:
            found[node.name] = kind
        elif layout.adds and is_residual_add(node):
            found[node.name] = "s8"
    return found


def is_residual_add(node: onnx.NodeProto) -> bool:
    """Tell whether a node is the sum at the end of a residual unit."""
    return node.op_type == "Add" and bool(_RESIDUAL_ADD.fullmatch(general(node.name)))


def quantised_inputs(node: onnx.NodeProto) -> list[str]:
    """List the inputs of a layer that become 8 bits, weights aside: that of a convolution, both of a sum."""
    return list(node.input) if node.op_type == "Add" else [node.input[0]]


def _last_layers(graph: onnx.GraphProto) -> set[str]:
    """Name the last convolution of every chain of heads."""
    last: dict[str, tuple[int, str]] = {}
    for node in graph.node:
        match = _CHAIN.match(general(node.name)) if role(node) == "head" else None
        if match:
            last[match[1]] = max(last.get(match[1], (-1, "")), (int(match[2]), node.name))
    return {name for _, name in last.values()}
