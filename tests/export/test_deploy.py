"""The deployable form against the trained networks, and FP16 on weights that overflow a plain half-precision model."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hardened import harden_encoder, harden_generator, psnr
from models import WideConvolutions, golden_model, inputs, relative_error, tiny_checkpoint, tiny_model

from psp_export.deploy import DeployedEncoder, DeployedGenerator, DeployedMapping, DeployedPSP, deploy
from psp_export.deploy.precision import TARGET_PEAK, balance_encoder, channel_peaks, power_of_two, to_half
from psp_export.export import Options, engine_info
from psp_export.graphs.trace import save, to_onnx
from psp_export.verify.cases import Case, pictures
from psp_export.verify.headroom import HEADROOM, check_headroom, fp16_peaks
from psp_train.networks import EncoderConfig
from psp_train.networks.psp import Step, fed_back, mix, to_input, to_picture

KINDS = [("psp", "rgb", 3), ("psp", "sketch", 1), ("psp", "labels", 19), ("w", "rgb", 3), ("naive_wplus", "rgb", 3)]
KINDS += [("resnet_w", "rgb", 3), ("resnet_wplus", "rgb", 3), ("resnet_wplus", "labels", 19), ("e4e", "rgb", 3)]
#: Kind and body of ReStyle's encoders, and the task: cars are not square.
STEPS = [("restyle_psp", "irse", "inversion"), ("restyle_e4e", "resnet34", "cars"), ("restyle_fpn", "irse", "cars")]


@pytest.mark.parametrize(("encoder", "kind", "channels"), KINDS)
def test_deployed_equals_trained(encoder, kind, channels):
    model = tiny_model(encoder, channels)
    images = torch.from_numpy(pictures(kind, channels, 3, seed=0))
    style, alpha = inputs("style", (3, 10, 32)), inputs("alpha", (3, 10)).clamp(0, 1)
    expected, latents = model(to_input(images, kind, channels), style, alpha)
    output, deployed_latents = DeployedPSP(model, kind)(images, style, alpha)
    assert relative_error(deployed_latents, latents.numpy()) < 1e-5
    assert (output.int() - to_picture(expected).int()).abs().max() <= 1
    assert to_picture(expected).float().std() > 20  # the test would pass on black pictures otherwise


def state_of(model, count, started):
    """Where a step begins: the average, or a picture and latents of its own."""
    size = (count, 3, model.input_height, 256)
    return inputs("previous", size), inputs("codes", (count, 10, 32)), torch.full((count, 1), float(not started))


@pytest.mark.parametrize(("encoder", "body", "task"), STEPS)
@pytest.mark.parametrize("started", [False, True])
def test_a_deployed_step_equals_the_trained_one(encoder, body, task, started):
    model = tiny_model(encoder, body=body, task=task)
    images = torch.from_numpy(pictures("rgb", 0, 3, 0, model.input_height))
    style, alpha = inputs("style", (3, 10, 32)), inputs("alpha", (3, 10)).clamp(0, 1)
    state, x = state_of(model, 3, started), to_input(images, "rgb", 3)
    first = Step(state[1], state[0]) if started else None
    (step,) = model.refine(x, 1, first)
    wanted = model.synthesize(mix(step.latents, style, alpha))
    output, latents, fed = deploy(model, "rgb")(images, style, alpha, *state)
    assert relative_error(latents, step.latents.numpy()) < 1e-5
    assert relative_error(fed, fed_back(wanted, x).numpy()) < 1e-5
    assert (output.int() - to_picture(wanted).int()).abs().max() <= 1
    assert output.shape[1:] == ((48, 64, 3) if task == "cars" else (64, 64, 3))


@pytest.mark.parametrize(("encoder", "body", "task"), STEPS)
def test_a_step_in_half_precision(encoder, body, task):
    model = tiny_model(encoder, body=body, task=task)
    images = torch.from_numpy(pictures("rgb", 0, 2, 5, model.input_height))
    step = deploy(model, "rgb")
    given = step.encoder.calibration_inputs(images)
    before = step.encoder(*given)
    balance_encoder(step.encoder, *given)
    assert torch.equal(step.encoder(*given), before)  # powers of two
    plain = images, torch.zeros(2, 10, 32), torch.zeros(2, 10), *state_of(model, 2, False)
    wanted, latents, fed = step(*plain)
    output, half_latents, half_fed = to_half(step)(*plain)
    assert half_latents.dtype == half_fed.dtype == torch.float32
    assert relative_error(half_latents, latents.numpy()) < 0.01 and relative_error(half_fed, fed.numpy()) < 0.01
    assert psnr(output, wanted) > 50


def test_wide_pictures_through_every_head():
    """Cars are 192 high: heads and pyramid work on 12x16 features."""
    images = torch.from_numpy(pictures("rgb", 0, 2, 0, 192))
    for kind in ("e4e", "w", "naive_wplus"):
        model = tiny_model(kind, task="cars")
        latents = model.encode(to_input(images, "rgb", 3))
        style, alpha = torch.zeros(2, 10, 32), torch.zeros(2, 10)
        output, deployed = deploy(model, "rgb")(images, style, alpha)
        assert relative_error(deployed, latents.numpy()) < 1e-5 and output.shape == (2, 48, 64, 3)


def test_mapping():
    model = tiny_model()
    z = inputs("z", (5, 32))
    assert relative_error(DeployedMapping(model.decoder)(z), model.decoder.map(z).numpy()) < 1e-5


@pytest.mark.parametrize(("encoder", "kind", "channels"), KINDS)
def test_balancing_is_exact_and_reaches_its_target(encoder, kind, channels):
    model = tiny_model(encoder, channels)
    images = torch.from_numpy(pictures(kind, channels, 3, seed=0))
    deployed = DeployedEncoder(model.encoder, model.latent_avg, kind)
    before = deployed(images)
    balance_encoder(deployed, images)
    assert torch.equal(deployed(images), before)  # powers of two
    peaks = channel_peaks(deployed, images)
    for stage in range(4):
        stream = [peak for name, peak in peaks.items() if name.startswith(f"stages.{stage}.") and ".norm" not in name]
        assert max(float(peak.max()) for peak in stream) <= TARGET_PEAK


# ---- FP16 on hard weights ------------------------------------------------------------------------------------


#: A model of each width, and how many FP16 tensors its graph has at least. Of published ones, minutes on most CPUs.
WIDTHS = [(tiny_model, 150), pytest.param(partial(golden_model, "psp_64", 64), 300, marks=pytest.mark.long)]


@pytest.mark.parametrize(("make", "tensors"), WIDTHS, ids=["tiny", "published"])
def test_plain_half_fails_on_hard_weights_and_ours_holds(make, tensors, tmp_path):
    hard_model = make()
    harden_generator(hard_model)
    harden_encoder(hard_model)
    images = torch.from_numpy(pictures("rgb", 0, 2, seed=5))
    x = to_input(images, "rgb", 3)
    expected = to_picture(hard_model(x)[0])
    assert expected.float().std() > 20  # a picture, not a plain colour

    deployed = DeployedPSP(hard_model, "rgb").eval()
    balance_encoder(deployed.encoder, torch.from_numpy(pictures("rgb", 0, 4, seed=6)))
    to_half(deployed)
    style, alpha = torch.zeros(2, *hard_model.latent_avg.shape), torch.zeros(2, 10)
    output, latents = deployed(images, style, alpha)
    assert torch.isfinite(latents).all()
    assert psnr(output, expected) >= 50

    # On a GPU the graph really computes in FP16: every one of its tensors must stay far from overflow.
    info = engine_info(tiny_checkpoint(), Options(precision="fp16"))
    info = replace(info, output_size=64, styles=10, style_dim=style.shape[2])
    path = tmp_path / "hard.onnx"
    save(to_onnx(deployed, info), path)
    feeds = {"image": images.numpy(), "style": style.numpy(), "alpha": alpha.numpy()}
    assert check_headroom(path, [Case(feeds, expected.numpy(), latents.numpy())]) >= HEADROOM
    assert len(fp16_peaks(path, [feeds])) > tensors

    # The same weights in a plain .half(): the encoder loses the latents. The generator in its training form holds, as
    # it computes its scales from normalised styles too.
    plain = make()
    plain.load_state_dict(hard_model.state_dict())
    plain.half()
    latents = hard_model.encode(x)
    with WideConvolutions():
        plain_latents = plain.encoder(x.half())
        picture = plain.decoder(latents.half()).float()
    assert not torch.isfinite(plain_latents).all() or relative_error(plain_latents.float(), latents.numpy()) > 0.1
    assert psnr(to_picture(picture), expected) >= 50


@pytest.mark.parametrize("kind", ["psp", "w", "naive_wplus", "resnet_w", "resnet_wplus"])
def test_half_precision_of_every_encoder(kind):
    model = tiny_model(kind)
    images = torch.from_numpy(pictures("rgb", 0, 3, seed=5))
    expected, latents = model(to_input(images, "rgb", 3))
    deployed = DeployedPSP(model, "rgb")
    balance_encoder(deployed.encoder, images)
    to_half(deployed)
    output, half_latents = deployed(images, torch.zeros(3, 10, 32), torch.zeros(3, 10))
    assert half_latents.dtype == torch.float32
    assert relative_error(half_latents, latents.numpy()) < 0.01
    assert psnr(output, to_picture(expected)) > 40


def test_stages_of_equal_width_are_refused():
    """Their first unit would have no projection, and the stages could not be told apart."""
    with pytest.raises(ValueError, match="each stage must differ"):
        EncoderConfig(widths=(8, 8, 16, 20))


def test_a_channel_asleep_during_calibration_is_not_blown_up():
    assert power_of_two(torch.tensor([1e-9, 1.0, 64.0, 1e6])).tolist() == [2**-10, 2**-6, 1, 2**14]


def test_generator_without_noise_drops_it():
    model = tiny_model()
    for layer in [model.decoder.conv1, *model.decoder.convs]:
        layer.noise.weight.zero_()
    deployed = DeployedGenerator(model.decoder)
    assert all(layer.noise is None for layer in deployed.convs)
    w = inputs("w", (1, 10, 32))
    assert (deployed(w).int() - to_picture(model.decoder(w)).int()).abs().max() <= 1
