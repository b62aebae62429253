"""`psp-export --int8`: both processors' files, what they say, what a gate that fails leaves, mistakes in one line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import tiny_checkpoint
from PIL import Image

from psp_export import cli
from psp_export.export import Exporter, Options, deployable, export
from psp_export.graphs.inspect import stored_precision
from psp_export.int8 import layouts, samples
from psp_export.plans import build
from psp_export.plans.build import RTX, BuildError, choose_flavour
from psp_export.triton import write_repository
from psp_export.verify import parity
from psp_export.verify.parity import ParityError
from psp_runtime import console, load
from psp_runtime.engines.info import read_info
from psp_runtime.engines.openvino.session import OpenVINOSession
from psp_runtime.engines.session import OnnxSession
from psp_runtime.errors import PspError
from psp_train.checkpoints.psp import DEMO_LICENSE

NEEDS_RTX = pytest.mark.skipif(choose_flavour() != RTX, reason="needs TensorRT-RTX")


#: Instructions that add products of 8 bits in 32, by the flags of /proc/cpuinfo.
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
CALIBRATED, JUDGES = 8, 2


@pytest.fixture(scope="module", autouse=True)
def few_pictures():
    """What 128 do is measured by benchmarks/fidelity.py; here the way is tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "LEAST", CALIBRATED)
        patch.setattr(samples, "HELD_OUT", JUDGES)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of noise that is smooth, so that layers see all sorts of values."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    for index in range(CALIBRATED + JUDGES):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, photos):
    """The tiny model calibrated once for all: FP32 files of the whole and its parts, ranges, held-out cases; stages."""
    stem, told = tmp_path_factory.mktemp("calibrated") / "psp", []
    options = Options(stem, "int8", "onnx", parts=True, calibrate=photos)
    exporter = Exporter(tiny_checkpoint(), options, stem, lambda *words: told.append(words))
    return exporter._calibrated(deployable(exporter.model, exporter.info)), told


@pytest.fixture
def calibrated_before(calibrated, monkeypatch):
    """Exports find the tiny model calibrated."""
    use(calibrated, monkeypatch)


def use(calibrated, patch):
    def found(exporter, module):
        exporter.cases = list(calibrated[0].cases)
        return replace(calibrated[0], say=exporter.say)

    patch.setattr(Exporter, "_calibrated", found)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, photos, calibrated):
    """The tiny model in INT8 with its parts: the files, and the stages that were told."""
    told = list(calibrated[1])
    options = Options(tmp_path_factory.mktemp("int8") / "psp", "int8", "onnx", parts=True, calibrate=photos)
    with pytest.MonkeyPatch.context() as patch:
        use(calibrated, patch)
        return export(tiny_checkpoint(), options, lambda *words: told.append(words)), told


def test_files_say_what_they_are(exported):
    files, told = exported
    assert [file.part for file in files] == ["full", "mapping", "encoder", "generator"]
    assert sorted(path.name for path in files[0].path.parent.iterdir()) == sorted(file.path.name for file in files)
    for file in files[:1] + files[2:]:
        info = read_info(file.path)
        assert (info.precision, info.processor, stored_precision(file.path)) == ("int8", "cpu", "int8")
        assert info.calibration["pictures"] == CALIBRATED and info.parity["mean"] >= 40 and info.parity["psnr"] >= 35
        onnx.checker.check_model(str(file.path), full_check=True)
    assert read_info(files[1].path).precision == "fp32" and read_info(files[1].path).calibration is None
    assert ("calibrating on 8 pictures", "8 of 8 pictures") in told
    assert "int8, mse scales" in cli.table(files)


def test_every_runtime_gives_the_same_picture(exported):
    """On noise, OpenVINO saturates where the CPU has no VNNI, and is right to a few levels where it has."""
    path, info = exported[0][0].path, read_info(exported[0][0].path)
    rng = np.random.default_rng(4)
    inputs = {
        "image": rng.integers(0, 256, (2, 256, 256, 3), np.uint8),
        "style": rng.normal(size=(2, info.styles, info.style_dim)).astype(np.float32),
        "alpha": np.zeros((2, info.styles), np.float32),
    }
    expected = OnnxSession(path, "cpu").run(inputs)
    session = OpenVINOSession(path)
    found = session.run(inputs)
    session.close()
    least, most = (40, 0.1) if VNNI & set(Path("/proc/cpuinfo").read_text().split()) else (25, 0.5)
    assert parity.psnr(found["output"].astype(int) - expected["output"]) > least
    assert np.abs(found["latents"] - expected["latents"]).max() < most * np.abs(expected["latents"]).max()


@pytest.mark.filterwarnings("ignore:psp.onnx. INT8 is slower:UserWarning")
@pytest.mark.filterwarnings("ignore:psp.generator.onnx. INT8 is slower:UserWarning")
def test_parts_compute_in_8_bits_too(exported):
    """Codes are decoded by the generator alone, and what it gives is the picture of the whole."""
    images = np.random.default_rng(5).integers(0, 256, (2, 256, 256, 3), np.uint8)
    with load(exported[0][0].path, "cpu") as pipeline:
        done = pipeline.translate(images)
        decoded = pipeline.decode(done.latents)
        assert pipeline.precision == pipeline.parts.generator.precision == "int8"
    assert parity.psnr(decoded.astype(int) - done.output) > 50


def test_a_triton_repository_of_int8(exported, tmp_path):
    choice = write_repository(tmp_path / "models", exported[0], "psp")
    assert choice.file == exported[0][0].path and read_info(tmp_path / "models/psp/1/model.onnx").precision == "int8"


def test_a_gate_that_fails_leaves_nothing(tmp_path, photos, calibrated_before, monkeypatch):
    """Down the whole ladder, then one line; what was there before stays."""
    (tmp_path / "psp.onnx").write_bytes(b"earlier")
    monkeypatch.setitem(parity.MEAN_GATES, "int8", 90.0)
    told = []
    options = Options(tmp_path / "psp", "int8", "onnx", calibrate=photos)
    with pytest.raises(ParityError, match=r"dB in the mean, expected at least 90 dB for int8; .*export with --fp16$"):
        export(tiny_checkpoint(), options, lambda *words: told.append(words[0]))
    rungs = list(dict.fromkeys(words.partition(", ")[2] for words in told if words.startswith("quantising")))
    assert len(rungs) == 6 and rungs[0] == "mse scales" and rungs[-1] == "max scales, heads float"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["psp.onnx"]
    assert (tmp_path / "psp.onnx").read_bytes() == b"earlier"


def test_custom_operations_stay_as_they_are(tmp_path, photos, monkeypatch):
    """The FIR is theirs then, and not one of the layers in 8 bits."""
    monkeypatch.setattr(samples, "MOST", 1)
    options = Options(tmp_path / "psp", "int8", "onnx", calibrate=photos, custom_ops=True, verify=False)
    full, _ = export(tiny_checkpoint(), options)
    info, graph = read_info(full.path), onnx.load(full.path).graph
    assert info.custom_ops and info.precision == "int8" and full.parity == "not verified"
    custom = [node for node in graph.node if node.op_type == "PspUpFirDn2d"]
    assert custom and not any(name.endswith(".dq") for node in custom for name in node.input)
    zeros = {"image": np.zeros((1, 256, 256, 3), np.uint8)}
    zeros |= {"style": np.zeros((1, info.styles, info.style_dim), np.float32)}
    zeros |= {"alpha": np.zeros((1, info.styles), np.float32)}
    assert OnnxSession(full.path, "cpu").run(zeros)["output"].shape == (1, 64, 64, 3)


@NEEDS_RTX
def test_a_plan_of_the_symmetric_form(tmp_path, calibrated):
    """Built without a GPU: its metadata, its size, and the types of the layers TensorRT was given."""
    import tensorrt_rtx as trt

    quantiser = replace(calibrated[0], sources=calibrated[0].sources[:1], cases=[])
    (gpu,) = quantiser.write(layouts.GPU, tmp_path / "psp")
    info = build.build_plan(gpu.path, tmp_path / "psp.trt", RTX)
    assert (info.precision, info.processor, info.backend) == ("int8", "gpu", RTX)
    assert read_info(tmp_path / "psp.trt") == info and info.calibration["pictures"] == CALIBRATED
    assert stored_precision(tmp_path / "psp.trt", gpu.path) == "int8"
    network, parser = build._parsed(trt, trt.Builder(build.the_logger(trt)), build.the_logger(trt), gpu.path)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    quantised = [one for one in layers if one.type == trt.LayerType.QUANTIZE]
    convolutions = [one for one in layers if one.type in (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION)]
    assert {one.get_output(0).dtype for one in quantised} == {trt.int8}
    dequantised = {one.get_output(0).name for one in layers if one.type == trt.LayerType.DEQUANTIZE}
    fed = [one for one in convolutions if one.get_input(0).name in dequantised]
    kinds = layouts.kinds(onnx.load(quantiser.sources[0].path).graph, layouts.GPU, "all")
    assert len(fed) == sum("Conv" in name for name in kinds) > 20
    del parser


@NEEDS_RTX
def test_a_tensorrt_without_strong_types_builds_no_int8(tmp_path, exported, monkeypatch):
    monkeypatch.setattr(build, "_strongly_typed", lambda trt: False)
    with pytest.raises(BuildError, match=r"builds no INT8 plan: .* needs TensorRT 10 or newer, or TensorRT-RTX"):
        build.build_plan(exported[0][0].path, tmp_path / "psp.trt", RTX)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            dict(precision="int8"),
            r"--int8 needs pictures to calibrate tiny on: give --calibrate FOLDER with at least 10 inputs",
        ),
        (dict(precision="fp16", calibrate=Path("photos")), r"--calibrate photos is for --int8, which is not given"),
        (dict(precision="int8", calibrate=Path("nowhere")), r"no folder nowhere"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, changes, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PspError, match=expected) as caught:
        export(tiny_checkpoint(), replace(Options(backend="onnx"), **changes))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_bundled_weights_need_no_folder(tmp_path, monkeypatch):
    """Drawn faces take its place."""
    monkeypatch.setattr(samples, "LEAST", 1)
    monkeypatch.setattr(samples, "HELD_OUT", 1)
    bundled = replace(tiny_checkpoint(), license=DEMO_LICENSE)
    full, _ = export(bundled, Options(tmp_path / "psp", "int8", "onnx", verify=False))
    assert read_info(full.path).calibration["pictures"] == 1


def test_the_command_says_what_does_not_go_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["psp-export", "--int8", "--fp16"])
    with pytest.raises(SystemExit) as left:
        console.run(cli.app)
    assert left.value.code == 2
    assert "--int8 and --fp16 are two precisions: give one of them" in capsys.readouterr().err
