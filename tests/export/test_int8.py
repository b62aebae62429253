"""INT8 in its pieces: ranges, scales, Q/DQ of a layer, which layers, the ladder, the pictures."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from models import tiny_checkpoint
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_engines import INFO

from psp_export.export import Exporter, Options
from psp_export.graphs.probe import open_probe
from psp_export.int8 import bias, ladder, samples
from psp_export.int8.calibration import calibrate, candidates
from psp_export.int8.histograms import Histogram
from psp_export.int8.layouts import CPU, GPU, general, kinds
from psp_export.int8.nodes import quantise
from psp_export.int8.scales import Scale, activation_scale, dequantised, quantised, quantised_weight
from psp_export.verify.cases import with_styles
from psp_export.verify.parity import ParityError
from psp_runtime.engines import contract
from psp_runtime.engines.info import read_info
from psp_runtime.engines.onnx_session import _options
from psp_runtime.errors import PspError
from psp_runtime.tasks import get_task

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The tiny model as an FP32 file."""
    folder = tmp_path_factory.mktemp("fp32")
    options = Options(folder / "psp", "fp32", "onnx", verify=False)
    (file, _) = Exporter(tiny_checkpoint(), options, folder / "psp", lambda *words: None).write_onnx()
    return file.path


def histogram(*parts):
    found = Histogram()
    for part in parts:
        found.add(part, float(part.min()), float(part.max()))
    return found


def test_a_histogram_counts_what_numpy_counts_however_its_range_grew():
    parts = [RNG.normal(0, size, 5000) for size in (0.01, 3, 0.5, 40)]
    found, values = histogram(*parts), np.concatenate(parts)
    expected, _ = np.histogram(values, len(found.counts), (-found.span, found.span))
    # A value on the edge of a bin may fall to either side.
    assert found.counts.sum() == len(values) and np.abs(found.counts - expected).sum() <= 4
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.span / 2 < np.abs(values).max() <= found.span


@pytest.mark.parametrize("kind", ["s8", "u8"])
def test_scales_of_least_error_against_whole_ranges(kind):
    values = np.append(RNG.normal(0.7, 1, 200_000), 30)
    found = histogram(values)
    whole, best = (activation_scale(found, kind, method) for method in ("max", "mse"))
    error = [np.square(dequantised(quantised(values, s), s) - values).mean() for s in (whole, best)]
    assert error[1] < 0.8 * error[0]
    extremes = np.array([found.low, 0, found.high])
    back = dequantised(quantised(extremes, whole), whole)
    assert np.abs(back - extremes).max() <= 0.5001 * whole.scale and back[1] == 0


@pytest.mark.parametrize("kind", ["s8", "u8"])
def test_a_tensor_of_zeros_stays_zero(kind):
    scale = activation_scale(histogram(np.zeros(5)), kind, "mse")
    assert scale.scale > 0 and dequantised(quantised(np.zeros(2), scale), scale).tolist() == [0, 0]


def test_the_weights_of_a_fir_are_exact():
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
    q, scale = quantised_weight(np.stack([taps[None], 5 * taps[None]]), 0)
    np.testing.assert_allclose(q * scale[:, None, None, None], np.stack([taps[None], 5 * taps[None]]), rtol=1e-6)


LAYERS = {
    "Conv": dict(weight=(6, 4, 3, 3), stride=2, groups=1),
    "ConvTranspose": dict(weight=(4, 6, 3, 3), stride=2, groups=1),
    "depthwise": dict(weight=(4, 1, 4, 4), stride=1, groups=4),
}


@pytest.mark.parametrize("kind", ["s8", "u8"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_8_bits_against_the_formula_in_float64(tmp_path, name, kind):
    """y = s_x s_w Σ (q_x - zero) q_w + bias, with the sum of whole numbers taken as such."""
    shape, stride, groups = LAYERS[name].values()
    operation = "Conv" if name == "depthwise" else name
    x = RNG.normal(0.5, 1, (1, 4, 9, 9)).astype(np.float32)
    weight, bias = RNG.normal(0, 1, shape).astype(np.float32), RNG.normal(0, 1, 4 if groups > 1 else 6)
    node = helper.make_node(operation, ["x", "w", "b"], ["y"], "layer", strides=[stride] * 2, group=groups)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["x"]), node],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "C", "H", "W"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias.astype(np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    scale = activation_scale(histogram(x), kind, "mse")
    quantise(model, {"layer": kind}, {("x", kind): scale})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "one.onnx")
    (y,) = open_probe(tmp_path / "one.onnx").run(["y"], {"image": x})
    expected = by_formula(x, weight, bias, scale, operation, stride)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    assert {t.name for t in model.graph.initializer}.isdisjoint({"w"})


def by_formula(x, weight, bias, scale: Scale, operation, stride):
    low, high = (0, 255) if scale.zero.dtype == np.uint8 else (-127, 127)
    q = np.clip(np.round(x.astype(np.float64) / scale.scale) + int(scale.zero), low, high) - int(scale.zero)
    axis = 1 if operation == "ConvTranspose" else 0
    qw, scales = quantised_weight(weight, axis)
    assert np.abs(qw).max() <= 127
    if operation == "ConvTranspose":
        out = np.zeros((1, weight.shape[1], 2 * x.shape[2] + 1, 2 * x.shape[3] + 1))
        for i in range(9):
            for j in range(9):
                out[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += np.einsum("c,cokl->okl", q[0, :, i, j], qw)
    else:
        size = weight.shape[2]
        windows = np.lib.stride_tricks.sliding_window_view(q, (size, size), (2, 3))[:, :, ::stride, ::stride]
        pattern = "nchwkl,cdkl->nchw" if weight.shape[1] == 1 else "nchwkl,ockl->nohw"
        out = np.einsum(pattern, windows, qw.astype(np.float64))
    return out * (float(scale.scale) * scales.astype(np.float64))[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_corrected_bias_keeps_the_mean_of_every_channel(tmp_path, groups):
    """Against the convolution in float64 over many pictures; a scale that cuts a third of the values off shifts it."""
    weight = RNG.normal(0.3, 1, (6, 4 // groups, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Identity", ["image"], ["x"]),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], "layer", group=groups),
        helper.make_node("Identity", ["y"], ["output"]),
        helper.make_node("Identity", ["y"], ["latents"]),
    ]
    shape = [1, 4, 32, 32]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("output", "latents")],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(RNG.normal(0, 1, 6).astype(np.float32), "b")],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feeds = [{"image": RNG.normal(0.5, 1, shape).astype(np.float32)} for _ in range(8)]
    scales = {("x", "s8"): Scale(np.float32(0.8 / 127), np.int8(0))}
    models = [onnx.ModelProto.FromString(plain.SerializeToString()) for _ in range(3)]
    quantise(models[1], {"layer": "s8"}, scales)
    means = bias.measure_means(onnx.ModelProto.FromString(models[1].SerializeToString()), INFO, feeds, tmp_path)
    quantise(models[2], {"layer": "s8"}, scales, means)
    found = []
    for index, model in enumerate(models):
        onnx.save(model, tmp_path / f"{index}.onnx")
        session = open_probe(tmp_path / f"{index}.onnx")
        found.append(np.mean([session.run(["output"], feed)[0].mean((0, 2, 3)) for feed in feeds], axis=0))
    shift, left = (np.abs(one - found[0]).max() for one in found[1:])
    assert shift > 0.2 and left < 0.05 * shift  # the borders of 32 x 32 values
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.onnx", "1.onnx", "2.onnx"]
    sizes = [len(model.SerializeToString()) for model in models[1:]]
    assert abs(sizes[1] - sizes[0]) < 32


def test_the_layers_of_each_processor(engine):
    graph = onnx.load(engine).graph
    operation = {node.name: node.op_type for node in graph.node}
    cpu, gpu = kinds(graph, CPU, "none"), kinds(graph, GPU, "all")
    stay = ("stem", "gate", "to_rgbs", "/generator/ConvTranspose")
    convolutions = {name for name, op in operation.items() if op in ("Conv", "ConvTranspose")}
    assert cpu.keys() == {name for name in convolutions if not any(word in name for word in stay)}
    assert {kind for name, kind in cpu.items() if "/generator/" in name} == {"s8"}
    assert {kind for name, kind in cpu.items() if "/encoder/" in name} == {"u8"}
    assert set(gpu.values()) == {"s8"} and not any("/head/" in name for name in gpu)
    assert sum(operation[name] == "Add" for name in gpu) == 6  # units
    last = cpu.keys() - kinds(graph, CPU, "last layers").keys()
    assert len(last) == 3 and all("/head/heads." in name for name in last)
    assert not any("/head/" in name for name in kinds(graph, CPU, "all"))


def test_calibration_sees_what_flows_through_the_graph(engine, tmp_path):
    """Against the whole tensors, which a graph of this size can put out."""
    info, model = read_info(engine), onnx.load(engine)
    pictures = RNG.integers(0, 256, (3, 1, 256, 256, 3), np.uint8)
    feeds = [with_styles(tiny_checkpoint().model, info, p, n, n % 2) for n, p in enumerate(pictures)]
    told = []
    found = calibrate(engine, feeds, told.append)
    assert told == ["1 of 3 pictures", "2 of 3 pictures", "3 of 3 pictures"]
    names = candidates(model.graph)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(model, tmp_path / "whole.onnx")
    session = open_probe(tmp_path / "whole.onnx")
    runs = [session.run(names, feed) for feed in feeds]
    assert len(found) == len(names) > 50
    for index, name in enumerate(names):
        values = np.concatenate([run[index].ravel() for run in runs])
        one = found[general(name)]
        np.testing.assert_allclose([one.low, one.high], [values.min(), values.max()], rtol=1e-5)
        middle = float((one.counts * one.centres).sum() / one.counts.sum())
        assert abs(middle - values.mean()) < 0.05 * values.std() + one.span / 4096, name


@pytest.mark.parametrize("kind", ["restyle_psp"])
def test_every_step_of_restyle_is_calibrated_on(tmp_path, kind):
    options = Options(tmp_path / "psp", "fp32", "onnx", verify=False)
    checkpoint = tiny_checkpoint("inversion", kind)
    (file, _) = Exporter(checkpoint, options, tmp_path / "psp", lambda *words: None).write_onnx()
    info = read_info(file.path)
    feed = with_styles(checkpoint.model, info, np.zeros((1, 256, 256, 3), np.uint8), 0, 0)
    found = calibrate(file.path, [feed])
    assert {one.counts.sum() for one in found.values()} == {info.iterations * (1 << 15)}


@pytest.mark.parametrize(("layout", "refused", "expected"), [(CPU, 0, 0), (CPU, 3, 3), (CPU, 5, 5), (GPU, 1, 5)])
def test_the_ladder_goes_down_until_the_gate_lets_one_through(layout, refused, expected):
    tried = []

    def attempt(rung):
        tried.append(rung)
        if len(tried) <= refused:
            raise ParityError("too far off")
        return "made"

    assert ladder.climb(layout, attempt) == (ladder.RUNGS[expected], "made")
    assert tried[-1] == ladder.RUNGS[expected] and len(set(tried)) == len(tried) == refused + 1


def test_a_ladder_without_an_end_says_why():
    def refuse(rung):
        raise ParityError(f"refused {rung}")

    with pytest.raises(ParityError, match="refused max scales, heads float$"):
        ladder.climb(CPU, refuse)


def photos(folder, count):
    folder.mkdir()
    for index in range(count):
        Image.fromarray(np.full((8, 8, 3), index % 256, np.uint8)).save(folder / f"{index:04}.png")
    return folder


def test_pictures_that_judge_are_not_calibrated_on(engine, tmp_path):
    info = read_info(engine)
    chosen = samples.from_folder(photos(tmp_path / "many", 160), info)
    assert (len(chosen.calibration), len(chosen.held_out)) == (144, 16)
    seen = [{int(picture.mean()) for picture in part} for part in (chosen.calibration, chosen.held_out)]
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 160
    facts = chosen.to_metadata()
    assert facts["pictures"] == 144 and len(facts["sha256"]) == 64
    other = samples.Samples(chosen.calibration[::-1].copy(), chosen.held_out)
    assert other.to_metadata()["sha256"] != facts["sha256"]


def test_a_folder_of_too_few_pictures(tmp_path):
    """128 are calibrated on, whatever is held out: one more, and the folder will do."""
    folder = photos(tmp_path / "few", 143)
    (folder / "notes.txt").write_text("no picture")
    words = r"few holds 143 pictures, expected at least 144 inputs of the task \(128 to calibrate on, 16 to judge the "
    with pytest.raises(PspError, match=rf"{words}engine\); left out"):
        samples.check_folder(folder)
    shutil.copy(folder / "0000.png", folder / "more.png")
    assert len(samples.from_folder(folder, INFO).calibration) == 128


@pytest.mark.parametrize("task", ["inversion", "sketch", "segmentation", "super_resolution", "inpainting"])
def test_drawn_inputs_of_every_task(task, monkeypatch):
    monkeypatch.setattr(samples, "LEAST", 4)
    monkeypatch.setattr(samples, "HELD_OUT", 2)
    info = replace(INFO, task=task, input=get_task(task).input)
    chosen = samples.drawn(info)
    for part, count in ((chosen.calibration, 4), (chosen.held_out, 2)):
        zeros = contract.image(info).zeros(count)
        assert (part.shape, part.dtype) == (zeros.shape, zeros.dtype)
    assert len({picture.tobytes() for picture in (*chosen.calibration, *chosen.held_out)}) == 6


def test_onnx_runtime_computes_8_bits_as_they_are_written(tmp_path):
    """Its own kernels would saturate on a CPU without VNNI: two products of 255 and 127 do not fit into 16 bits."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], "layer")
    x, weight = np.full((1, 8, 4, 4), 255, np.float32), np.full((8, 8, 1, 1), 127, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["x"]), node],
        "saturating",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    quantise(model, {"layer": "u8"}, {("x", "u8"): Scale(np.float32(1), np.uint8(0))})
    onnx.save(model, tmp_path / "psp.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "psp.onnx"), _options(onnxruntime))
    assert (session.run(None, {"image": x})[0] == 8 * 255 * 127).all()
