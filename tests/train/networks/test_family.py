"""e4e and ReStyle: the outputs of the published code on seeded weights, and which file is which."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from family import FILES, TYPES, golden, golden_model, image, whole_pixels
from models import relative_error, tiny_model

from psp_export.deploy import deploy
from psp_export.deploy.refinement import Feedback
from psp_train.checkpoints.family import ENCODER_TYPES
from psp_train.checkpoints.psp import load_checkpoint, load_encoder
from psp_train.checkpoints.state_files import WeightsError
from psp_train.networks import PSP, GeneratorConfig
from psp_train.networks.psp import fed_back

#: Of codes and pictures, over the largest value.
GATE = 5e-6
#: Goldens whose own rounding leaves little of the gate: the order of sums in oneDNN alone would take the rest of it, so
#: convolutions are products of matrices. docs/decisions/family.md has numbers.
BY_PRODUCTS = ("restyle_e4e_64", "restyle_psp_1024", "restyle_toonify_64")
#: Goldens of every step.
REFINED = ("restyle_psp", "restyle_e4e")


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def check_picture(picture, expected, step=None):
    """Compare a picture [B,3,H,W] with what a golden file has of it, after one step of several."""
    if "down" in expected:
        down = expected["down"][: len(picture)] if step is None else expected["down"][step]
        assert relative_error(F.avg_pool2d(picture, picture.shape[-1] // 64), down) < GATE
    for part, wanted in whole_pixels(picture, expected, step):
        assert relative_error(part, wanted) < GATE


def sums_of(name):
    """The order of sums, by oneDNN or by products of matrices, in FP32."""
    return torch.backends.mkldnn.flags(enabled=False) if name in BY_PRODUCTS else nullcontext()


def rarely(*names):
    return [pytest.param(name, marks=pytest.mark.goldens) for name in names]


@pytest.mark.parametrize("name", ["e4e_64", *rarely("e4e_single", "e4e_cars", "e4e_1024")])
def test_e4e(name):
    model, expected = golden_model(name), golden(name)
    x = image(int(expected["seed"]), len(expected["codes"]), model.input_height)[:1]
    assert x.shape[2] == (192 if name == "e4e_cars" else 256)
    latents = torch.from_numpy(expected["latents"][:1])
    assert relative_error(model.encode(x), latents.numpy()) < GATE
    picture = model.synthesize(latents)
    size = model.decoder.config.size
    assert picture.shape[2:] == ((384, 512) if name == "e4e_cars" else (size, size))
    check_picture(picture, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [("restyle_psp_64", 2)]
    + [pytest.param(name, 5, marks=pytest.mark.goldens) for name in FILES if name.startswith(REFINED)],
)
def test_every_step_of_restyle(name, steps):
    model, expected = golden_model(name), golden(name)
    x = image(int(expected["seed"]), 1, model.input_height)
    with sums_of(name):
        average = fed_back(model.average(x).picture, x)[0]
        assert relative_error(F.avg_pool2d(average, 4), expected["avg_image"]) < GATE
        assert relative_error(average[:, :16, :16], expected["avg_image_crop"]) < GATE
        for number, step in enumerate(model.refine(x, steps)):
            assert relative_error(step.latents, expected["latents"][number]) < GATE
            check_picture(step.picture, expected, number)


@pytest.mark.parametrize("name", [pytest.param("restyle_fpn_64", marks=pytest.mark.goldens), "restyle_fpn_resnet_64"])
def test_restyle_over_a_pyramid(name):
    model, expected = golden_model(name), golden(name)
    x = image(int(expected["seed"]))
    average = fed_back(model.average(x).picture, x)
    assert relative_error(F.avg_pool2d(average[0], 4), expected["avg_image"]) < GATE
    both = torch.cat([x, average], dim=1)
    assert relative_error(deploy(model, "rgb").encoder.offsets(both), expected["codes"]) < GATE


@pytest.mark.goldens
def test_toonify_from_a_face():
    """Step 0 is that of a network of faces; two of another one go on from there (encoder_bootstrapping_inference)."""
    expected = golden("restyle_toonify_64")
    seed = int(expected["seed"])
    x, face, toon = image(seed), golden_model("restyle_psp_64", seed), golden_model("restyle_psp_64", seed + 1)
    with sums_of("restyle_toonify_64"):
        (begun,) = face.refine(x, 1)
        for number, step in enumerate([begun, *toon.refine(x, 2, begun)]):
            assert relative_error(step.picture, expected["image"][number]) < GATE


@pytest.mark.parametrize(("size", "height"), [(64, 256), (256, 256), (512, 256), (512, 192)])
def test_what_is_fed_back_is_that_of_torch(size, height):
    picture = torch.randn(2, 3, size * height // 256, size, generator=torch.Generator().manual_seed(size))
    wanted = F.adaptive_avg_pool2d(picture, (height, 256))
    assert relative_error(Feedback(size, height)(picture), wanted.numpy()) < 1e-6
    assert torch.equal(fed_back(picture, torch.zeros(1, 3, height, 256)), wanted)


# ---- Which file is which ---------------------------------------------------------------------------------------


def write(tmp_path, model, **opts):
    path = tmp_path / "file.pt"
    data = {"state_dict": model.state_dict(), "opts": {"dataset_type": "ffhq_encode", **opts}}
    data |= {"latent_avg": model.latent_avg, "global_step": 9, "optimizer": {"state": {}}}
    torch.save(data, path)
    return path


@pytest.mark.parametrize(("kind", "body"), TYPES)
def test_every_published_type_is_recognised(tmp_path, kind, body):
    model = tiny_model(kind, body=body)
    found = load_checkpoint(write(tmp_path, model, encoder_type=TYPES[kind, body], stylegan_size=1024))
    assert found.encoder == model.encoder.config and found.task.name == "inversion"
    assert found.generator.size == 64  # by the shapes: older files of e4e say something else
    assert TYPES[kind, body] in ENCODER_TYPES


@pytest.mark.parametrize(
    ("dataset", "task", "height"),
    [("cars_encode", "cars", 192), ("church_encode", "inversion", 256), ("afhq_wild_encode", "inversion", 256)]
    + [("toonify", "toonify", 256), ("horse_encode", "inversion", 256), ("cats_encode", "inversion", 256)],
)
def test_the_domains_of_the_family(tmp_path, dataset, task, height):
    path = write(tmp_path, tiny_model("e4e"), encoder_type="Encoder4Editing", dataset_type=dataset)
    found = load_checkpoint(path)
    assert (found.task.name, found.model.input_height) == (task, height)
    assert found.model.rows == ((8, 56) if task == "cars" else None)


@pytest.mark.parametrize(
    ("kinds", "wanted"), [(("psp", "e4e"), "e4e"), (("restyle_psp", "restyle_e4e"), "restyle_psp")]
)
def test_a_file_that_does_not_say_asks(tmp_path, kinds, wanted):
    path = write(tmp_path, tiny_model(wanted))
    expected = f"does not say whether its encoder is {' or '.join(kinds)}, .* give --encoder, one of {', '.join(kinds)}"
    with pytest.raises(WeightsError, match=expected):
        load_checkpoint(path)
    assert load_checkpoint(path, encoder=wanted).encoder.kind == wanted
    assert load_encoder(path, wanted).config.kind == wanted
    assert load_checkpoint(path, encoder=kinds[kinds[0] == wanted]).encoder.kind != wanted


def test_heads_beyond_the_generator_are_cut(tmp_path):
    """e4e's older code built 18 heads whatever the generator, and cut the codes of cars to 16."""
    model = tiny_model("e4e")
    longer = PSP(model.encoder.config.__class__(**{**vars(model.encoder.config), "styles": 18}), GeneratorConfig(64))
    state = longer.encoder.state_dict()
    state.update(model.encoder.state_dict())
    whole = {f"encoder.{key}": value for key, value in state.items()}
    whole |= {f"decoder.{key}": value for key, value in model.decoder.state_dict().items()}
    average = torch.cat([model.latent_avg, torch.ones(8, 32)])
    opts = {"encoder_type": "Encoder4Editing", "dataset_type": "cars_encode"}
    torch.save({"state_dict": whole, "opts": opts, "latent_avg": average}, tmp_path / "cars.pt")
    found = load_checkpoint(tmp_path / "cars.pt").model
    x = torch.randn(1, 3, 192, 256, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.encode(x), model.encode(x))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("e4e", {"encoder_type": "BackboneEncoder"}, "weights are those of a 'psp' or 'e4e' encoder"),
        ("restyle_psp", {"encoder_type": "ResNetBackboneEncoder"}, "those of a 'restyle_psp' or 'restyle_e4e' encoder"),
        ("restyle_psp", {"encoder_type": "Encoder4Editing"}, "those of a 'restyle_psp' or 'restyle_e4e' encoder"),
        ("e4e", {"average": None, "start_from_latent_avg": True}, "is a checkpoint of e4e without latent_avg"),
        ("restyle_e4e", {"average": None}, "is a checkpoint of ReStyle without latent_avg"),
        ("psp", {"channels": 4}, "takes 4 input channels, as SAM's does .* a psp encoder of task inversion takes 3"),
        ("w", {"channels": 6}, "takes 6 input channels, as ReStyle's does .* a w encoder of task inversion takes 3"),
        ("restyle_psp", {"channels": 0}, "takes 3 input channels, but a restyle_psp encoder of task inversion takes 6"),
        ("psp", {"key": "hypernet.x"}, "is a HyperStyle checkpoint .hypernet.*.: it predicts other generator weights"),
        (
            "psp",
            {"key": "pretrained_encoder.x"},
            "is a SAM checkpoint .pretrained_encoder.*.: it adds the codes of two",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, kind, changes, words):
    changes = dict(changes)
    average, channels, key = changes.pop("average", 0), changes.pop("channels", 3), changes.pop("key", None)
    names = {one: name for (one, body), name in TYPES.items() if body == "irse"}
    names["w"] = "BackboneEncoderUsingLastLayerIntoW"
    path = write(tmp_path, tiny_model(kind, channels), **{"encoder_type": names[kind], **changes})
    data = torch.load(path)
    if average is None:
        del data["latent_avg"]
    if key:
        data["state_dict"][key] = torch.zeros(1)
    torch.save(data, path)
    with pytest.raises(WeightsError, match=words) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_asking_for_another_encoder_than_the_file_names(tmp_path):
    path = write(tmp_path, tiny_model("e4e"), encoder_type="Encoder4Editing")
    with pytest.raises(WeightsError, match=f"--encoder psp contradicts {path}, whose encoder is e4e"):
        load_checkpoint(path, encoder="psp")


def test_restyle_taken_for_psp(tmp_path):
    path = write(tmp_path, tiny_model("restyle_fpn"), encoder_type="GradualStyleEncoder")
    with pytest.raises(WeightsError, match="takes 6 input channels, as ReStyle's does .* a psp encoder"):
        load_checkpoint(path, encoder="psp")


def test_six_classes_are_no_restyle(tmp_path):
    model = tiny_model("psp", 6)
    path = write(tmp_path, model, encoder_type="GradualStyleEncoder", dataset_type="celebs_seg_to_face", label_nc=6)
    assert load_checkpoint(path).encoder.kind == "psp"
