"""Engines of ReStyle and of cars: exported, verified in every step, run as users do, built as plans."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import tiny_checkpoint
from PIL import Image

from psp_export.export import Exporter, Options, export
from psp_export.int8 import samples
from psp_export.plans.build import RTX, build_plan, choose_flavour
from psp_export.verify.cases import pictures, reference_cases
from psp_export.verify.parity import ParityError, compare, psnr, whole
from psp_runtime import load, read_info
from psp_runtime.engines.session import OnnxSession
from psp_runtime.run.info import describe
from psp_train.checkpoints.psp import DEMO_LICENSE
from psp_train.networks.psp import to_input, to_picture


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Path:
    """A ReStyle engine of cars in half precision, with its parts."""
    folder = tmp_path_factory.mktemp("steps")
    checkpoint = tiny_checkpoint("cars", "restyle_e4e", "resnet34")
    export(checkpoint, Options(folder / "cars", "fp16", "onnx", max_batch=2, parts=True))
    return folder / "cars.onnx"


def test_the_contract_of_a_step(steps):
    model = onnx.load(steps)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in model.graph.input}
    assert shapes == {
        "image": [192, 256, 3], "style": [10, 32], "alpha": [10],
        "previous": [3, 192, 256], "codes": [10, 32], "start": [1],
    }  # fmt: skip
    assert [v.name for v in model.graph.output] == ["output", "latents", "picture"]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Shape", "If", "Loop", "BatchNormalization", "Resize", "ConstantOfShape", "Expand"}
    info = read_info(steps)
    assert (info.part, info.iterations, info.rows, info.input_shape, info.output_shape) == (
        "step", 5, (8, 56), (192, 256), (48, 64),
    )  # fmt: skip
    assert info.parity["psnr"] >= 50 and info.parity["headroom"] >= 8
    assert read_info(steps.with_name("cars.generator.onnx")).parity["psnr"] >= 50
    text = describe(steps, info)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "restyle_e4e" in lines["encoder"] and "5" in lines["iterations"] and "rows 8-55 of 64" in lines["crop"]


def test_every_step_as_torch_makes_it(steps):
    model = tiny_checkpoint("cars", "restyle_e4e", "resnet34").model
    images = pictures("rgb", 0, 2, 3, 192)
    x = to_input(torch.from_numpy(images), "rgb", 3)
    with load(steps) as pipeline:
        done = pipeline.refine(images)
        decoded = pipeline.decode(done.latents[:, -1])  # by the generator alone
    for number, step in enumerate(model.refine(x)):
        difference = done.output[:, number].astype(int) - to_picture(step.picture).numpy()
        assert psnr(difference) > 50
    assert np.abs(decoded.astype(int) - done.output[:, -1]).max() <= 1


def test_steps_in_int8(tmp_path, monkeypatch):
    """Calibrated on every step, and every step is compared; each goes on from what the INT8 engine gave."""
    monkeypatch.setattr(samples, "LEAST", 3)
    monkeypatch.setattr(samples, "HELD_OUT", 1)
    checkpoint = replace(tiny_checkpoint("cars", "restyle_e4e", "resnet34"), license=DEMO_LICENSE)
    full, _ = export(checkpoint, Options(tmp_path / "cars", "int8", "onnx", max_batch=2))
    info = read_info(full.path)
    assert (info.part, info.precision, info.calibration["pictures"]) == ("step", "int8", 3)
    images = pictures("rgb", 0, 1, 3, 192)
    with load(full.path) as pipeline:
        assert pipeline.precision == "int8"
        done = pipeline.refine(images)
    steps = checkpoint.model.refine(to_input(torch.from_numpy(images), "rgb", 3))
    found = [psnr(done.output[:, n].astype(int) - to_picture(step.picture).numpy()) for n, step in enumerate(steps)]
    assert len(found) == 5 and min(found) > 35


def test_a_photo_of_a_car(steps, tmp_path, psp_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(photo).save("car.png")
    code, out, err = psp_run("car.png", "--engine", steps, "--iterations", 2, "--grid", "steps.png", "--out", ".")
    assert (code, err) == (0, "") and "one after each of 2 steps" in out
    assert Image.open("car_out_1.png").size == (64, 48)
    assert Image.open("steps.png").size == (3 * 68 + 4, 48 + 8)


def test_an_engine_that_goes_wrong_in_a_later_step_is_caught(steps):
    """The last picture may hide it, and the first step cannot show it."""
    checkpoint = tiny_checkpoint("cars", "restyle_e4e", "resnet34")
    info = read_info(steps)
    cases = reference_cases(checkpoint.model, info)
    session = OnnxSession(steps, "cpu")
    compare(whole(session), info, cases)
    run = session.run

    def clipped(inputs):
        """Feeds back what is clipped, as the saved picture is."""
        return run(inputs | {"previous": np.clip(inputs["previous"], -0.2, 0.2)})

    session.run = clipped
    with pytest.raises(ParityError):
        compare(whole(session), info, cases)


@pytest.mark.skipif(choose_flavour() != RTX, reason="needs TensorRT-RTX")
@pytest.mark.parametrize(("kind", "body"), [("e4e", "irse"), ("restyle_psp", "irse")])
def test_plans_of_the_family(tmp_path, kind, body):
    checkpoint = tiny_checkpoint("inversion", kind, body)
    options = Options(tmp_path / "psp", "fp16", "onnx", verify=False)
    (engine, _) = Exporter(checkpoint, options, tmp_path / "psp", lambda *words: None).write_onnx()
    build_plan(engine.path, tmp_path / "psp.trt", RTX)
    info = read_info(tmp_path / "psp.trt")
    assert (info.backend, info.part) == (RTX, "step" if kind != "e4e" else "full")
