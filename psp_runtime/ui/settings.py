"""What is made of a picture, and the sliders of it: what belongs to another choice is out of sight."""

import importlib
from typing import Any

from psp_runtime.engines.info import EngineInfo
from psp_runtime.pictures.label_classes import NAMES
from psp_runtime.ui.choices import MAKES, makes_of
from psp_runtime.ui.inputs import picture
from psp_runtime.ui.runs import COMPUTED
from psp_runtime.ui.samples import own_directions

gr: Any = importlib.import_module("gradio")

#: Pictures of one sweep: a strip that can still be looked at.
MOST = 16
#: How far an edit goes at first: three standard deviations of a learned direction.
REACH = 3
#: Which controls each option of a verb has on the page.
_CONTROLS = {
    "direction": ("named", "own", "reach", "steps"),
    "gif": ("animate",),
    "classes": ("replaced", "by"),
    "style_of": ("to",),
}


def changes(info: EngineInfo) -> dict[str, Any]:
    """Ask what the task's own option changes in the input."""
    controls: dict[str, Any] = {}
    if info.task == "super_resolution":
        controls["downsample"] = gr.Slider(
            1, 32, 8, step=1, label="Shrink the picture first, by", info="1: it is small already"
        )
    if info.iterations:
        most, steps = max(10, info.iterations), info.iterations
        controls["iterations"] = gr.Slider(1, most, steps, step=1, label="How often the picture is corrected")
    if info.task == "inpainting":
        controls["mask"] = gr.Checkbox(True, label="Hide the triangle the task was trained with")
    return controls


def makes(info: EngineInfo, demo: bool) -> dict[str, Any]:
    """Ask what is made, and how. `demo`: directions of the bundled generator mean something."""
    names = makes_of(info)
    controls: dict[str, Any] = {"make": gr.Radio(names, value=names[0], label="What to make")}
    controls["words"] = gr.Markdown(MAKES[names[0]].words)
    with gr.Row():
        controls |= _numbers(info)
    directions = [*(own_directions() if demo else ()), *COMPUTED]
    controls["named"] = gr.Dropdown(directions, value=directions[0], label="Property", info="a direction in W+")
    controls["own"] = gr.File(
        label="Or a direction of your own", file_types=[".npy", ".npz", ".pt"], height=130, type="filepath"
    )
    with gr.Row():
        controls["replaced"] = gr.Dropdown(list(NAMES), value="hair", label="Replace", info="everywhere on the map")
        controls["by"] = gr.Dropdown(list(NAMES), value="background", label="By")
    controls["animate"] = gr.Checkbox(False, label="Also make an animation (GIF)")
    controls["to"] = picture("Other picture", 256)
    for name, component in controls.items():
        component.visible = name in ("make", "words")
    return controls


def _numbers(info: EngineInfo) -> dict[str, Any]:
    return {
        "count": gr.Slider(1, MOST, 6, step=1, label="Variations", info="how many"),
        "seed": gr.Slider(0, 999, 7, step=1, label="Seed", info="which styles: the same number, the same styles"),
        "psi": gr.Slider(
            0, 1, 1, step=0.05, label="Truncation ψ (psi)", info="1: as varied as learned; 0: all are the average face"
        ),
        "steps": gr.Slider(2, MOST, 7, step=1, label="Steps", info="pictures, both ends included"),
        "reach": gr.Slider(0.5, 8, REACH, step=0.5, label="Reach", info="from this much less to this much more"),
        "alpha": gr.Slider(
            0, 1, info.mix_alpha, step=0.05, label="Amount α (alpha)", info="0: nothing is mixed in; 1: all of it"
        ),
        "layers": gr.Textbox(
            label="Layers", info=f"of 0-{info.styles - 1}: coarse ones shape, fine ones colour",
            placeholder="the task's own", max_lines=1,
        ),
    }  # fmt: skip


def wanted(make: str) -> set[str]:
    """Name the controls that a choice has on the page."""
    found = {"make", "words"}
    for option in MAKES[make].options:
        found |= set(_CONTROLS.get(option, (option,)))
    return found
