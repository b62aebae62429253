"""Engine files that somebody else wrote: whatever their metadata say, opening them ends in one line, and soon."""

import importlib.util
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_engines import tiny_info, write_onnx, write_plan

from psp_runtime.engines.info import ONNX_KEY, read_info
from psp_runtime.engines.openvino.session import OpenVINOSession
from psp_runtime.engines.session import OnnxSession, open_session
from psp_runtime.errors import EngineError

SESSIONS = [OnnxSession] + [OpenVINOSession] * (importlib.util.find_spec("openvino") is not None)
VALUES = json.loads(tiny_info().to_json())
DEEP = "[" * 150_000

#: What a field of the metadata must not be.
WRONG: list[tuple[str, object]] = [
    ("task", 7),
    ("task", None),
    ("task", ["inversion"]),
    ("task", "\x1b[2J\x1b]0;pwned\x07"),
    ("task", "x" * 1000),
    ("encoder", {"a": 1}),
    ("encoder", "two\nlines"),
    ("input", "video"),
    ("input", 3),
    ("input", ["rgb"]),
    ("input_size", 0),
    ("input_size", -256),
    ("input_size", 10**9),
    ("input_size", "256"),
    ("input_size", 256.5),
    ("input_size", True),
    ("classes", -1),
    ("classes", 257),
    ("classes", None),
    ("output_size", 10**9),
    ("output_size", 1e400),
    ("output_size", [64]),
    ("styles", 0),
    ("styles", 2**40),
    ("styles", "4"),
    ("style_dim", -8),
    ("style_dim", 2**31),
    ("mix_layers", 3),
    ("mix_layers", None),
    ("mix_layers", "23"),
    ("mix_layers", [2, 4]),
    ("mix_layers", [-1]),
    ("mix_layers", [2, 2]),
    ("mix_layers", [[2]]),
    ("mix_layers", [1.5]),
    ("mix_layers", list(range(10_000))),
    ("mix_layers", {"2": 3}),
    ("mix_alpha", float("nan")),
    ("mix_alpha", float("inf")),
    ("mix_alpha", -1),
    ("mix_alpha", "half"),
    ("max_batch", 0),
    ("max_batch", 10**6),
    ("max_batch", None),
    ("precision", 16),
    ("backend", None),
    ("backend_version", 1.23),
    ("checkpoint", 0),
    ("checkpoint", "\u202eab"),
    ("license", "free\x1b[31m"),
    ("license", "\ud800"),
    ("license", "x" * 20_000),
    ("part", "whole"),
    ("part", None),
    ("device", 0),
    ("parity", 61.5),
    ("parity", {"psnr": "high"}),
    ("parity", {"psnr": float("nan")}),
    ("parity", {"\x07": 1}),
    ("parity", {str(n): n for n in range(100)}),
    ("parity", [61.5, 1]),
    ("custom_ops", "no"),
    ("processor", "tpu"),
    ("processor", None),
    ("calibration", 128),
    ("calibration", {"pictures": 128}),
    ("calibration", {"pictures": 0, "sha256": "ab" * 32}),
    ("calibration", {"pictures": 128, "sha256": "AB" * 32}),
    ("calibration", {"pictures": 128, "sha256": "ab" * 32, "folder": "/home"}),
    ("format", "1"),
]


def wrong_json() -> list[str]:
    """Metadata as text: each wrong value, and what is no such object at all."""
    texts = [json.dumps(VALUES | {name: value}) for name, value in WRONG]
    texts += [json.dumps({k: v for k, v in VALUES.items() if k != name}) for name in ("task", "styles", "format")]
    texts += [DEEP, '{"format":1,"task":' + DEEP, '{"a":' * 50_000, "1" * 60_000, "[]", "null", '{"format":1}']
    return [*texts, json.dumps(VALUES)[:-1] + f',"padding":"{"x" * 70_000}"}}']


def with_metadata(path: Path, text: str) -> Path:
    """The tiny engine, as ONNX or as a plan, with other metadata."""
    if path.suffix == ".onnx":
        model = onnx.load(write_onnx(path))
        onnx.helper.set_model_props(model, {ONNX_KEY: text})
        onnx.save(model, path)
    else:
        path.write_bytes(b"ftrt" + bytes(99) + f"psp:{text}".encode() + bytes(99))
    return path


@pytest.mark.parametrize("name", ["psp.onnx", "psp.trt"])
def test_wrong_metadata_is_one_line_and_soon(tmp_path: Path, name: str) -> None:
    for text in wrong_json():
        path = with_metadata(tmp_path / name, text)
        began = time.process_time()
        tracemalloc.start()
        with pytest.raises(EngineError) as caught:
            open_session(path, "cpu")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        message = str(caught.value)
        assert message.startswith(str(path)) and len(message) < 500 and message.isprintable(), text[:100]
        assert time.process_time() - began < 1 and peak < 10 << 20, text[:100]


def test_a_wrong_value_is_named_with_what_is_expected(tmp_path: Path) -> None:
    for name, value in WRONG:
        if name != "format":
            with pytest.raises(EngineError, match=rf"damaged engine metadata \({name} .*, expected "):
                read_info(with_metadata(tmp_path / "psp.onnx", json.dumps(VALUES | {name: value})))


def test_what_psp_export_writes_is_within_the_ranges(tmp_path: Path) -> None:
    full = {"styles": 18, "style_dim": 512, "output_size": 1024, "mix_layers": tuple(range(8, 18)), "max_batch": 1024}
    equal = {"parity": {"psnr": float("inf"), "max": 0}, "license": "für alle", "mix_alpha": 1}
    equal |= {"processor": "gpu", "calibration": {"pictures": 128, "sha256": "ab" * 32}}
    info = tiny_info(**full | equal)
    assert read_info(with_metadata(tmp_path / "psp.onnx", info.to_json())) == info
    assert read_info(write_plan(tmp_path / "psp.trt", **full)).max_batch == 1024


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        ({"output_size": 128}, "output"),
        ({"styles": 5}, "style"),
        ({"style_dim": 9}, "style"),
        ({"input_size": 255}, "image"),
        ({"input": "sketch"}, "image"),
        ({"input": "labels"}, "image"),
        ({"part": "generator"}, "latents"),
        ({"part": "mapping"}, "z"),
        ({"part": "encoder"}, "more than"),
    ],
)
def test_metadata_of_another_graph(tmp_path: Path, session: type, change: dict, tensor: str) -> None:
    path = with_metadata(tmp_path / "psp.onnx", json.dumps(VALUES | change))
    with pytest.raises(EngineError, match=rf"psp\.onnx contradicts its metadata: .*{tensor}"):
        session(path)


def test_millions_of_fields_are_not_walked(tmp_path: Path) -> None:
    (tmp_path / "psp.onnx").write_bytes(b"\x08\x01" * 2_000_000)
    (tmp_path / "many.onnx").write_bytes(b"\x72\x02\x0a\x00" * 1_000_000)
    for name in ("psp.onnx", "many.onnx"):
        began = time.process_time()
        with pytest.raises(EngineError, match="truncated or not an ONNX file"):
            read_info(tmp_path / name)
        assert time.process_time() - began < 2


def stored_outside(path: Path, location: str, where: str = "initializer") -> Path:
    """The tiny engine with one of its weights in a file of that name."""
    model = onnx.load(write_onnx(path))
    tensor = next(one for one in model.graph.initializer if one.name == "ramp")
    (path.parent / "ramp.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if where == "constant":
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["ramp"], value=tensor))
    onnx.save(model, path)
    return path


def test_weights_beside_an_engine_are_opened(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    path = stored_outside(tmp_path / "engine" / "psp.onnx", "ramp.bin")
    inputs = {"image": np.ones((1, 256, 256, 3), np.uint8), "style": np.zeros((1, 4, 8), np.float32)}
    inputs["alpha"] = np.zeros((1, 4), np.float32)
    assert OnnxSession(path, "cpu").run(inputs)["latents"].any()
    links = tmp_path / "links"  # as downloads are kept: links to files in another folder
    links.mkdir()
    for name in ("psp.onnx", "ramp.bin"):
        (links / name).symlink_to(tmp_path / "engine" / name)
    assert OnnxSession(links / "psp.onnx", "cpu").run(inputs)["latents"].any()


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, session: type, where: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(bytes(128))
    (home / "link").symlink_to(tmp_path / "secret")
    for location in ("../secret", str(tmp_path / "secret"), "link", "sub/../../secret", "/etc/passwd", "a\0b", "x\x1b"):
        with pytest.raises(EngineError) as caught:
            session(stored_outside(home / "psp.onnx", location, where))
        if location != "x\x1b":
            assert "outside of its folder" in str(caught.value)
        assert "\0" not in str(caught.value)
