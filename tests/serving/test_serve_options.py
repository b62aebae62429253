"""What psp-serve and its client refuse, or read, before anything is served or sent."""

from pathlib import Path

import pytest
from tiny_steps import CARS, write_steps

from psp_runtime.errors import PspError
from psp_runtime.serving.cli import psp_serve
from psp_runtime.serving.client import parse_url
from psp_runtime.serving.options import Serve, check


def test_mistakes_are_one_line(engine: Path, tmp_path: Path) -> None:
    for file, delay, words in (
        (tmp_path / "none.onnx", 2, "no engine at"),
        (engine.with_name("face.mapping.onnx"), 2, "only the mapping"),
        *((engine, float(delay), "expected milliseconds, 0 to 60000") for delay in ("inf", "nan", "-1", "1e9")),
    ):
        with pytest.raises(PspError, match=words):
            psp_serve(Serve(engine=[file], delay=delay))


def test_names_of_engines() -> None:
    a, b = Path("a.onnx"), Path("b.onnx")
    assert Serve(engine=[a]).names == ["psp"]
    assert Serve(engine=[a, b]).names == ["a", "b"]
    assert Serve(engine=[a, b], name=["x", "y"]).names == ["x", "y"]
    for engines, names, words in (
        ([a, b], ["x"], "1 --name for 2 --engine"),
        ([a, Path("c/a.onnx")], None, "two engines are called a"),
        ([a], ["a/b"], "--name"),
        ([a], ["x_mapping"], "--name"),
    ):
        with pytest.raises(PspError, match=words):
            check(Serve(engine=engines, name=names))


def test_urls() -> None:
    assert parse_url("http://host:8000") == (False, "host:8000", "psp")
    assert parse_url("https://host/sketch/") == (True, "host", "sketch")
    assert parse_url("http://[::1]:8000/") == (False, "[::1]:8000", "psp")
    wrong = ("host:8000", "ftp://host", "http://", "http://host/a/b", "http://host/?x", "http://[::1")
    for url in (*wrong, "http://host:abc", "http://host:99999", "http://name:word@host:8000", "http://host/#x"):
        with pytest.raises(PspError, match="--url"):
            parse_url(url)


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        (["steps", "sr"], "--first goes with one --engine, given 2: serve the others apart"),
        (["sr"], "--first is for ReStyle engines, .*sr.onnx makes its pictures in one step"),
        (["cars"], "steps.onnx is no engine to go on from: its input_shape is"),
    ],
)
def test_engines_that_no_first_step_goes_with(folder: Path, tmp_path: Path, engines: list[str], words: str) -> None:
    write_steps(tmp_path, "cars", **CARS)
    paths = [tmp_path / "cars.onnx" if name == "cars" else folder / f"{name}.onnx" for name in engines]
    with pytest.raises(PspError, match=words):
        psp_serve(Serve(engine=paths, first=folder / "steps.onnx"))
