"""`psp-export --triton`: the model repository, read by Triton's own parser and against the engine's own tensors."""

import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tiny_family import write_family
from tiny_steps import write_steps

from psp_export import cli, output_files, triton
from psp_export.output_files import Written
from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.errors import PspError
from psp_runtime.serving.config import Model, config_text, preferred_batches

TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}


def parse(text: str):
    """The text as Triton reads it; an unknown field, a wrong type or a wrong name of an enumeration is an error."""
    proto = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient and grpcio")
    return text_format.Parse(text, proto.ModelConfig())


def tensors(entries) -> list[tuple[str, str, list[int]]]:
    def kind(one) -> str:
        return one.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[one.data_type].name

    return [(one.name, kind(one), list(one.dims)) for one in entries]


def engine_tensors(values) -> list[tuple[str, str, list[int]]]:
    return [(one.name, one.type, one.shape[1:]) for one in values]


def family(folder: Path, kind: str = "rgb", **changes: object) -> list[Written]:
    """The files of an export, as `export` lists them."""
    engine = write_family(folder, kind=kind, parts=False, **changes)
    return [Written(engine, "full", "fp32", ""), Written(folder / "psp.mapping.onnx", "mapping", "fp32", "")]


def with_plan(files: list[Written], **changes: object) -> list[Written]:
    """The same with a file that carries the metadata of a plan."""
    info = replace(read_info(files[0].path), **{"backend": "tensorrt", "device": "NVIDIA H200", **changes})
    plan = files[0].path.with_suffix(".trt")
    plan.write_bytes(b"ftrt" + info.to_plan_name().encode() + bytes(100))
    return [*files, Written(plan, "full", "fp32", "")]


@pytest.mark.parametrize("kind", ["rgb", "sketch", "labels"])
def test_configuration_has_the_tensors_of_the_engine(tmp_path: Path, kind: str) -> None:
    files = family(tmp_path, kind)
    triton.write_repository(tmp_path / "models", files, "psp")
    for name, file in (("psp", files[0]), ("psp_mapping", files[1])):
        home = tmp_path / "models" / name
        config = parse((home / "config.pbtxt").read_text())
        session = onnxruntime.InferenceSession(str(home / "1" / "model.onnx"))
        for entries, values in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            expected = sorted(engine_tensors(values))
            assert sorted((n, TYPES[t], d) for n, t, d in tensors(entries)) == expected
        assert config.name == name and config.backend == "onnxruntime"
        assert (home / "1" / "model.onnx").read_bytes() == file.path.read_bytes()
        info = EngineInfo.from_json(config.parameters["psp"].string_value, "config.pbtxt")
        assert info == read_info(file.path)


def test_configuration_batches_and_warms_up(tmp_path: Path) -> None:
    files = family(tmp_path)
    info = read_info(files[0].path)
    triton.write_repository(tmp_path / "models", files, "psp")
    config = parse((tmp_path / "models" / "psp" / "config.pbtxt").read_text())
    assert config.max_batch_size == info.max_batch == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    # With a limit Triton does not prepare the next batch while one runs, and requests wait half a second now and then.
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 0
    assert config.instance_group[0].Kind.Name(config.instance_group[0].kind) == "KIND_AUTO"
    assert config.version_policy.latest.num_versions == 1
    assert [warm.batch_size for warm in config.model_warmup] == [1, 2, 4]
    for warm in config.model_warmup:
        assert set(warm.inputs) == {one.name for one in config.input}
        file = tmp_path / "models" / "psp" / "warmup" / warm.inputs["image"].input_data_file
        assert file.stat().st_size == np.prod(warm.inputs["image"].dims)
        assert warm.inputs["style"].zero_data and warm.inputs["alpha"].zero_data
    mapping = parse((tmp_path / "models" / "psp_mapping" / "config.pbtxt").read_text())
    assert mapping.instance_group[0].Kind.Name(mapping.instance_group[0].kind) == "KIND_CPU"


def test_preferred_sizes_are_powers_of_two_and_the_largest() -> None:
    assert [preferred_batches(n) for n in (1, 2, 3, 8, 12)] == [[1], [2], [2, 3], [2, 4, 8], [2, 4, 8, 12]]


def test_text_survives_quotes_and_backslashes(tmp_path: Path) -> None:
    awkward = 'C:\\models\\"new"'
    info = read_info(family(tmp_path, license=awkward)[0].path)
    config = parse(config_text(info, Model("psp", "onnxruntime")))
    assert EngineInfo.from_json(config.parameters["psp"].string_value, "").license == awkward


@pytest.mark.parametrize("version", ["10.7.0", "10.7.0.23", "10.7.0.post1"])
def test_plan_of_a_release_is_served_as_plan(tmp_path: Path, version: str) -> None:
    files = with_plan(family(tmp_path), backend_version=version)
    choice = triton.write_repository(tmp_path / "models", files, "psp")
    home = tmp_path / "models" / "psp"
    config = parse((home / "config.pbtxt").read_text())
    assert config.backend == "tensorrt" and choice.release == triton.RELEASES["10.7.0"]
    assert config.instance_group[0].Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
    assert [path.name for path in (home / "1").iterdir()] == ["model.plan"]
    assert f"tritonserver:{choice.release}-py3" in (tmp_path / "models" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"backend": "tensorrt_rtx", "backend_version": "10.7.0"},
            "no known release of Triton has tensorrt_rtx 10.7.0",
        ),
        ({"backend_version": "9.9.9"}, "no known release of Triton has tensorrt 9.9.9"),
        ({"backend_version": "10.7.0", "custom_ops": True}, "plugins Triton does not have"),
    ],
)
def test_other_plans_are_served_as_onnx_and_it_says_why(tmp_path: Path, changes: dict, reason: str) -> None:
    choice = triton.write_repository(tmp_path / "models", with_plan(family(tmp_path), **changes), "psp")
    assert choice.backend == "onnxruntime" and reason in choice.reason
    assert reason in (tmp_path / "models" / "README.md").read_text()
    assert [path.name for path in (tmp_path / "models" / "psp" / "1").iterdir()] == ["model.onnx"]


def test_second_export_replaces_the_model_and_leaves_others(tmp_path: Path) -> None:
    files, models = family(tmp_path), tmp_path / "models"
    triton.write_repository(models, with_plan(files, backend_version="10.7.0"), "psp")
    triton.write_repository(models, files, "other")
    triton.write_repository(models, files, "psp")
    assert [path.name for path in (models / "psp" / "1").iterdir()] == ["model.onnx"]
    assert sorted(path.name for path in models.iterdir()) == [
        "README.md", "other", "other_mapping", "psp", "psp_mapping",
    ]  # fmt: skip


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "models" / "psp").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("# A project of its own\n")
    for folder, name, words in (
        (tmp_path / "file", "psp", "is not a folder: give a folder, or a name for a new one"),
        (tmp_path / "dangling", "psp", "is not a folder"),
        (tmp_path / "none" / "models", "psp", "there is no folder"),
        (tmp_path / "models", "psp", "is not a model for Triton"),
        (tmp_path / "models", "my psp", "letters, digits"),
        (tmp_path / "project", "psp", r"README\.md exists and was not written by psp-export"),
    ):
        with pytest.raises(PspError, match=words):
            triton.check_repository(folder, name)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, monkeypatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    (tmp_path / "models").mkdir()
    for folder, refused in (("models", tmp_path / "models"), ("new", tmp_path)):
        with pytest.raises(PspError, match=f"cannot write into {refused}: Permission denied"):
            triton.check_repository(tmp_path / folder, "psp")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("move", [1, 2, 3])
def test_a_repository_the_system_stops_stays_as_it_was(tmp_path: Path, monkeypatch, move: int) -> None:
    """Engine, mapping network and README change together: two folders are exchanged, then a file is replaced."""

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted((tmp_path / "models").rglob("*")) if path.is_file()}

    files, calls = family(tmp_path), []

    def stopped(real: Callable[..., None]) -> Callable[..., None]:
        def work(*paths: Path) -> None:
            calls.append(paths)
            if len(calls) == move:
                raise OSError(28, "No space left on device")
            real(*paths)

        return work

    triton.write_repository(tmp_path / "models", with_plan(files, backend_version="10.7.0"), "psp")
    before = contents()
    monkeypatch.setattr(os, "replace", stopped(os.replace))
    monkeypatch.setattr(output_files, "exchange", stopped(output_files.exchange))
    with pytest.raises(PspError, match="No space left on device; nothing was changed"):
        triton.write_repository(tmp_path / "models", files, "psp")
    assert contents() == before
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["README.md", "psp", "psp_mapping"]


def test_readme_has_nothing_of_the_machine_that_exported(tmp_path: Path) -> None:
    """Its command runs in the folder, wherever that is copied to; a name that is no text does not end the export."""
    folder = tmp_path / os.fsdecode("my models ü \udcff".encode("utf-8", "surrogateescape"))
    triton.write_repository(folder, family(tmp_path), "psp")
    for file in folder.rglob("*"):
        if file.is_file():
            assert os.fsencode(tmp_path) not in file.read_bytes(), file
    command = (folder / "README.md").read_text().partition("    docker")[2].partition("\n\n")[0].replace("\\\n", "")
    words = shlex.split("docker" + command)
    assert words[words.index("-v") + 1] == "$PWD:/models:ro" and words[words.index("-p") + 1] == "127.0.0.1:8000:8000"


def test_readme_has_the_tensors_of_the_engine(tmp_path: Path) -> None:
    """Of ReStyle with what a step goes on from, and how."""
    steps = write_steps(tmp_path)
    for name, files in (("psp", family(tmp_path)), ("steps", [Written(steps, "step", "fp32", "")])):
        triton.write_repository(tmp_path / f"models_{name}", files, name)
        text = (tmp_path / f"models_{name}" / "README.md").read_text()
        session = onnxruntime.InferenceSession(str(tmp_path / f"models_{name}" / name / "1" / "model.onnx"))
        for word, values in (("In", session.get_inputs()), ("Out", session.get_outputs())):
            (line,) = re.findall(rf"^{word}: (.*)\.$", text, re.M)
            kinds = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}
            shapes = {one.name: ",".join(map(str, ("B", *one.shape[1:]))) for one in values}
            assert set(line.split(", ")) == {f"{one.name} {kinds[one.type]} [{shapes[one.name]}]" for one in values}
        assert ("start is 1 in the first" in text) == ("5 of them make a picture" in text) == (name == "steps")


def test_readme_says_what_must_stand_before_it(tmp_path: Path) -> None:
    """The limit lets the largest request through: image, style and alpha of the largest batch."""
    files = family(tmp_path)
    info = read_info(files[0].path)
    triton.write_repository(tmp_path / "models", files, "psp")
    text = (tmp_path / "models" / "README.md").read_text()
    largest = info.max_batch * (256 * 256 * 3 + 4 * info.styles * (info.style_dim + 1))
    (limit,) = re.findall(r"bodies of at most (\d+) MiB", text)
    assert largest < int(limit) << 20 < 4 * largest
    for words in (
        "127.0.0.1",
        "password",
        "POST /v2/models/psp/infer",
        "8001",
        "8002",
        "shared memory",
        "Content-Encoding",
    ):
        assert words in text, words


def test_option_of_psp_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The repository is written from what was exported; a folder that will not do is refused before any work."""
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psp_export.export.export", lambda checkpoint, options, say: family(tmp_path))
    for folder, code in (("models", 0), ("file", 2)):
        monkeypatch.setattr(
            sys, "argv", ["psp-export", "--backend", "onnx", "--output", "psp.onnx", "--triton", folder]
        )
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert (end.value.code or 0) == code
    out, err = capsys.readouterr()
    assert "models: for Triton" in out and "served as ONNX" in out
    assert "--triton file is not a folder" in err
    assert (tmp_path / "models" / "psp" / "1" / "model.onnx").is_file()


def test_engine_files_are_listed_though_the_repository_fails(tmp_path: Path, monkeypatch, capsys) -> None:
    def refuse(*_: object) -> None:
        raise PspError("cannot write models/psp: No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psp_export.export.export", lambda checkpoint, options, say: family(tmp_path))
    monkeypatch.setattr("psp_export.triton.write_repository", refuse)
    monkeypatch.setattr(sys, "argv", ["psp-export", "--backend", "onnx", "--triton", "models"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and "psp.mapping.onnx" in out and "error: cannot write models/psp" in err
