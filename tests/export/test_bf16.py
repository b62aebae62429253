"""What stays FP32 in bf16, found by shapes, against the types of the FP16 export; and the run in bf16 at export."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import tiny_checkpoint

from psp_export.export import Options, engine_info
from psp_export.verify import bf16
from psp_export.verify.cases import reference_cases
from psp_runtime.engines.info import read_info
from psp_runtime.engines.openvino.islands import MULTIPLYING, executed_layers, islands, keep_islands
from psp_runtime.engines.openvino.session import OpenVINOSession
from psp_runtime.engines.precision import capabilities

openvino = pytest.importorskip("openvino")

#: What computes nothing, or only changes a type, which OpenVINO takes out.
NO_WORK = ("Constant", "Parameter", "Result", "Convert")


@pytest.fixture(scope="module")
def engines(exported: Path) -> dict[str, Path]:
    """The tiny model in both precisions, verified."""
    return {precision: exported / f"{precision}.onnx" for precision in ("fp32", "fp16")}


def read(path: Path) -> object:
    """A model for one picture."""
    model = openvino.Core().read_model(path)
    model.reshape({port: [1, *port.partial_shape[1:]] for port in model.inputs})
    return model


def names(nodes) -> set[str]:
    return {node.get_friendly_name() for node in nodes}


def test_islands_are_those_of_the_fp16_export(engines: dict[str, Path]) -> None:
    """All that the export keeps in FP32 are islands but the means of gates, which read a feature map."""
    model = read(engines["fp16"])
    working = [node for node in model.get_ordered_ops() if node.get_type_name() not in NO_WORK]
    in_fp32 = {node.get_friendly_name() for node in working if node.get_output_element_type(0).to_string() == "f32"}
    assert len(in_fp32) > 100
    left = in_fp32 - names(islands(model))
    assert left and all(name.endswith("/gate/GlobalAveragePool") for name in left)


def test_convolutions_of_feature_maps_are_no_islands(engines: dict[str, Path]) -> None:
    model = read(engines["fp16"])
    layers = {name for name in names(model.get_ordered_ops()) if "ConvTranspose" in name and "/convs." in name}
    layers |= {"/encoder/stages.0/stages.0.0/conv1/Conv", "/generator/convs.0/LeakyRelu"}
    assert len(layers) > 5 and not layers & names(islands(model))


def test_an_fp32_engine_has_the_same_islands(engines: dict[str, Path]) -> None:
    """Nodes without a name of the export are numbered, and numbers differ."""
    both = [{name for name in names(islands(read(path))) if "/" in name} for path in engines.values()]
    assert both[0] == both[1]


def test_islands_carry_openvino_s_mark(engines: dict[str, Path], tmp_path: Path) -> None:
    model = read(engines["fp16"])
    keep_islands(openvino.Core(), model)
    openvino.serialize(model, tmp_path / "marked.xml", tmp_path / "marked.bin")
    text = (tmp_path / "marked.xml").read_text()
    assert text.count('<attribute name="DisablePrecisionConversion"') == len(list(islands(model)))


def test_no_matrix_of_an_island_is_merged_with_its_bias(engines: dict[str, Path]) -> None:
    """A merged node has no mark and goes by the bias alone, so a multiplication that still goes by its own name has it.

    Pictures stay as they were: a bias added by itself is rounded once more.
    """
    core, model = openvino.Core(), read(engines["fp16"])
    plain = picture(core.compile_model(model, "CPU"))
    keep_islands(core, model)
    compiled = core.compile_model(model, "CPU")
    executed = {name for _, _, of in executed_layers(compiled) for name in of.split(",")}
    multiplications = {node for node in islands(model) if node.get_type_name() in ("MatMul", "Convolution")}
    assert len(multiplications) > 30 and names(multiplications) <= executed
    assert np.abs(picture(compiled) - plain).max() <= 1


def picture(compiled: object) -> np.ndarray:
    """What a compiled model makes of one noisy photo, int [1,64,64,3]."""
    rng = np.random.default_rng(0)
    shapes = {port.any_name: list(port.shape) for port in compiled.inputs}
    image = rng.integers(0, 256, shapes.pop("image"), np.uint8)
    found = compiled({"image": image, **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()}})
    return found["output"].astype(int)


def test_what_is_said_is_what_is_executed(engines: dict[str, Path]) -> None:
    """Whatever is asked for: OpenVINO computes in FP32 where the CPU has no bf16, and says nothing."""
    session = OpenVINOSession(engines["fp16"], "bf16")
    assert session.precision == ("bf16" if "BF16" in capabilities() else "fp32")


@pytest.mark.skipif("BF16" not in capabilities(), reason="this CPU has no bf16 (AVX-512 BF16 or AMX)")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_executed_graph_keeps_the_islands(engines: dict[str, Path], precision: str) -> None:
    """A convolution that takes a feature map is bf16, also where it gives a vector and has an island's bias in it."""
    core, model = openvino.Core(), read(engines[precision])
    keep_islands(core, model)
    kept = names(islands(model))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    layers = [(kind, computed, set(of.split(","))) for kind, computed, of in executed_layers(compiled)]
    multiplying = [(computed, of) for kind, computed, of in layers if kind in MULTIPLYING]
    assert {computed for computed, of in multiplying if of <= kept} == {"f32"}
    assert sum(computed == "bf16" for computed, _ in multiplying) > 20


def test_the_export_says_where_bf16_cannot_be_run(engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "lacks_bf16", lambda: "a CPU with AMX")
    assert bf16.measure_bf16(engines["fp16"], []) == ({}, "bf16 not run here: it needs a CPU with AMX")


@pytest.mark.parametrize(("levels", "verdict"), [(0, ""), (2, ", below 50 and 45: runs in FP32")])
def test_the_gate_measures_every_picture(
    engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch, levels: int, verdict: str
) -> None:
    """On any CPU, against references moved by whole levels: 2 of 255 are 42.1 dB."""
    checkpoint = tiny_checkpoint()
    cases = reference_cases(checkpoint.model, engine_info(checkpoint, Options(precision="fp16")))
    session = OpenVINOSession(engines["fp16"])
    outputs = [session.run(case.inputs)["output"] for case in cases]
    moved = [
        replace(case, expected=np.where(one < 128, one + levels, one - levels)) for case, one in zip(cases, outputs)
    ]
    monkeypatch.setattr(bf16, "lacks_bf16", lambda: "")
    numbers, words = bf16.measure_bf16(engines["fp16"], moved)
    if "BF16" not in capabilities():  # else the pictures differ by more than that
        assert numbers == {name: 99.0 if levels == 0 else 42.11 for name in ("bf16_mean", "bf16_worst")}
        assert words.endswith(f"dB worst{verdict}")


def test_an_fp16_export_carries_what_was_measured(engines: dict[str, Path]) -> None:
    parity = read_info(engines["fp16"]).parity
    assert parity is not None and ("bf16_worst" in parity) == ("BF16" in capabilities())
