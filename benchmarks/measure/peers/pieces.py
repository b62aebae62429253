"""A network as the other modules of the benchmarks want it: inputs, metadata, work."""

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from measure.peers.rotate_and_render import MAPS
from measure.peers.shapes import PeerKind, PeerSize, parameters, shapes
from measure.peers.weights import build
from psp_runtime.engines.info import EngineInfo

LICENCE = "seeded weights: no licence but that of this toolkit"
#: Of the squares that the maps of Rotate-and-Render are drawn of.
CELL = 8


def peer_inputs(kind: PeerKind, size: PeerSize, batch: int) -> dict[str, np.ndarray]:
    """Inputs by name: pictures uint8 [B,S,S,3]; for Rotate-and-Render also maps, uint8 [B,5,S,S] of 0 and 1."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (batch, size.side, size.side, 3), np.uint8)
    if kind != "rotatespade":
        return {"image": image}
    cells = random.integers(0, 2, (batch, MAPS, size.side // CELL, size.side // CELL), np.uint8)
    return {"image": image, "maps": cells.repeat(CELL, 2).repeat(CELL, 3)}


def peer_info(kind: PeerKind, size: PeerSize, part: str, batch: int) -> EngineInfo:
    """Metadata with which `psp_runtime` opens the network's file; it is no engine of a task."""
    return EngineInfo(
        task="benchmark", encoder=kind, input="rgb", input_size=size.side, classes=0, output_size=size.side,
        styles=2 * size.log - 2, style_dim=size.code, mix_layers=(), mix_alpha=0.0, max_batch=batch, precision="fp32",
        backend="onnx", backend_version="", checkpoint="seeded", license=LICENCE, part=part,
    )  # fmt: skip


def peer_work(kind: PeerKind, size: PeerSize) -> tuple[float, float]:
    """What one picture takes: 10^9 operations, counted on shapes, and 10^9 published parameters."""
    table = shapes(kind, size)
    with FakeTensorMode():
        module = build(kind, {key: torch.empty(shape) for key, shape in table.items()})
        arrays = [torch.from_numpy(array) for array in peer_inputs(kind, size, 1).values()]
        with FlopCounterMode(display=False) as counter:
            module(*arrays)
    return counter.get_total_flops() / 1e9, parameters(table) / 1e9
