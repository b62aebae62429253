"""Which member of the pSp family a checkpoint is: pSp, e4e, ReStyle, or one that no engine can be made of.

Keys and shapes do not always tell. e4e's encoder has those of pSp's, and ReStyle's two encoders have the same; only
`opts["encoder_type"]` says which it is, and a wrong guess gives wrong codes in silence. So where neither the shapes nor
the file's options decide, the user does.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psp_runtime.console import counted
from psp_runtime.tasks import TASKS, Task
from psp_train.checkpoints.architecture import body_of, input_channels, possible_kinds
from psp_train.checkpoints.state_files import StateDict, WeightsError
from psp_train.networks.config import REFINED_CHANNELS, Body, EncoderKind

#: Names of `opts["encoder_type"]` in published files, the kinds they may mean, and the body;
#: those of the ResNet-50 encoders, which nobody published, are ours.
ENCODER_TYPES: dict[str, tuple[tuple[EncoderKind, ...], Body]] = {
    "GradualStyleEncoder": (("psp", "restyle_fpn"), "irse"),
    "BackboneEncoderUsingLastLayerIntoW": (("w",), "irse"),
    "BackboneEncoderUsingLastLayerIntoWPlus": (("naive_wplus",), "irse"),
    "ResNetEncoderIntoW": (("resnet_w",), "irse"),
    "ResNetEncoderIntoWPlus": (("resnet_wplus",), "irse"),
    "Encoder4Editing": (("e4e",), "irse"),
    "SingleStyleCodeEncoder": (("w",), "irse"),
    "BackboneEncoder": (("restyle_psp",), "irse"),
    "ResNetBackboneEncoder": (("restyle_psp",), "resnet34"),
    "ProgressiveBackboneEncoder": (("restyle_e4e",), "irse"),
    "ResNetProgressiveBackboneEncoder": (("restyle_e4e",), "resnet34"),
    "ResNetGradualStyleEncoder": (("restyle_fpn",), "resnet34"),
}
#: Data sets of e4e and ReStyle (`opts["dataset_type"]`) that are not named as a task's: each is a domain to invert.
DOMAINS = {
    "horse_encode": "inversion",
    "church_encode": "inversion",
    "cats_encode": "inversion",
    "afhq_wild_encode": "inversion",
    "toonify": "toonify",
}


def family_name(kind: EncoderKind) -> str:
    """Say which paper's checkpoint has an encoder of this kind."""
    return "ReStyle" if kind.startswith("restyle_") else "e4e" if kind == "e4e" else "pSp"


def type_name(kind: EncoderKind, body: Body) -> str:
    """Name an encoder as the released code does, in `opts["encoder_type"]`."""
    return next(name for name, (kinds, its) in ENCODER_TYPES.items() if kind in kinds and its == body)


def refuse_relatives(path: Path, state: StateDict) -> None:
    """Raise `WeightsError` for SAM and HyperStyle, which no engine of a picture and constant weights can compute."""
    if any(key.startswith("hypernet.") for key in state):
        raise WeightsError(
            f"{path} is a HyperStyle checkpoint (hypernet.*): it predicts other generator weights for every picture, "
            "and an engine's weights are constants; expected a checkpoint of pSp, e4e or ReStyle"
        )
    if any(key.startswith("pretrained_encoder.") for key in state):
        raise WeightsError(
            f"{path} is a SAM checkpoint (pretrained_encoder.*): it adds the codes of two encoders and takes an age, "
            "and an engine takes a picture alone; expected a checkpoint of pSp, e4e or ReStyle"
        )


def choose_kind(
    path: Path, opts: Mapping[str, Any], state: StateDict, asked: str | None, strictly: bool = True
) -> EncoderKind:
    """Choose the kind of an encoder: as its shapes allow, then as its options say, then as `asked` (--encoder).

    Raises `WeightsError` where they contradict each other (of `asked` only if it counts `strictly`), and where they
    leave a choice.
    """
    possible = _without_labels(opts, possible_kinds(state), asked)
    name = opts.get("encoder_type")
    if name is not None:
        possible = _named(path, str(name), state, possible)
    elif asked is None and opts.get("dataset_type") in _OF_PSP_ALONE and "psp" in possible:
        return "psp"
    if asked not in possible and not strictly:
        asked = None
    if asked is not None and asked not in possible:
        raise WeightsError(f"--encoder {asked} contradicts {path}, whose encoder is {' or '.join(possible)}")
    if asked is None and len(possible) > 1:
        raise WeightsError(
            f"{path} does not say whether its encoder is {' or '.join(possible)}, whose weights have the same names "
            f"and shapes: give --encoder, one of {', '.join(possible)}"
        )
    return possible[0] if asked is None else next(kind for kind in possible if kind == asked)


#: Data sets that only pSp's code knows: their files without an encoder type need no question.
_OF_PSP_ALONE = {task.reference for task in TASKS.values() if task.reference} - {"ffhq_encode", "cars_encode"}


def _without_labels(
    opts: Mapping[str, Any], possible: tuple[EncoderKind, ...], asked: str | None
) -> tuple[EncoderKind, ...]:
    """Tell six channels of ReStyle from a label map of six classes, for which pSp's options have their number."""
    labels = tuple(kind for kind in possible if kind != "restyle_fpn")
    if labels == possible or not labels or asked in labels:
        return labels or possible
    return labels if opts.get("label_nc") == REFINED_CHANNELS else ("restyle_fpn",)


def _named(path: Path, name: str, state: StateDict, possible: tuple[EncoderKind, ...]) -> tuple[EncoderKind, ...]:
    kinds, body = ENCODER_TYPES.get(name, ((), "irse"))
    found = tuple(kind for kind in possible if kind in kinds)
    if not found or body != body_of(state):
        holds = " or ".join(map(repr, possible)) + (" (ResNet-34)" if body_of(state) == "resnet34" else "")
        raise WeightsError(
            f"{path}: its opts name the encoder type {name!r}, but its weights are those of a {holds} encoder "
            f"(known types: {', '.join(ENCODER_TYPES)})"
        )
    return found


def stored_task(opts: Mapping[str, Any]) -> Task | None:
    """Find the task that a file's options name: ours, a published data set, or a domain of the family."""
    ours, name = opts.get("psp_toolkit"), opts.get("dataset_type")
    if isinstance(ours, Mapping) and str(ours.get("task")) in TASKS:
        return TASKS[str(ours["task"])]
    published = {task.reference: task for task in TASKS.values() if task.reference}
    return published.get(name) or TASKS.get(DOMAINS.get(str(name), ""))


#: What an encoder that takes so many channels is.
_CHANNELS_OF = {
    4: ", as SAM's does (a picture and an age: no engine can be made of it)",
    REFINED_CHANNELS: ", as ReStyle's does (a picture and what was made of it so far)",
}


def check_channels(path: Path, kind: EncoderKind, state: StateDict, task: Task) -> None:
    """Raise `WeightsError` for an encoder that does not take the pictures of the task."""
    channels = input_channels(state)
    refines = kind.startswith("restyle_")
    if refines and task.input != "rgb":
        raise WeightsError(f"{path} has a {kind} encoder, which refines pictures, and task {task.name} has others")
    wanted = REFINED_CHANNELS if refines else task.channels
    if task.input != "labels" and channels != wanted:
        guess = _CHANNELS_OF.get(channels, "")
        raise WeightsError(
            f"{path} takes {counted(channels, 'input channel')}{guess}, but a {kind} encoder of task {task.name} takes "
            f"{wanted}"
        )


def drop_surplus_heads(state: StateDict, styles: int) -> StateDict:
    """Leave out heads beyond the generator's styles.

    e4e's code built 18 of them for cars, whose generator has 16 styles, and cut the codes (its scripts/inference.py).
    """

    def kept(key: str) -> bool:
        head = re.match(r"encoder\.styles\.(\d+)\.", key)
        return head is None or int(head.group(1)) < styles

    return {key: value for key, value in state.items() if kept(key)}
