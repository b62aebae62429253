"""Keys and shapes of what the networks are made of: those of the published checkpoints, only what runs.

ALAE draws its noise anew for every picture; it is a tensor here, `noise.N` of layer N, as it is stored for IDInvert.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from measure.peers.inversion import FUSED_FROM
from measure.peers.rotate_and_render import MAPS

PeerKind = Literal["alae", "idinvert", "rotatespade"]
PEERS: tuple[PeerKind, ...] = get_args(PeerKind)
Shape = tuple[int, ...]
Entries = Iterator[tuple[str, Shape]]
#: The published sides of the pictures in pixels.
SIDES: dict[PeerKind, int] = {"alae": 1024, "idinvert": 256, "rotatespade": 256}
#: What the channels of a small network are divided by.
NARROW = 16
#: Blocks of Rotate-and-Render between its encoder and decoder.
BLOCKS = 9


@dataclass(frozen=True)
class PeerSize:
    """The side of the pictures in pixels, and what the published channels are divided by."""

    side: int
    narrow: int = 1

    @property
    def code(self) -> int:
        """Channels of a code."""
        return 512 // self.narrow

    @property
    def log(self) -> int:
        """The side is 2 to the power of this."""
        return int(math.log2(self.side))

    def channels(self, side: int) -> int:
        """Channels at a side, in ALAE and in the generator of IDInvert."""
        return min(512, 16384 // side) // self.narrow


def peer_size(kind: PeerKind, side: int, small: bool) -> PeerSize:
    """The published side, or `side` where that is less."""
    return PeerSize(min(side, SIDES[kind]), NARROW if small else 1)


def shapes(kind: PeerKind, size: PeerSize) -> dict[str, Shape]:
    """Every key of a network with its shape."""
    return dict(entry for part in _PARTS[kind] for entry in part(size))


def parameters(table: dict[str, Shape]) -> int:
    """How many parameters are published: statistics of batch norm and noise are none."""
    buffers = ("running_mean", "running_var", ".noise")
    return sum(math.prod(s) for key, s in table.items() if not key.endswith(buffers) and not key.startswith("noise."))


def _alae_encoder(size: PeerSize) -> Entries:
    yield from _layer("encoder.from_rgb.0.from_rgb", (size.channels(size.side), 3, 1, 1))
    for i in range(size.log - 1):
        block, inputs = f"encoder.encode_block.{i}", size.channels(size.side >> i)
        for which, outputs in ((1, inputs), (2, size.channels(size.side >> (i + 1)))):
            yield f"{block}.conv_{which}.weight", (outputs, inputs, 3, 3)
            yield f"{block}.bias_{which}", (1, outputs, 1, 1)
            yield from _layer(f"{block}.style_{which}", (size.code, 2 * outputs))


def _alae_generator(size: PeerSize) -> Entries:
    yield "decoder.const", (1, size.channels(4), 4, 4)
    for i in range(2 * size.log - 2):
        block, which, side = f"decoder.decode_block.{i // 2}", 1 + i % 2, 4 << i // 2
        inputs, outputs = size.channels(side // 2 if which == 1 else side), size.channels(side)
        if i:
            fused = which == 1 and side >= FUSED_FROM
            yield f"{block}.conv_{which}.weight", (inputs, outputs, 3, 3) if fused else (outputs, inputs, 3, 3)
        yield f"{block}.noise_weight_{which}", (1, outputs, 1, 1)
        yield f"{block}.bias_{which}", (1, outputs, 1, 1)
        yield from _layer(f"{block}.style_{which}", (2 * outputs, size.code))
        yield f"noise.{i}", (1, 1, side, side)
    yield from _layer(f"decoder.to_rgb.{size.log - 2}.to_rgb", (3, size.channels(size.side), 1, 1))


def _idinvert_encoder(size: PeerSize) -> Entries:
    widths = [min(1024, 64 << i) // size.narrow for i in range(size.log - 1)]
    yield "encoder.block0.conv.weight", (widths[0], 3, 3, 3)
    yield from _batch_norm("encoder.block0.bn.bn", widths[0])
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:]), 1):
        yield from _idinvert_block(f"encoder.block{i}", inputs, outputs)
    codes = (2 * size.log - 2) * size.code
    yield f"encoder.block{len(widths)}.fc.weight", (codes, widths[-1] * 4 * 4)
    yield from _batch_norm(f"encoder.block{len(widths)}.bn.bn", codes)


def _idinvert_block(block: str, inputs: int, outputs: int) -> Entries:
    if inputs != outputs:
        yield f"{block}.conv.weight", (outputs, inputs, 1, 1)
        yield from _batch_norm(f"{block}.bn.bn", outputs)
    for which, width in ((1, inputs), (2, outputs)):
        yield f"{block}.conv{which}.weight", (width, inputs, 3, 3)
        yield f"{block}.wscale{which}.bias", (width,)
        yield from _batch_norm(f"{block}.bn{which}.bn", width)


def _idinvert_generator(size: PeerSize) -> Entries:
    yield "generator.synthesis.layer0.const", (1, size.channels(4), 4, 4)
    for i in range(2 * size.log - 2):
        layer, side = f"generator.synthesis.layer{i}", 4 << i // 2
        inputs, outputs = size.channels(side if i % 2 else side // 2), size.channels(side)
        if i % 2 == 0 and side >= FUSED_FROM:
            yield f"{layer}.weight", (3, 3, inputs, outputs)
        elif i:
            yield f"{layer}.conv.weight", (outputs, inputs, 3, 3)
        yield f"{layer}.epilogue.bias", (outputs,)
        yield f"{layer}.epilogue.apply_noise.weight", (outputs,)
        yield f"{layer}.epilogue.apply_noise.noise", (1, 1, side, side)
        yield f"{layer}.epilogue.style_mod.dense.fc.weight", (2 * outputs, size.code)
        yield f"{layer}.epilogue.style_mod.dense.wscale.bias", (2 * outputs,)
    yield f"generator.synthesis.output{size.log - 2}.conv.weight", (3, size.channels(size.side), 1, 1)
    yield f"generator.synthesis.output{size.log - 2}.bias", (3,)


def _rotatespade_convolutions(size: PeerSize) -> Entries:
    widths = [(64 << i) // size.narrow for i in range(5)]
    yield "generator.first_layer.1.0.weight", (widths[0], 3, 7, 7)
    yield from _batch_norm("generator.first_layer.1.1", widths[0])
    for i, (low, high) in enumerate(zip(widths, widths[1:])):
        down, up = (f"generator.{name}_layers.{n}" for name, n in (("downsample", 2 * i), ("upsample", 6 - 2 * i)))
        yield f"{down}.0.weight", (high, low, 3, 3)
        yield from _batch_norm(f"{down}.1", high)
        yield f"{up}.0.weight", (high, low, 3, 3)
        yield from _batch_norm(f"{up}.1", low)
    yield from _layer("generator.final_layer.1", (3, widths[0], 7, 7))


def _rotatespade_blocks(size: PeerSize) -> Entries:
    width, hidden = 1024 // size.narrow, 128 // size.narrow
    for i, which in ((i, which) for i in range(BLOCKS) for which in (0, 1)):
        block = f"generator.resnet_layers{i}"
        norm = f"{block}.norm_{which}"
        yield from _layer(f"{block}.conv_{which}", (width, width, 3, 3))
        yield f"{norm}.param_free_norm.running_mean", (width,)
        yield f"{norm}.param_free_norm.running_var", (width,)
        yield from _layer(f"{norm}.mlp_shared.0", (hidden, MAPS, 3, 3))
        yield from _layer(f"{norm}.mlp_gamma", (width, hidden, 3, 3))
        yield from _layer(f"{norm}.mlp_beta", (width, hidden, 3, 3))


def _layer(name: str, weight: Shape) -> Entries:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def _batch_norm(name: str, channels: int) -> Entries:
    for key in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{key}", (channels,)


_PARTS = {
    "alae": (_alae_encoder, _alae_generator),
    "idinvert": (_idinvert_encoder, _idinvert_generator),
    "rotatespade": (_rotatespade_convolutions, _rotatespade_blocks),
}
