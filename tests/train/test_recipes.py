"""Recipes: the paper's table value by value, overrides from the command line, and back from JSON."""

import dataclasses
import json

import pytest
from training import message

from psp_runtime.errors import PspError
from psp_runtime.tasks import TASKS
from psp_train import recipes
from psp_train.recipes import RECIPES, VARIANTS, Recipe, make_recipe, parse_overrides
from psp_train.training import objective

#: "Encoding in Style", section 3.2 and appendix A, and the released options: L2, LPIPS, identity, w-norm.
TABLE = {
    "inversion": (1, 0.8, 0.1, 0),
    "frontalization": (0.001, 0.08, 1, 0.005),
    "sketch": (1, 0.8, 0, 0.005),
    "segmentation": (1, 0.8, 0, 0.005),
    "super_resolution": (1, 0.8, 0.1, 0.005),
    "inpainting": (1, 0.8, 0.1, 0.005),
    "toonify": (1, 0.8, 1, 0.025),
    "cars": (1, 0.8, 0, 0),  # of e4e and ReStyle, whose released options have MoCo for what is no face
}


def test_one_recipe_for_each_task():
    assert set(RECIPES) == set(TABLE) == set(TASKS)
    assert all(recipe.task == TASKS[name] for name, recipe in RECIPES.items())


@pytest.mark.parametrize("task", TABLE)
def test_loss_weights(task):
    recipe = RECIPES[task]
    assert (recipe.l2, recipe.lpips, recipe.identity, recipe.w_norm) == TABLE[task]
    assert (recipe.l2_crop, recipe.lpips_crop) == ((0.01, 0.8) if task == "frontalization" else (0, 0))
    moco = 0.5 if task == "cars" else 0
    assert (recipe.l1, recipe.moco, recipe.mixing, recipe.mask) == (0, moco, 0, "none")
    networks = ("lpips", *(["identity"] if recipe.identity else []), *(["moco"] if moco else []))
    assert recipe.networks == networks and recipe.lpips_network == "alex"


@pytest.mark.parametrize("task", TABLE)
def test_everything_else(task):
    recipe = RECIPES[task]
    assert recipe.flip == ("independent" if task == "frontalization" else "both")
    assert recipe.factors == (1, 2, 4, 8, 16, 32)
    assert (recipe.encoder, recipe.start_from_average, recipe.render_size) == ("psp", True, None)
    assert (recipe.optimizer, recipe.learning_rate, recipe.decay, recipe.batch_size) == ("ranger", 1e-4, 0, 8)


def test_the_terms_are_those_of_the_objective():
    assert set(recipes.TERMS) == set(objective.TERM_FUNCTIONS)


def test_ablation_encoders_change_nothing_else():
    for name in ("w", "naive_wplus"):
        recipe = make_recipe("inversion", name)
        assert recipe.encoder == name
        assert dataclasses.replace(recipe, encoder="psp") == RECIPES["inversion"]


def test_the_second_description():
    ours, theirs = make_recipe("inversion", "global"), make_recipe("inversion", "local")
    for recipe in (ours, theirs):
        assert (recipe.l2, recipe.l1, recipe.lpips, recipe.lpips_network) == (0, 1, 0.8, "vgg")
        assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size) == ("adam", 1e-4, 8)
    assert (ours.encoder, ours.identity, ours.mixing, ours.mask) == ("resnet_w", 1, 0, "crop")
    assert (theirs.encoder, theirs.identity, theirs.mixing, theirs.mask) == ("resnet_wplus", 0, 1, "none")


def test_overrides_come_last():
    recipe = make_recipe("sketch", "global", {"identity": 0.25, "mask": "labels"})
    assert (recipe.task.name, recipe.encoder, recipe.identity, recipe.mask) == ("sketch", "resnet_w", 0.25, "labels")


def test_overrides_have_the_types_of_their_fields():
    texts = [
        *("l2=2", "steps=100", "encoder=w", "start_from_average=False", "factors=4,16", "render_size=128"),
        *("learning_rate=1e-3", "seed=7", "lpips_network=vgg"),
    ]
    values = parse_overrides(texts)
    assert values == {
        **{"l2": 2.0, "steps": 100, "encoder": "w", "start_from_average": False, "factors": (4, 16)},
        **{"render_size": 128, "learning_rate": 1e-3, "seed": 7, "lpips_network": "vgg"},
    }
    assert isinstance(values["l2"], float)
    assert parse_overrides(["render_size=none", "render_size=64", "start_from_average=true"]) == {
        "render_size": 64, "start_from_average": True
    }  # fmt: skip
    make_recipe("inversion", overrides=values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("l3=1", "NAME one of encoder, body, l2, l1,"),
        ("task=sketch", "NAME one of"),
        ("l2", "NAME=VALUE"),
        ("=1", "NAME=VALUE"),
        ("l2=much", "'much' is not a value of l2, expected a number"),
        ("steps=1.5", "'1.5' is not a value of steps, expected a whole number"),
        ("start_from_average=yes", "expected true or false"),
        ("factors=", "expected whole numbers like 1,2,4"),
        ("factors=2;4", "expected whole numbers like 1,2,4"),
        ("render_size=big", "expected a size in pixels, or none"),
    ],
)
def test_overrides_that_say_nothing(text, expected):
    with pytest.raises(PspError) as error:
        parse_overrides([text])
    assert expected in message(error) and f"--set {text}" in message(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder=unet", "encoder is 'unet', expected one of psp, e4e, w, naive_wplus, resnet_w, resnet_wplus"),
        ("lpips_network=squeeze", "alex, vgg"),
        ("mask=hair", "none, crop, labels"),
        ("flip=vertical", "none, both, independent"),
        ("optimizer=sgd", "ranger, adam"),
        ("l2=-1", "l2 is -1.0, expected a number of at least 0"),
        ("lpips=nan", "lpips is nan"),
        ("identity=inf", "identity is inf"),
        ("learning_rate=-0.1", "learning_rate is -0.1"),
        ("learning_rate=nan", "learning_rate is nan"),
        ("seed=-1", "seed is -1"),
        ("steps=0", "steps is 0, expected a number of at least 1"),
        ("batch_size=0", "batch_size is 0"),
        ("accumulate=0", "accumulate is 0"),
        ("decay=1.5", "0 to 1"),
        ("factors=0", "factors are (0,), expected whole numbers from 1 to 64"),
        ("factors=2,65", "from 1 to 64"),
    ],
)
def test_overrides_out_of_range(text, expected):
    with pytest.raises(PspError) as error:
        make_recipe("inversion", overrides=parse_overrides([text]))
    assert expected in message(error)


def test_unknown_names():
    for arguments, expected in [(("portrait",), "unknown task 'portrait'"), (("sketch", "big"), "local")]:
        with pytest.raises(PspError) as error:
            make_recipe(*arguments)
        assert expected in message(error)


def test_faces_or_other_things():
    with pytest.raises(PspError, match="set one of them to 0"):
        make_recipe("inversion", overrides={"moco": 0.5})
    recipe = make_recipe("inversion", overrides={"moco": 0.5, "identity": 0.0})
    assert recipe.networks == ("lpips", "moco")


def test_a_loss_is_needed():
    nothing = dict(l2=0.0, lpips=0.0, identity=0.0)
    for values in (nothing, nothing | {"mixing": 1.0}):
        with pytest.raises(PspError, match="there is no loss"):
            make_recipe("inversion", overrides=values)
    assert make_recipe("inversion", overrides=nothing | {"l1": 1.0}).networks == ()


@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_json_and_back(variant):
    recipe = make_recipe("super_resolution", variant, {"factors": (8, 16), "render_size": 64, "seed": 3})
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize("change", [{"colour": 1}, {"factors": 3}])
def test_json_of_another_version(change):
    with pytest.raises(PspError, match="not a training recipe of this version"):
        Recipe.from_json(Recipe().to_json() | change)
    values = Recipe().to_json()
    del values["factors"]
    with pytest.raises(PspError, match="not a training recipe of this version"):
        Recipe.from_json(values)
    with pytest.raises(PspError, match="unknown task 'portrait'"):
        Recipe.from_json(Recipe().to_json() | {"task": "portrait"})
