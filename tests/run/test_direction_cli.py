"""`psp direction` from the command line: directions from tables, and tables that teach nothing."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_runs import PspRun
from PIL import Image
from tiny_family import STYLE_DIM, STYLES
from working_folder import PIXELS, RNG, mistake, pipeline

from psp_runtime.directions import fit_direction as fit


def test_learning_a_direction_from_pictures(good: Callable[..., str]) -> None:
    """Pictures that are redder on one side; the direction makes them so."""
    rows = ["picture,red"]
    for index in range(24):
        pixels = np.kron(RNG.integers(0, 100, (4, 4, 3), np.uint8), np.ones((64, 64, 1), np.uint8))
        pixels[:, :64, 0] += np.uint8(100 * (index % 2))
        Image.fromarray(pixels).save(f"p{index}.png")
        rows.append(f"p{index}.png,{index % 2}")
    Path("red.csv").write_text("\n".join(rows))
    out = good("direction", "red.csv")
    assert re.fullmatch(
        r"red\.npy: a direction \[14,8\] from 24 examples, 12 of label 1; "
        r"(?:100|9\d)% of held-out ones right, penalty .*\n"  # NumPy 1 finds 96%
        r"next: psp edit PICTURE --engine engines/psp\.onnx --direction red\.npy\n",
        out,
    )
    first = Path("red.npy").read_bytes()
    direction = np.load("red.npy")
    assert direction.shape == (STYLES, STYLE_DIM) and direction.dtype == np.float32
    with pipeline() as p:
        latents = p.encode(p.prepare([f"p{index}.png" for index in range(24)]))
    along = (latents * direction).sum((1, 2)) / np.square(direction).sum()
    assert along[1::2].min() > along[::2].max()
    assert along.std() == pytest.approx(1, abs=1e-3)  # strength 1 is one standard deviation
    good("direction", "red.csv")
    assert Path("red.npy").read_bytes() == first
    good("edit", "p0.png", "--direction", "red.npy", "--strength", "0,2")


def test_learning_a_direction_from_saved_codes(good: Callable[..., str]) -> None:
    latents = RNG.normal(size=(40, STYLES, STYLE_DIM)).astype(np.float32)
    labels = (latents[:, 3, 2] > 0.5).astype(int)
    latents[labels == 1, 3, 2] += 6
    np.save("many.npy", latents)
    Path("l.csv").write_text("\n".join(map(str, labels)))
    good("direction", "l.csv", "--latents", "many.npy", "--out", "d/way.npy")
    way = np.load("d/way.npy")
    assert np.unravel_index(np.abs(way).argmax(), way.shape) == (3, 2) and way[3, 2] > 0
    again = ("direction", "l.csv", "--latents", "many.npy", "--out", "d/way.npy")
    assert "replaced" not in good(*again)
    Path("l.csv").write_text("\n".join(map(str, 1 - labels)))
    assert good(*again).endswith("replaced what another run had made: d/way.npy\n")
    assert good(*again, "-q") == ""


def test_pictures_and_codes_in_one_table_keep_their_order(psp: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some lines name pictures, some latents; they are encoded a batch at a time."""
    with pipeline() as p:
        latents = p.encode(PIXELS)
    np.save("c0.npy", latents[1])
    names = ["a.png", "b.png", "c.png", "a.png", "c0.npy", "c.png", "c0.npy"]
    Path("t.csv").write_text("\n".join(f"{name},{index % 2}" for index, name in enumerate(names)))
    seen = []
    monkeypatch.setattr(
        "psp_runtime.run.find_direction.fit_direction", lambda *given: seen.append(given) or fit(*given)
    )
    assert psp("direction", "t.csv", "--batch", 3)[0] == 0
    np.testing.assert_allclose(seen[0][0], latents[[0, 1, 2, 0, 1, 2, 1]], atol=1e-5)
    assert seen[0][1].tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_a_direction_does_not_replace_an_example(psp: PspRun) -> None:
    for name in ("t.npy", "u.npy"):
        np.save(name, RNG.normal(size=(1, STYLES, STYLE_DIM)).astype(np.float32))
    before = Path("t.npy").read_bytes()
    Path("t.csv").write_text("t.npy,0\nu.npy,1\nt.npy,0\nu.npy,1\n")
    assert "t.npy, the output of psp direction, is an input too" in mistake(
        psp("direction", "t.csv"), "t.csv", "t.npy", "u.npy"
    )
    assert Path("t.npy").read_bytes() == before


def test_hidden_files_in_a_folder_of_codes_are_left_alone(good: Callable[..., str]) -> None:
    """macOS puts a ._X beside each X on other file systems."""
    Path("latents").mkdir()
    np.save("latents/a.npy", RNG.normal(size=(STYLES, STYLE_DIM)).astype(np.float32))
    Path("latents/._a.npy").write_bytes(b"\0\5\x16\7")
    assert good("decode", "latents").startswith("1 picture in ")


def test_a_direction_no_better_than_guessing_is_warned_about(psp: PspRun) -> None:
    np.save("many.npy", np.random.default_rng(0).normal(size=(40, STYLES, STYLE_DIM)))
    Path("l.csv").write_text("\n".join("01" * 20))
    code, out, err = psp("direction", "l.csv", "--latents", "many.npy")
    assert code == 0 and out.startswith("l.npy: a direction")
    assert err.startswith("warning: only ") and "guessing gets 50%" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "t.csv has no rows"),
        ("name,label", "t.csv has no rows"),
        ("a.png,2\na.png,1\nb.png,1\nc.png,0\nd.png,0", "line 1: expected PICTURE,0 or PICTURE,1, given 'a.png,2'"),
        ("a.png,-1.0\na.png,1", "line 1: expected PICTURE,0"),
        ("a.png,1\nb.png,2", "line 2: expected PICTURE,0 or PICTURE,1, given 'b.png,2'"),
        ("a.png,1,0\n", "line 1: expected PICTURE,0"),
        ("a.png,1\nb.png,0", "1 examples of label 0 and 1 of label 1: expected at least 2 of each"),
        ("a.png,1\nb.png,1\nc.png,1\n", "0 examples of label 0 and 3 of label 1"),
        ("a.png,1\na.png,1\na.png,0\na.png,0\n", "latents of all examples are alike"),
        ("a.png,1\nnone.png,0", "cannot read none.png: No such file"),
        ("1\n0\n", "labels only: add the picture to each line, or give their latents with --latents"),
        ("latents.npy,1\n", "latents.npy has the latents of 2 pictures, expected one per line"),
    ],
)
def test_tables_that_teach_nothing(psp: PspRun, table: str, message: str) -> None:
    Path("t.csv").write_text(table)
    assert message in mistake(psp("direction", "t.csv"), "t.csv")


def test_a_large_table_is_answered_at_its_first_wrong_row(psp: PspRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with wrong labels, of files that are not there, of names that can be none; one long row."""
    looked: list[Path] = []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: (looked.append(path), exists(path))[1])
    for count, row, message in (
        (300_000, "a.png,2\n", "line 1: expected PICTURE,0 or PICTURE,1, given 'a.png,2'"),
        (10_000, "none.png,1\n", "cannot read none.png: No such file"),
        (300_000, "a\0.png,1\n", "line 1: expected PICTURE,0" if sys.version_info > (3, 11) else "line contains NUL"),
    ):
        Path("t.csv").write_text(row * count)
        assert message in mistake(psp("direction", "t.csv"), "t.csv")
    assert 1 <= looked.count(Path("none.png")) <= 3
    Path("t.csv").write_text("x" * 100_000 + ",2")
    assert len(mistake(psp("direction", "t.csv"), "t.csv")) < 300
