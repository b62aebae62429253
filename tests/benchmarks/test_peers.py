"""The other networks of the paper's runtime column compute what the published code does, and count what it counts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from measure import report, roofline
from measure.peers import shapes, weights
from measure.peers.layers import spread
from measure.peers.pieces import peer_inputs
from measure.workloads import Workload

from psp_train.seeded import unit_uniform

GOLDEN = Path(__file__).parents[1] / "golden" / "peers"
TABLES = {"alae": "alae_1024", "idinvert": "idinvert_256", "rotatespade": "rotatespade_256"}
PIECES = {piece.kind: piece for row in report.ROWS for piece in row.pieces if piece.peer}


@pytest.mark.parametrize(
    ("kind", "gflop", "parameters"),
    [
        ("alae", 129.017430016, 51_075_011),
        ("idinvert", 64.738623488, 189_304_515),
        ("rotatespade", 130.563047424, 225_056_387),
    ],
)
def test_work_and_parameters_are_those_of_the_published_code(kind, gflop, parameters):
    work = roofline.work(Workload(1024), PIECES[kind])
    assert work.gflop == pytest.approx(gflop, abs=5e-10)
    assert round(1e9 * work.gweights) == parameters
    sizes = {name: shapes.peer_size(kind, side, small=False) for name, side in (("published", 1024), ("less", 128))}
    assert sizes["published"].side == shapes.SIDES[kind] and sizes["less"].side == 128


@pytest.mark.parametrize("kind", TABLES)
def test_keys_and_shapes_are_those_of_the_checkpoints(kind):
    table = shapes.shapes(kind, shapes.peer_size(kind, 1024, small=False))
    published = json.loads((GOLDEN / "key_tables.json").read_text())[TABLES[kind]]
    found = {key: list(shape) for key, shape in table.items() if not key.startswith("noise.")}
    assert found == published


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alae", "idinvert"])
def test_inversion_is_that_of_the_published_code(kind):
    golden, network, draw = published(kind)
    side = shapes.SIDES[kind]
    with torch.inference_mode():
        codes = network.encoder(0.5 * draw("image", (1, 3, side, side)))
        close(codes, golden["code" if kind == "alae" else "codes"], 5e-6)
        compare(network.generator(codes), golden, "image")


@pytest.mark.long  # of other codes than those of a picture, which are in the test above
@pytest.mark.parametrize(("kind", "codes"), [("alae", (1, 512)), ("idinvert", (1, 14, 512))])
def test_a_generator_is_that_of_the_published_code(kind, codes):
    golden, network, draw = published(kind)
    with torch.inference_mode():
        compare(network.generator(0.7 * draw("w", codes)), golden, "generator")


@pytest.mark.slow
def test_rotate_and_render_is_that_of_the_published_code():
    golden, network, draw = published("rotatespade")
    cells = (draw("segments", (1, 5, 32, 32)) > 1).float()
    maps = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.inference_mode():
        compare(network.paint(0.5 * draw("mesh", (1, 3, 256, 256)), maps), golden, "image")


def published(kind):
    """Its golden outputs, the network on the same tensors, and what draws its inputs."""
    golden = np.load(GOLDEN / f"{TABLES[kind]}.npz")
    seed = int(golden["seed"])
    state = weights.seeded_state(kind, shapes.shapes(kind, shapes.peer_size(kind, 1024, small=False)), seed)
    return golden, weights.build(kind, state), lambda name, shape: torch.from_numpy(unit_uniform(name, shape, seed))


def compare(picture, golden, name):
    """The whole picture averaged down, and three crops of 16 x 16."""
    side = picture.shape[-1]
    y, x = side // 2 - 12, side // 4 + 44
    close(F.avg_pool2d(picture, side // golden[f"{name}_down"].shape[-1]), golden[f"{name}_down"], 3e-5)
    crops = picture[..., :16, :16], picture[..., y : y + 16, x : x + 16], picture[..., -16:, -16:]
    for crop, found in enumerate(crops):
        close(found, golden[f"{name}_crop{crop}"], 3e-5)


def close(found, expected, relative):
    assert np.abs(found.numpy().squeeze() - expected.squeeze()).max() <= relative * np.abs(expected).max()


def test_a_spread_kernel_convolves_and_averages():
    x, weight = torch.randn(1, 2, 8, 8, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    found = F.conv2d(x, spread(weight) / 4, stride=2, padding=1)
    torch.testing.assert_close(found, F.avg_pool2d(F.conv2d(x, weight, padding=1), 2))


@pytest.mark.parametrize("kind", TABLES)
def test_a_network_takes_and_gives_uint8(kind):
    size = shapes.peer_size(kind, 64, small=True)
    network = weights.seeded_peer(kind, size)
    arrays = [torch.from_numpy(array) for array in peer_inputs(kind, size, 2).values()]
    assert {array.dtype for array in arrays} == {torch.uint8}
    with torch.inference_mode():
        results = network(*arrays)
    picture, *codes = results if isinstance(results, tuple) else (results,)
    assert picture.shape == (2, 64, 64, 3) and picture.dtype == torch.uint8 and picture.float().std() > 1
    assert [code.shape for code in codes] == {"alae": [(2, 32)], "idinvert": [(2, 10, 32)], "rotatespade": []}[kind]
    assert (picture[0] != picture[1]).any()
