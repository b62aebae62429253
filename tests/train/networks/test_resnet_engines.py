"""The encoders over ResNet-50 as engines, in FP32 and FP16, on weights that overflow a plain half."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hardened import harden_generator, psnr, scale_norm, spread
from models import (
    WideConvolutions,
    inputs,
    relative_error,
    tiny_checkpoint,
    tiny_model,
)

from psp_export import export
from psp_export.deploy import DeployedEncoder, DeployedPSP
from psp_export.deploy.precision import balance_encoder, to_half
from psp_export.export import Options
from psp_export.graphs.trace import save, to_onnx
from psp_export.verify import cases, headroom, parity
from psp_runtime import load, read_info
from psp_train.networks import build_encoder
from psp_train.networks.psp import to_input, to_picture

KINDS = {"resnet_w": "global", "resnet_wplus": "local"}


def seen(model, task="rgb", channels=3, count=3, seed=0):
    """Pictures as an engine takes them, and what the trained model makes of them: picture and latents."""
    images = torch.from_numpy(cases.pictures(task, channels, count, seed))
    output, latents = model(to_input(images, task, channels))
    return images, to_picture(output), latents


@pytest.mark.parametrize("kind", KINDS)
def test_deployed_latents_are_the_trained_ones(kind):
    model = tiny_model(kind)
    images, _, latents = seen(model)
    deployed = DeployedEncoder(model.encoder, model.latent_avg, "rgb")
    assert relative_error(deployed(images), latents.numpy()) < 1e-5
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in deployed.modules())


def harden_encoder(model) -> None:
    """Scale every channel by 100 to 10,000 where the next convolution takes it back, and whole convolutions by as much
    in front of a normalisation that takes it back."""
    network = model.encoder.backbone
    before = spread("stem", (network.conv1.out_channels,)) ** 2
    scale_norm(network.bn1, 1, before)
    for stage, layer in enumerate((network.layer1, network.layer2, network.layer3, network.layer4)):
        after = spread(f"stream{stage}", (layer[0].conv3.out_channels,)) ** 2
        for number, unit in enumerate(layer):
            harden_bottleneck(unit, before if number == 0 else after, after, f"{stage}.{number}")
        before = after
    for head in model.encoder.heads:
        head.weight.data /= before


def harden_bottleneck(unit, before, after, name) -> None:
    inner1, inner2 = (spread(f"{name}.{i}", (unit.conv1.out_channels,)) ** 2 for i in (1, 2))
    harden_conv(unit.conv1, unit.bn1, before, inner1, f"{name}.conv1")
    harden_conv(unit.conv2, unit.bn2, inner1, inner2, f"{name}.conv2")
    harden_conv(unit.conv3, unit.bn3, inner2, after, f"{name}.conv3")
    if isinstance(unit.downsample, torch.nn.Sequential):
        harden_conv(*unit.downsample, before, after, f"{name}.downsample")


def harden_conv(conv, norm, before, after, name) -> None:
    """Inputs come scaled by `before`, outputs leave scaled by `after`; in between, the weights' own factor."""
    factor = spread(name, (1,)) ** 2
    conv.weight.data *= factor / before[:, None, None]
    scale_norm(norm, factor, after)


@pytest.fixture(scope="module", params=KINDS)
def hard_model(request):
    """The tiny model with gains that overflow a plain half-precision encoder."""
    tiny = tiny_model(request.param)
    harden_generator(tiny)
    harden_encoder(tiny)
    return tiny


def test_hardening_changes_nothing(hard_model):
    expected = tiny_model(hard_model.encoder.config.kind)
    x = inputs("x", (2, 3, 256, 256), scale=0.5)
    assert relative_error(hard_model.encoder(x), expected.encoder(x).numpy()) < 1e-3


def test_half_precision_holds_on_hard_weights(hard_model, tmp_path):
    images, expected, latents = seen(hard_model, seed=5)
    assert expected.float().std() > 20  # a picture, not a plain colour
    deployed = DeployedPSP(hard_model, "rgb").eval()
    balance_encoder(deployed.encoder, torch.from_numpy(cases.pictures("rgb", 0, 6, seed=6)))
    to_half(deployed)
    style, alpha = torch.zeros(3, 10, 32), torch.zeros(3, 10)
    output, found = deployed(images, style, alpha)
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert relative_error(found, latents.numpy()) < 0.01
    assert psnr(output, expected) >= 50

    kind = hard_model.encoder.config.kind
    info = export.engine_info(tiny_checkpoint(kind=kind), Options(precision="fp16"))
    save(to_onnx(deployed, info), tmp_path / "hard.onnx")
    feeds = {"image": images.numpy(), "style": style.numpy(), "alpha": alpha.numpy()}
    case = cases.Case(feeds, expected.numpy(), latents.numpy())
    assert headroom.check_headroom(tmp_path / "hard.onnx", [case]) >= headroom.HEADROOM


@pytest.mark.parametrize("form", ["plain", "deployed"])
def test_hard_weights_fail_in_half_precision_without_balancing(hard_model, form):
    images, _, latents = seen(hard_model, seed=5)
    if form == "deployed":  # batch normalisation folded, channels at the scale they were trained at
        found = to_half(DeployedEncoder(hard_model.encoder, hard_model.latent_avg, "rgb"))(images)
    else:
        plain = build_encoder(hard_model.encoder.config).eval().requires_grad_(False)
        plain.load_state_dict(hard_model.encoder.state_dict())
        with WideConvolutions():
            found = plain.half()(to_input(images, "rgb", 3).half()).float() + hard_model.latent_avg
    assert not found.isfinite().all() or relative_error(found, latents.numpy()) > 0.1


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory) -> tuple[str, Path]:
    """Kind, and a folder with its engines in both precisions, of one kind parts too: the export verifies each."""
    folder = tmp_path_factory.mktemp(request.param)
    for precision in ("fp32", "fp16"):
        options = Options(folder / precision, precision, "onnx", max_batch=4, parts=request.param == "resnet_wplus")
        export.export(tiny_checkpoint(kind=request.param), options)
    return request.param, folder


@pytest.mark.parametrize(("precision", "least"), [("fp32", 60), ("fp16", 50)])
@pytest.mark.parametrize("batch", [1, 3])
def test_engine_equals_torch_at_every_batch(exported, precision, least, batch):
    kind, folder = exported
    images, expected, latents = seen(tiny_model(kind), count=batch, seed=batch)
    with load(folder / f"{precision}.onnx") as pipeline:
        result = pipeline.translate(images.numpy())
    assert parity.psnr(result.output.astype(int) - expected.numpy()) > least
    assert relative_error(result.latents, latents.numpy()) < (1e-4 if precision == "fp32" else 0.01)


def test_engines_say_what_they_are_and_use_static_operations_of_opset_17(exported):
    kind, folder = exported
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert read_info(path).encoder == kind
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        operations = {node.op_type for node in model.graph.node}
        assert not operations & {"Shape", "If", "Loop", "BatchNormalization", "Resize", "ConstantOfShape", "Expand"}


def test_global_latents_are_one_vector(exported):
    kind, folder = exported
    images = cases.pictures("rgb", 0, 2, seed=3)
    with load(folder / "fp32.onnx") as pipeline:
        offsets = pipeline.translate(images).latents - tiny_model(kind).latent_avg.numpy()
    spread_over_layers = np.abs(offsets - offsets[:, :1]).max()
    assert spread_over_layers < 1e-5 if kind == "resnet_w" else spread_over_layers > 0.1
