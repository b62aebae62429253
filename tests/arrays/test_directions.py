"""Directions and saved codes as people have them, against what the published code computes with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import KEY_TABLES, relative_error
from pickled.nvidia import family_golden
from tiny_engines import INFO

from psp_runtime.arrays.directions import read_direction
from psp_runtime.directions import semantics
from psp_runtime.errors import PspError
from psp_runtime.latents import Coordinate, edit_alpha, moved
from psp_runtime.run.latents_files import read_latents
from psp_train.seeded import seeded_tensor, unit_uniform

GOLDEN = family_golden("edits")
SEED = int(GOLDEN["seed"])
WIDE = replace(INFO, styles=10, style_dim=512)
LATENT = unit_uniform("latent", (1, 10, 512), SEED) * np.float32(0.7)
NEAR = 5e-6


def write(path: Path, value: object) -> Path:
    """Save in the format that the name ends in."""
    as_tensor = torch.as_tensor if isinstance(value, np.ndarray) else lambda one: one
    writers = {".npy": lambda: np.save(path, value), ".npz": lambda: np.savez(path, value)}
    writers.get(path.suffix, lambda: torch.save(as_tensor(value), path))()
    return path


@pytest.mark.parametrize("ending", ["pt", "npy", "npz"])
def test_interfacegan(tmp_path: Path, ending: str) -> None:
    """[1,512] and 18 equal rows of it, as age.pt and pose.pt are, and [512]."""
    way = unit_uniform("direction", (1, 512), SEED)
    way /= np.linalg.norm(way)
    rows = np.repeat(way, 10, axis=0)
    for array in (way, way[0], rows, rows[None], rows[:, None]):
        file = write(tmp_path / f"age.{ending}", array)
        direction = read_direction(file, WIDE)
        edited = moved(LATENT, direction, np.arange(-5, 5, dtype=np.float32), edit_alpha(WIDE, None, None))
        assert relative_error(edited[0], GOLDEN["interfacegan"]) < NEAR


def ganspace() -> dict[str, torch.Tensor]:
    mean = unit_uniform("mean", (1, 512), SEED) * np.float32(0.2)
    std = np.sort(np.abs(unit_uniform("std", (80,), SEED)) + np.float32(0.1))[::-1].copy()
    arrays = {"mean": mean, "comp": GOLDEN["ganspace_comp"], "std": std}
    return {name: torch.from_numpy(one) for name, one in arrays.items()}


@pytest.mark.parametrize("ending", ["pt", "npz", "npy"])
def test_ganspace(tmp_path: Path, ending: str) -> None:
    """The strength is where the code ends, measured on its row 0; rows start:end of the published code move."""
    file = tmp_path / f"ffhq_pca.{ending}"
    arrays = {name: one.numpy() for name, one in ganspace().items()}
    if ending == "npz":
        np.savez(file, **arrays)
    else:
        write(file, ganspace() if ending == "pt" else arrays)
    for number, (component, start, end, strength) in enumerate([(0, 0, 5, 3), (7, 2, 10, -2)]):
        direction = read_direction(file, WIDE, str(component))
        alpha = edit_alpha(WIDE, range(start, end), None)
        edited = moved(LATENT, direction, np.array([strength], np.float32), alpha)[0]
        assert relative_error(edited, GOLDEN["ganspace"][number : number + 1]) < NEAR
        there = moved(edited, direction, np.array([strength], np.float32), alpha)[0]
        if start == 0:
            assert np.abs(there - edited).max() < 1e-5  # it is there already


def modulations(layers: tuple[int, ...]) -> list[np.ndarray]:
    names = ["decoder.conv1", *(f"decoder.convs.{number}" for number in range(8))]
    keys = [f"{names[layer]}.conv.modulation.weight" for layer in layers]
    return [seeded_tensor(key, tuple(KEY_TABLES["psp_64"][key]), SEED) for key in keys]


@pytest.mark.parametrize(("name", "layers"), [("sefa_2345", (2, 3, 4, 5)), ("sefa_all", tuple(range(9)))])
def test_sefa(name: str, layers: tuple[int, ...]) -> None:
    """The published eigenvectors, whose sign is arbitrary."""
    found, expected = semantics(modulations(layers), 8), GOLDEN[f"{name}_boundaries"]
    signs = np.sign((found * expected).sum(1, keepdims=True))
    assert relative_error(found * signs, expected) < 1e-5  # eigenvectors of float32 there, of float64 here
    assert (found[np.arange(8), np.abs(found).argmax(1)] > 0).all()


def test_sefa_moves_the_published_rows() -> None:
    """Indices 2 to 5 are the weights of rows 2 to 5; the published code moves rows 1 to 4 (--rows-before)."""
    found, amounts = semantics(modulations((2, 3, 4, 5)), 2), np.array([-6, 0, 6], np.float32)
    alpha = edit_alpha(WIDE, range(1, 5), None)
    for number, direction in enumerate(found):
        expected = GOLDEN["sefa_2345"][3 * number : 3 * number + 3]
        ways = [moved(LATENT, np.broadcast_to(way, (10, 512)), amounts, alpha)[0] for way in (direction, -direction)]
        assert min(relative_error(way, expected) for way in ways) < NEAR


def test_files_of_several(tmp_path: Path) -> None:
    """By number of a stack, by name of a dict; axes of length 1 do not count."""
    stack = np.arange(3 * 4 * 8, dtype=np.float32).reshape(3, 4, 8)
    for array in (stack, stack[:, None], stack[:, 0], stack[:, :1]):
        file = write(tmp_path / "several.npy", array)
        expected = np.broadcast_to(array[2], (4, 8)) if array.squeeze().ndim < 3 else stack[2]
        assert np.array_equal(read_direction(file, INFO, "2"), expected)
    file = write(tmp_path / "named.npy", {"age": stack[0], "smile": stack[1, :1]})
    assert np.array_equal(read_direction(file, INFO, "age"), stack[0])
    assert np.array_equal(read_direction(file, INFO, "smile"), np.broadcast_to(stack[1, 0], (4, 8)))


@pytest.mark.parametrize(
    ("value", "component", "message"),
    [
        (np.zeros((3, 4, 8)), None, r"holds several directions: choose one with --component \(0 to 2\)"),
        (np.zeros((3, 4, 8)), "3", r"--component 3: .* holds several directions: .*\(0 to 2\)"),
        (np.zeros((3, 4, 8)), "age", "--component age: .* holds several directions"),
        (
            {"age": np.zeros(8), "b": np.zeros(8)},
            None,
            r"holds several directions: choose one with --component \(age, b\)",
        ),
        ({"age": np.zeros(8), "b": np.zeros(7)}, "b", r"expected numbers \[8\] or \[4,8\], given float64 \[7\]"),
        (np.zeros(8), "0", "--component 0: .* holds one direction, leave it out"),
        (np.zeros((1, 7)), None, r"expected numbers \[8\] or \[4,8\], given float64 \[1,7\]"),
        (
            ganspace(),
            "1",
            r"components of GANSpace for 8 numbers, given mean \[1, 512\], comp \[80, 1, 512\], std \[80\]",
        ),
    ],
)
def test_mistakes(tmp_path: Path, value: object, component: str | None, message: str) -> None:
    file = write(tmp_path / ("a.pt" if isinstance(value, dict) and "std" in value else "a.npy"), value)
    with pytest.raises(PspError, match=message):
        read_direction(file, INFO, component)


def test_ganspace_mistakes(tmp_path: Path) -> None:
    file = write(tmp_path / "pca.pt", ganspace())
    with pytest.raises(PspError, match=r"holds several directions: choose one with --component \(0 to 79\)"):
        read_direction(file, WIDE)
    file = write(tmp_path / "pca.pt", ganspace() | {"std": torch.zeros(80)})
    with pytest.raises(PspError, match="its component 3 is not finite, or has the deviation 0.0"):
        read_direction(file, WIDE, "3")
    assert isinstance(read_direction(write(tmp_path / "pca.pt", ganspace()), WIDE, "79"), Coordinate)


def test_saved_codes(tmp_path: Path) -> None:
    """[L,S], [B,L,S] and others whose axes of length 1 do not count; of a dict, outputs have the names in it."""
    codes = np.arange(2 * 4 * 8, dtype=np.float32).reshape(2, 4, 8)
    for ending in ("npy", "npz", "pt"):
        for array in (codes, codes[:, None], codes[None]):
            found = read_latents(write(tmp_path / f"w.{ending}", array), INFO)
            assert [path.name for path, _ in found] == [f"w_1.{ending}", f"w_2.{ending}"]
            assert np.array_equal([one for _, one in found], codes)
        for array in (codes[0], codes[:1], codes[0][:, None]):
            [(path, one)] = read_latents(write(tmp_path / f"w.{ending}", array), INFO)
            assert path.name == f"w.{ending}" and np.array_equal(one, codes[0])
    torch.save({"faces/ann.jpg": torch.from_numpy(codes), "bob.jpg": torch.from_numpy(codes[1])}, tmp_path / "w.pt")
    found = read_latents(tmp_path / "w.pt", INFO)
    assert [path.name for path, _ in found] == ["w_ann_1.pt", "w_ann_2.pt", "w_bob.pt"]
    with pytest.raises(PspError, match=r"w.pt, ann: expected latents \[B,4,8\].*given float32 \[3,8\]"):
        torch.save({"ann": torch.zeros(3, 8)}, tmp_path / "w.pt")
        read_latents(tmp_path / "w.pt", INFO)
