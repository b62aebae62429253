"""How each task is trained: the constants of the paper, one recipe each, spelling only the differences.

Sources: "Encoding in Style" section 3.2 and appendix A for the loss weights, the released options where the paper is
silent; docs/training.md has the table. VARIANTS are changes on top of any recipe: the paper's two ablation encoders,
the second description of the method (a ResNet-50 with one linear layer per style), and e4e and ReStyle with the options
of their released code.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from psp_runtime.errors import PspError
from psp_runtime.pictures.transforms import MAX_FACTOR
from psp_runtime.tasks import TASKS, Task, get_task
from psp_train.networks.config import Body, EncoderKind, LPIPSNetwork

Mask = Literal["none", "crop", "labels"]
Flip = Literal["none", "both", "independent"]
Optimizer = Literal["ranger", "adam"]

#: What the fields that name something may be.
CHOICES: dict[str, tuple[str, ...]] = {
    "encoder": get_args(EncoderKind),
    "body": get_args(Body),
    "lpips_network": get_args(LPIPSNetwork),
    "mask": get_args(Mask),
    "flip": get_args(Flip),
    "optimizer": get_args(Optimizer),
}

#: The terms of the loss: each has its weight in the recipe.
TERMS = ("l2", "l1", "lpips", "identity", "moco", "w_norm", "l2_crop", "lpips_crop")
TERMS += ("mixing", "delta_norm", "adversarial")
#: Those that say nothing of how the output should look.
_REGULARISERS = {"mixing", "adversarial"}

#: The smallest value of each number.
MINIMUM = dict.fromkeys((*TERMS, "learning_rate", "decay", "seed", "deltas_from", "deltas_every"), 0)
MINIMUM |= dict.fromkeys(("batch_size", "accumulate", "steps", "iterations"), 1)

#: What torch takes for a seed.
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training computes; stored in the checkpoints it makes. Raises `PspError` for
    values out of range.

    The loss is the sum of the terms below, each times its weight (0: not computed). `l2`, `l1`, `lpips` compare whole
    pictures; `l2_crop`, `lpips_crop` their inner face crop; `identity` and `moco` unit features; `w_norm` keeps latents
    near the average w; `mixing` is the L1 between the output and the output with some styles replaced by those of
    another picture; `delta_norm` keeps e4e's codes near the first of them, `adversarial` among those of the mapping
    network, which a discriminator learns to tell. `body` is what the backbone of a ReStyle encoder is. `mask` limits
    the terms on whole pictures to the face: by the inner crop, or by a folder of label maps. `flip`: source and target
    mirrored together, independently, or never. `decay` is the share of the steps, at the end, over which the learning
    rate falls to zero. `render_size` computes the losses on a smaller output, from the generator's first layers: only
    for generators whose first layers are one (the demo's). With `deltas_every`, e4e's offsets from the first code are
    added one by one: the first at step `deltas_from`, one more every so many steps. ReStyle takes `iterations` steps on
    a batch, each with a loss and a gradient of its own.
    """

    task: Task = TASKS["inversion"]
    encoder: EncoderKind = "psp"
    body: Body = "irse"
    l2: float = 1.0
    l1: float = 0.0
    lpips: float = 0.8
    identity: float = 0.1
    moco: float = 0.0
    w_norm: float = 0.0
    l2_crop: float = 0.0
    lpips_crop: float = 0.0
    mixing: float = 0.0
    delta_norm: float = 0.0
    adversarial: float = 0.0
    lpips_network: LPIPSNetwork = "alex"
    mask: Mask = "none"
    flip: Flip = "both"
    factors: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    start_from_average: bool = True
    render_size: int | None = None
    deltas_from: int = 0
    deltas_every: int = 0
    iterations: int = 1
    optimizer: Optimizer = "ranger"
    learning_rate: float = 1e-4
    decay: float = 0.0
    batch_size: int = 8
    accumulate: int = 1
    steps: int = 300_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise PspError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if self.identity and self.moco:
            raise PspError("identity and moco are for different domains (faces, others): set one of them to 0")
        self._check_numbers()
        self._check_encoder()

    def _check_encoder(self) -> None:
        of_e4e = [name for name in ("delta_norm", "deltas_every", "adversarial") if getattr(self, name)]
        if of_e4e and self.encoder not in ("e4e", "restyle_e4e"):
            raise PspError(f"{', '.join(of_e4e)}: for e4e's encoders, not for {self.encoder}: set to 0")
        refines = self.encoder.startswith("restyle_")
        if self.body != "irse" and not refines:
            raise PspError(f"body is {self.body}: only ReStyle's encoders have it, not {self.encoder}, set it to irse")
        if self.iterations > 1 and not refines:
            raise PspError(f"iterations is {self.iterations}: a {self.encoder} encoder takes one step, set it to 1")
        if refines and (self.mixing or self.task.input != "rgb"):
            raise PspError(f"a {self.encoder} encoder refines pictures in colours, without mixing: give another")

    def deltas(self, step: int) -> int | None:
        """Count e4e's offsets from the first code that are trained at a step, 1 or more; None is all of them."""
        if not self.deltas_every:
            return None
        return max(0, 1 + (step - self.deltas_from) // self.deltas_every)

    def _check_numbers(self) -> None:
        for name, least in MINIMUM.items():
            if not least <= getattr(self, name) < math.inf:
                raise PspError(f"{name} is {getattr(self, name)}, expected a number of at least {least}")
        if self.seed > LARGEST_SEED:
            raise PspError(f"seed is {self.seed}, expected a number up to {LARGEST_SEED}")
        if self.decay > 1:
            raise PspError(f"decay is {self.decay}, expected a share of the steps, 0 to 1")
        if not self.factors or not set(self.factors) <= set(range(1, MAX_FACTOR + 1)):
            raise PspError(f"factors are {self.factors}, expected whole numbers from 1 to {MAX_FACTOR}")
        if not any(weight for name, weight in self.weights.items() if name not in _REGULARISERS):
            raise PspError("there is no loss: a weight other than mixing and adversarial must be above 0")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term of the loss."""
        return {name: getattr(self, name) for name in TERMS}

    @property
    def networks(self) -> tuple[str, ...]:
        """The frozen networks its losses need, of "lpips", "identity" and "moco"."""
        needed = {"lpips": self.lpips or self.lpips_crop, "identity": self.identity, "moco": self.moco}
        return tuple(name for name, weight in needed.items() if weight)

    def to_json(self) -> dict[str, Any]:
        """Give the recipe as plain JSON values; the task by its name."""
        return asdict(self) | {"task": self.task.name, "factors": list(self.factors)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Recipe":
        """Read what `to_json` gave. Raises `PspError` for values that are not a recipe's."""
        try:
            return cls(**{**values, "task": get_task(values["task"]), "factors": tuple(values["factors"])})
        except (TypeError, KeyError) as error:
            raise PspError(f"not a training recipe of this version: {error}") from None


RECIPES: dict[str, Recipe] = {
    recipe.task.name: recipe
    for recipe in (
        Recipe(TASKS["inversion"]),
        Recipe(
            TASKS["frontalization"],
            l2=0.001,
            lpips=0.08,
            identity=1.0,
            w_norm=0.005,
            l2_crop=0.01,
            lpips_crop=0.8,
            flip="independent",
        ),
        Recipe(TASKS["sketch"], identity=0.0, w_norm=0.005),
        Recipe(TASKS["segmentation"], identity=0.0, w_norm=0.005),
        Recipe(TASKS["super_resolution"], w_norm=0.005),
        Recipe(TASKS["inpainting"], w_norm=0.005),
        Recipe(TASKS["toonify"], identity=1.0, w_norm=0.025),
        Recipe(TASKS["cars"], identity=0.0, moco=0.5),
    )
}

#: Released options of e4e and of ReStyle: README of restyle-encoder, training/coach.py of encoder4editing.
PROGRESSIVE: dict[str, Any] = dict(delta_norm=2e-4, deltas_from=20_000, deltas_every=2_000)
REFINED: dict[str, Any] = dict(iterations=5, w_norm=0.0)

SECOND_DESCRIPTION = dict(l2=0.0, l1=1.0, optimizer="adam", learning_rate=1e-4, batch_size=8)

VARIANTS: dict[str, dict[str, Any]] = {
    "w": dict(encoder="w"),
    "naive_wplus": dict(encoder="naive_wplus"),
    "global": SECOND_DESCRIPTION | dict(encoder="resnet_w", lpips_network="vgg", identity=1.0, mask="crop"),
    "local": SECOND_DESCRIPTION | dict(encoder="resnet_wplus", lpips_network="vgg", identity=0.0, mixing=1.0),
    "e4e": PROGRESSIVE | dict(encoder="e4e", w_norm=0.0),
    "restyle": REFINED | dict(encoder="restyle_psp"),
    "restyle_e4e": REFINED | PROGRESSIVE | dict(encoder="restyle_e4e"),
}

#: The bundled demo: a short training on a small generator whose first layers are a generator too. In a few hundred
#: steps, Ranger (slow to start, and averaged with its past) does not get as far as Adam.
DEMO: dict[str, Any] = dict(optimizer="adam", learning_rate=2e-3, decay=0.5, steps=600, render_size=128)


def make_recipe(task: str, variant: str | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Make the recipe of a task, changed by a variant, then by single values. Raises `PspError` for unknown names."""
    recipe = RECIPES[get_task(task).name]
    if variant is not None:
        if variant not in VARIANTS:
            raise PspError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
        recipe = replace(recipe, **VARIANTS[variant])
    return replace(recipe, **(overrides or {}))


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` strings as typed values of `Recipe` fields. Raises `PspError` for others."""
    return dict(_parse(setting) for setting in settings)


def _parse(setting: str) -> tuple[str, Any]:
    name, equals, text = setting.partition("=")
    defaults = {field.name: field.default for field in fields(Recipe)}
    if not equals or name not in defaults or name == "task":
        known = ", ".join(name for name in defaults if name != "task")
        raise PspError(f"--set {setting}: expected NAME=VALUE with NAME one of {known}")
    try:
        return name, _value(text, name, defaults[name])
    except ValueError:
        expected = _kind(name, defaults[name])
        raise PspError(f"--set {setting}: {text!r} is not a value of {name}, expected {expected}") from None


def _value(text: str, name: str, default: Any) -> Any:
    if isinstance(default, bool):
        return ("false", "true").index(text.lower()) == 1
    if isinstance(default, tuple):
        return tuple(int(part) for part in text.split(","))
    if name == "render_size":
        return None if text == "none" else int(text)
    return type(default)(text)


def _kind(name: str, default: Any) -> str:
    if name == "render_size":
        return "a size in pixels, or none"
    kinds = {bool: "true or false", tuple: "whole numbers like 1,2,4", int: "a whole number", float: "a number"}
    return kinds[type(default)]
