"""Checkpoints and pickles of the family, from file to exported engine, against the goldens of the published code.

The goldens' inputs are floats, which no uint8 picture holds, so two things are compared. The engine as it was exported,
with the networks in PyTorch FP32 on uint8 pictures: that is the exporter's own verification, whose result the engine
carries. And the same graph without its input layer, with the golden on the golden's own input: latents, and pictures in
levels of uint8. Of generators latents go in, which the engine takes as they are.
The networks are compared with the goldens in tests/train/networks/test_family.py and test_nvidia.py.
"""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from family import FILES, golden, image, whole_pixels, write_checkpoint
from models import inputs, relative_error
from pickled.nvidia import family_golden, seeded_tensors, write_tensorflow, write_torch
from typer.testing import CliRunner

from psp_export.cli import app
from psp_export.verify.parity import psnr
from psp_runtime import read_info
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.refinement import first_state, next_state, refine
from psp_runtime.engines.session import OnnxSession
from psp_train.networks import PSP, EncoderConfig, GeneratorConfig
from psp_train.networks.psp import to_picture
from psp_train.seeded import seeded_state_dict

#: Of engines to PyTorch and to goldens: dB at least and levels at most of pictures; floats, over the largest of them.
LEAST, LEVELS = {"fp32": 60, "fp16": 50}, {"fp32": 1, "fp16": 8}
FLOATS = {"fp32": 5e-6, "fp16": 2e-2}

Arrays = Mapping[str, np.ndarray]


def exported(checkpoint: Path, precision: str, *options: object) -> Path:
    """Export a file as a user does; the engine."""
    stem = checkpoint.with_name(f"{checkpoint.stem}-{precision}")
    words = ["--checkpoint", checkpoint, "--output", stem, f"--{precision}", "--backend", "onnx", "--max-batch", 1]
    done = CliRunner().invoke(app, [str(word) for word in (*words, *options)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return stem.with_name(f"{stem.name}.onnx")


def check_parity(engine: Path) -> None:
    """An engine is near enough to PyTorch on the uint8 pictures of its verification."""
    info = read_info(engine)
    parity = info.parity
    assert parity["psnr"] >= LEAST[info.precision] and parity["max"] <= LEVELS[info.precision], parity


def floats_to(engine: Path) -> Callable[[Arrays], Arrays]:
    """Run an engine without its input layer: its `image` is what that makes of a picture, FP32 [B,3,H,256]."""
    model = onnx.load(engine)
    layer = [
        node
        for node in model.graph.node
        if node.name.startswith("/encoder/prepare/") and node.op_type != "Constant"  # which others may share
    ]
    for node in layer:
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = ["image" if name == layer[-1].output[0] else name for name in node.input]
    shape = ["batch", 3, read_info(engine).input_shape[0], 256]
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, dict(given))))


def feeds(info: EngineInfo, x: torch.Tensor) -> Arrays:
    """An input with nothing mixed into it."""
    style = np.zeros((1, info.styles, info.style_dim), np.float32)
    return {"image": x.numpy(), "style": style, "alpha": np.zeros((1, info.styles), np.float32)}


def check_picture(output: np.ndarray, expected: Arrays, precision: str, step: int | None = None) -> None:
    """Compare a picture uint8 [1,H,W,3] with a golden's: all of it, or its three crops."""
    parts = whole_pixels(torch.from_numpy(output).permute(0, 3, 1, 2), expected, step)
    differences = [
        part.permute(0, 2, 3, 1).int() - to_picture(torch.from_numpy(wanted)).int() for part, wanted in parts
    ]
    found = torch.cat([one.flatten() for one in differences]).numpy()
    assert np.abs(found).max() <= LEVELS[precision] and psnr(found) >= LEAST[precision]


def check_engine(engine: Path, name: str) -> None:
    """Compare an engine with a golden: of ReStyle after every step; over a pyramid there are the first codes alone."""
    info, run, expected = read_info(engine), floats_to(engine), golden(name)
    seed, precision = int(expected["seed"]), info.precision
    given = feeds(info, image(seed, 1, info.input_shape[0]))
    if not info.iterations:
        done = run(given)
        assert relative_error(done["latents"], expected["latents"][:1]) < FLOATS[precision]
        check_picture(done["output"], expected, precision)
    elif "codes" in expected:
        (done,) = refine(run, info, given, 1)
        average = inputs("latent_avg", done["latents"].shape[1:], seed, 0.5).numpy()
        assert relative_error(done["latents"], average + expected["codes"]) < FLOATS[precision]
    else:
        assert info.iterations == len(expected["latents"]) == 5
        for step, done in enumerate(refine(run, info, given, 5)):
            assert relative_error(done["latents"], expected["latents"][step]) < FLOATS[precision]
            if "image" in expected:  # of 64 pixels, each of which is fed back four times
                assert relative_error(done["picture"][..., ::4, ::4], expected["image"][step]) < FLOATS[precision]
            check_picture(done["output"], expected, precision, step)


@pytest.mark.goldens
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", FILES)
def test_from_checkpoint_to_engine(tmp_path: Path, name: str, precision: str) -> None:
    """The exporter's own verification takes most of the time, and is of the engine that is harder to make."""
    verify = "--no-verify" if precision == "fp32" else "--verify"
    engine = exported(write_checkpoint(tmp_path / "file.pt", name), precision, verify)
    if precision == "fp16":
        check_parity(engine)
    check_engine(engine, name)


@pytest.mark.goldens
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_from_two_checkpoints_to_toonify(tmp_path: Path, precision: str) -> None:
    """Its first step is that of faces (`--first`); two of the other engine go on from there."""
    expected = golden("restyle_toonify_64")
    seed = int(expected["seed"])
    face, toon = (
        exported(write_checkpoint(tmp_path / f"{name}.pt", "restyle_psp_64", seed + number), precision, "--no-verify")
        for number, name in enumerate(("face", "toon"))
    )
    info = read_info(toon)
    given = feeds(info, image(seed))
    (begun,) = refine(floats_to(face), info, given, 1, first_state(info, 1))
    for step, done in enumerate([begun, *refine(floats_to(toon), info, given, 2, next_state(begun))]):
        check_picture(done["output"], expected, precision, step)


# ---- Generators of NVIDIA's pickles, under a small encoder ------------------------------------------------------

NVIDIA = ("nv_64", "nv_256", "nv_cond_64", "nv_clamp_64", "nv_tf_64")


def small_checkpoint(path: Path, size: int) -> Path:
    """A file of pSp whose generator, small as its encoder, is to be replaced; its latents are [L,512]."""
    generator = GeneratorConfig(size, 512, 2, (8,) * (int(np.log2(size)) - 1))
    model = PSP(EncoderConfig("w", 3, generator.styles, 512, (2, 1, 2, 1), (8, 12, 16, 24)), generator)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in seeded_state_dict(shapes, 1).items()}
    opts = {"dataset_type": "ffhq_encode", "encoder_type": "BackboneEncoderUsingLastLayerIntoW"}
    torch.save({"state_dict": state, "opts": opts, "latent_avg": torch.zeros(generator.styles, 512)}, path)
    return path


@pytest.mark.parametrize(
    ("name", "precision"),
    [("nv_clamp_64", "fp16"), ("nv_tf_64", "fp32")]
    + [pytest.param(*one, marks=pytest.mark.goldens) for one in product(NVIDIA, ("fp32", "fp16"))],
)
def test_from_pickle_to_engine(tmp_path: Path, name: str, precision: str) -> None:
    expected = family_golden(name)
    seed, clamp = int(expected["seed"]), {"nv_clamp_64": 2.0, "nv_256": None}.get(name, 256)
    pickle, tensors = tmp_path / "g.pkl", seeded_tensors(name, seed)
    if name == "nv_tf_64":
        write_tensorflow(pickle, tensors)
    else:
        write_torch(pickle, tensors, conv_clamp=clamp)
    chosen = ["--class", expected["classes"][0]] if "classes" in expected else []
    checkpoint = small_checkpoint(tmp_path / "psp.pt", 256 if name == "nv_256" else 64)
    engine = exported(checkpoint, precision, "--generator", pickle, "--parts", *chosen)
    check_parity(engine)
    generator, mapping = (OnnxSession(engine.with_suffix(f".{part}.onnx"), "cpu") for part in ("generator", "mapping"))
    w = inputs("w", (2, generator.info.styles, 512), seed, 0.7).numpy()
    for row in range(2):
        one = {
            key: value[row : row + 1] for key, value in expected.items() if key in ("image", "crop0", "crop1", "crop2")
        }
        check_picture(generator.run({"latents": w[row : row + 1]})["output"], one, precision)
    z = inputs("z", (2, 512), seed).numpy()
    assert relative_error(mapping.run({"z": z})["w"][0], expected["w"][0]) < FLOATS["fp32"]
