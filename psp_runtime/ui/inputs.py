"""Where a picture comes from on the page: a file, the clipboard, a webcam, an example, or a canvas to draw on."""

import importlib
from pathlib import Path
from typing import Any

from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.pictures.label_classes import IDS, NAMES
from psp_runtime.pictures.loading import load, load_input
from psp_runtime.tasks import InputKind
from psp_runtime.ui.canvas import SIDE, Pixels, blank, brush_colours, coloured, face_labels, pencilled
from psp_runtime.ui.outputs import LOOKED_AT
from psp_runtime.ui.runs import Runs
from psp_runtime.ui.samples import examples

# Only the extra `ui` has it; `cli` says so where it is missing.
gr: Any = importlib.import_module("gradio")

#: Which face of a photo, unless another is chosen, and all of them.
LARGEST, ALL = "largest", "all"
#: Faces of a photo that can be chosen one by one.
MOST_FACES = 16
#: The radius of a brush for label maps, in pixels of the canvas, and of a pencil.
BRUSH, PENCIL = 24, 4


def picture(label: str, height: int) -> Any:
    """Take a file as it was uploaded: with `image_mode` None, Gradio does not convert it before it is read."""
    return gr.Image(
        type="filepath", image_mode=None, format="png", label=label, height=height, buttons=[], elem_classes="given"
    )


def checked(image: Any, alert: Any, info: EngineInfo, runs: Runs) -> Any:
    """Look at every picture that comes into `image`; return the `gr.State` with the path of one that can be used.

    What is no picture is taken away, and named in `alert`. No other event may take `image`: Gradio would open the file
    itself, and print a traceback where it cannot.
    """
    usable = gr.State(None)

    def look(upload: dict[str, Any] | None) -> tuple[str | None, Any, Any]:
        path = _uploaded(upload, runs.folder)
        if not path:
            return None, gr.skip(), gr.skip()
        try:
            load_input(path, info)
        except PspError as mistake:
            return None, None, gr.update(value=runs.worded(mistake), visible=True)
        return str(path), gr.skip(), gr.update(visible=False)

    image.change(look, image, [usable, image, alert], preprocess=False, **LOOKED_AT)
    return usable


def _uploaded(upload: dict[str, Any] | None, folder: Path) -> Path | None:
    """Give the file of a picture that comes as the browser sent it: its path must be that of an upload in `folder`."""
    path = Path((upload or {}).get("path") or "")
    return path if path.resolve().is_relative_to(folder.resolve()) else None


def canvas(kind: InputKind) -> Any:
    """Paper to draw on, or a face in the colours of the classes."""
    labels = kind == "labels"
    return gr.ImageEditor(
        on_canvas(coloured(face_labels()) if labels else blank()),
        label="Label map: choose a class below and paint" if labels else "Sketch: draw, or open one",
        image_mode="RGB", format="png", canvas_size=(SIDE, SIDE), fixed_canvas=True, layers=False,
        # A label map as it is stored is nearly black: it has a button of its own.
        sources=() if labels else ("upload", "webcam", "clipboard"), transforms=(), elem_classes="canvas",
        brush=brush("skin") if labels else gr.Brush(PENCIL, ["#000000", "#808080"], color_mode="fixed"),
        buttons=["download"], height=600,
    )  # fmt: skip


def brush(name: str) -> Any:
    """Make a brush that paints a class."""
    colours = brush_colours()
    return gr.Brush(BRUSH, colours, default_color=colours[IDS[name]], color_mode="fixed")


def palette(editor: Any) -> None:
    """Show what colour each class has; a click paints with it from then on."""
    chosen = gr.Radio(
        list(NAMES), value="skin", label="Class to paint", elem_classes="palette",
        info="Undo and redo are the arrows above the picture.",
    )  # fmt: skip
    chosen.input(lambda name: gr.ImageEditor(brush=brush(name)), chosen, editor, queue=False, api_visibility="private")


def example_gallery(info: EngineInfo) -> Any:
    """Show what an engine can be tried on; None where there is nothing."""
    files = examples(info)
    if not files:
        return None
    shown = [[coloured(load(file, "labels", 256))] if info.input == "labels" else [file] for file in files]
    return gr.Dataset(
        components=[gr.Image(render=False, type="filepath", format="png")], samples=_thumbnails(shown), type="index",
        label="Examples: click one", elem_classes="examples",
    )  # fmt: skip


def _thumbnails(shown: list[list[Any]]) -> list[list[Any]]:
    """Give the samples as Gradio stores them: arrays become PNG files of its own."""
    component = gr.Image(render=False, type="numpy", format="png")
    return [[one if isinstance(one, str) else component.postprocess(one).path] for (one,) in shown]


def from_file(file: str, kind: InputKind, size: int, classes: int) -> Any:
    """Give a file as the value of the input of a kind. Raises `PictureError` for one that cannot be used."""
    if kind == "rgb":
        return file
    if kind == "labels":
        return on_canvas(coloured(load(file, "labels", size, classes)))
    return on_canvas(pencilled(load(file, "rgb", size)))


def sketch_file(file: str, size: int) -> Any:
    """Give a stored sketch as the value of a canvas."""
    return on_canvas(load(file, "sketch", size).repeat(3, -1).repeat(SIDE // size, 0).repeat(SIDE // size, 1))


def on_canvas(pixels: Pixels) -> dict[str, Any]:
    """Give a picture as what an empty canvas shows."""
    return {"background": pixels, "layers": [], "composite": pixels}


def face_names(count: int) -> list[str]:
    """Name the faces of a photo, as --faces takes them."""
    others = {2: "2nd", 3: "3rd"}
    numbered = [others.get(number, f"{number}th") for number in range(2, min(count, MOST_FACES) + 1)]
    return [LARGEST, *numbered, *([ALL] if count > 1 else [])]


def face_gallery(faces: list[Path]) -> list[tuple[str, str]]:
    """Give the faces of a photo with their names."""
    return [(str(path), name) for path, name in zip(faces, face_names(len(faces)))]
