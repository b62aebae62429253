import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_engines import tiny_info, write_onnx, write_plan

from psp_runtime.engines.info import PLAN_NAME_LIMIT, EngineInfo, read_info
from psp_runtime.errors import EngineError, PspError
from psp_runtime.tasks import TASKS, get_task


def test_onnx_and_plan_carry_the_same_facts(tmp_path: Path) -> None:
    info = tiny_info("labels", precision="fp16")
    assert read_info(write_onnx(tmp_path / "a.onnx", "labels", precision="fp16")) == info
    (tmp_path / "a.trt").write_bytes(b"x" * 100 + info.to_plan_name().encode() + b"\0{}" * 100)
    assert read_info(str(tmp_path / "a.trt")) == info


def test_onnx_metadata_agrees_with_the_onnx_package(tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "a.onnx"))
    values = {entry.key: entry.value for entry in model.metadata_props}
    assert EngineInfo.from_json(values["psp"], "a.onnx") == read_info(tmp_path / "a.onnx")


def test_json_is_compact_ascii() -> None:
    text = tiny_info(license="für alle").to_json()
    assert text.isascii() and ", " not in text.replace("test weights", "")
    assert EngineInfo.from_json(text, "x").license == "für alle"


def test_a_name_tensorrt_would_drop_is_refused() -> None:
    with pytest.raises(EngineError, match="4095"):
        tiny_info(license="x" * 4000).to_plan_name()
    room = PLAN_NAME_LIMIT - len(tiny_info(license="").to_plan_name())
    assert len(tiny_info(license="x" * room).to_plan_name()) == PLAN_NAME_LIMIT


def test_the_longest_plan_name_is_read_back(tmp_path: Path) -> None:
    room = PLAN_NAME_LIMIT - len(tiny_info(license="").to_plan_name())
    info = tiny_info(license="x" * room)
    (tmp_path / "a.trt").write_bytes(b"ftrt" + info.to_plan_name().encode() + bytes(10))
    assert read_info(tmp_path / "a.trt") == info


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match="empty"):
        read_info(tmp_path / "empty.onnx")
    for path in (tmp_path / "none.trt", tmp_path):
        with pytest.raises(EngineError, match="no engine at"):
            read_info(path)


@pytest.mark.parametrize("name", ["a.onnx", "a.trt", "a.png"])
@pytest.mark.parametrize("content", [b"text, not an engine\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), bytes(99)])
def test_foreign_files_are_engine_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EngineError) as caught:
        read_info(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_every_cut_of_an_engine_is_an_error(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "whole.onnx").read_bytes()
    plan = tiny_info().to_plan_name().encode()
    for index in range(0, 20):
        for name, content in (("cut.onnx", whole), ("cut.trt", plan)):
            (tmp_path / name).write_bytes(content[: 1 + index * (len(content) - 1) // 20])
            with pytest.raises(EngineError):
                read_info(tmp_path / name)


def test_onnx_that_is_not_ours(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(EngineError, match="not one made by psp-export"):
        read_info(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"format": 2}, "engine format 2"), ({"task": None}, "damaged"), ({"mix_layers": 3}, "damaged")],
)
def test_other_formats_and_damaged_json(change: dict, reason: str) -> None:
    values = json.loads(tiny_info().to_json()) | change
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(EngineError, match=reason):
        EngineInfo.from_json(json.dumps(values), "psp.onnx")


@pytest.mark.parametrize("text", ["", "[]", "7", '{"format":1}', "null"])
def test_json_of_another_kind(text: str) -> None:
    with pytest.raises(EngineError, match=r"psp\.onnx: damaged"):
        EngineInfo.from_json(text, "psp.onnx")


def test_fields_of_a_newer_writer_are_ignored() -> None:
    values = json.loads(tiny_info().to_json()) | {"colour": "blue"}
    assert EngineInfo.from_json(json.dumps(values), "x") == tiny_info()


def test_plan_with_metadata_of_another_flavour_keeps_it(tmp_path: Path) -> None:
    assert read_info(write_plan(tmp_path / "a.trt", backend="tensorrt_rtx")).backend == "tensorrt_rtx"


def test_tasks_know_their_layers_and_names() -> None:
    assert get_task("super_resolution").mix_layers(18) == (4, 5, 6, 7)
    assert get_task("segmentation").mix_layers(10) == (8, 9) and get_task("segmentation").channels == 19
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}
    with pytest.raises(PspError, match="'upscaling'.*inversion"):
        get_task("upscaling")


def test_engines_from_before_photos_are_framed_as_ffhq() -> None:
    values = json.loads(tiny_info().to_json())
    assert EngineInfo.from_json(json.dumps(values | {"crop_scale": 1.28}), "x").crop_scale == 1.28
    del values["crop_scale"]
    assert EngineInfo.from_json(json.dumps(values), "x").crop_scale == 1
    with pytest.raises(EngineError, match="crop_scale 0, expected a number 0.2 to 5"):
        EngineInfo.from_json(json.dumps(values | {"crop_scale": 0}), "x")
