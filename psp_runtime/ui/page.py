"""The page of `psp-ui`: one tab for each engine, in Gradio. It arranges; what is asked of it, `runs` does."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.errors import PspError
from psp_runtime.pictures.loading import load, load_input
from psp_runtime.ui.canvas import SIDE, Pixels, blank, brush_colours, coloured, face_labels, legend, pencilled
from psp_runtime.ui.runs import MAKES, Runs, obstacle

# Only the extra `ui` has it; `ui` says so where it is missing.
gr: Any = importlib.import_module("gradio")

#: Pictures of one sweep: a strip that can still be looked at.
MOST = 16
#: What is done with an engine happens one at a time, and so many may wait.
ONE_AT_A_TIME = {"concurrency_id": "engine", "concurrency_limit": 1, "api_visibility": "private"}
WAITING = 16
#: Gradio's own copies of uploads and of what was made: looked for every hour, deleted after a day, in seconds.
DELETE_CACHE = (3600, 24 * 3600)

#: What is on the page only while it is wanted; `to` serves for `style_of` as well.
_CHOICES = ("count", "seed", "psi", "steps", "alpha", "layers", "to")

HEAD = "# pixel2style2pixel"
FACE = "A face of the generator's own"
#: Which face of a photo, unless another is chosen.
LARGEST = "largest"
CSS = """
.canvas canvas { image-rendering: pixelated }
.made .grid-wrap { max-height: none !important }  /* else Gradio cuts tall pictures off, and long strips */
footer { display: none !important }
"""


def make_page(engines: list[Path], runs: Runs) -> Any:
    """Make a `gradio.Blocks` with a tab for each engine file.

    Raises `EngineError` for a file that is no engine, or only a part of one.
    """
    infos = [read_info(engine) for engine in engines]
    with gr.Blocks(title="pixel2style2pixel", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        gr.Markdown(HEAD)
        for engine, info in zip(engines, infos, strict=True):
            with gr.Tab(_title(engine, info)), gr.Row():
                _Tab(engine, info, runs)
    return page.queue(max_size=WAITING, api_open=False)


def _title(engine: Path, info: EngineInfo) -> str:
    task = info.task.replace("_", " ")
    return task if engine.stem == info.task else f"{engine.stem} ({task})"


class _Tab:
    """The components of one engine, and what happens between them."""

    def __init__(self, engine: Path, info: EngineInfo, runs: Runs) -> None:
        self.engine, self.info, self.runs = engine, info, runs
        self.controls: dict[str, Any] = {}
        self.faces: list[Any] = []
        with gr.Column():
            self._input()
            if info.input == "rgb" and info.input_height == info.input_size:  # faces; cars are wide
                self._photo()
            self._changes()
            self._makes()
            button = gr.Button("Make", variant="primary")
        with gr.Column():
            self.pictures = gr.Gallery(
                label="Made", columns=3, object_fit="contain", interactive=False, elem_classes="made",
                buttons=["download", "download_all", "fullscreen"],
            )  # fmt: skip
            self.compared = gr.ImageSlider(label="Before and after", type="filepath", interactive=False, visible=False)
            self.timing = gr.Markdown()
            self.source = gr.DownloadButton("The picture it was made of, as a file", visible=False)
            self.command = gr.Textbox(label="The same from a shell", max_lines=6, buttons=["copy"])
        self._listen(button)

    def _input(self) -> None:
        """Ask where the picture comes from: a file, the clipboard, a webcam, or a canvas for what is drawn."""
        kind = self.info.input
        if kind == "rgb":
            self.controls["picture"] = _picture("Picture", 384)
        else:
            self.controls["picture"] = _canvas(kind)
        if kind == "labels":
            gr.HTML(legend())
            self._upload("Open a label map (grey or palette PNG of class ids)", self._open_labels)
            return
        if kind == "sketch":
            self._upload("Draw a photo in pencil", self._open_photo)
        self._face(self.controls["picture"], 0)

    def _face(self, picture: Any, first: int) -> Any:
        """Make a button that brings faces of the generator's own, from the seed `first` on."""
        button, seed = gr.Button(FACE), gr.State(first)
        self.faces.append(button.click(self._told(self._next_face), seed, [seed, picture], **ONE_AT_A_TIME))
        return button

    def _upload(self, label: str, read: Callable[[str], Any]) -> None:
        """Make a button that opens a file on the canvas."""
        button = gr.UploadButton(label, file_types=["image"], type="filepath")
        button.upload(self._told(read), button, self.controls["picture"], **ONE_AT_A_TIME)

    def _photo(self) -> None:
        """Ask whether the picture is a whole photo, which of its faces is meant, and whether it is put back."""
        controls = self.controls
        controls["align"] = gr.Checkbox(False, label="A whole photo: find the face")
        chosen = {"faces": gr.Radio(_faces(1), value=LARGEST, label="Which face", visible=False)}
        if self.info.task != "frontalization":
            chosen["paste_back"] = gr.Checkbox(True, label="Put it back into the photo", visible=False)
        controls.update(chosen)

        def offer(upload: dict[str, Any] | None, align: bool) -> list[Any]:
            picture = self._uploaded(upload)
            count = self.runs.count_faces(str(picture)) if picture and align else 0
            faces = gr.update(choices=_faces(count), value=LARGEST, visible=count > 1)
            return [faces, *(gr.update(visible=align) for _ in list(chosen)[1:])]

        gr.on(
            [controls["align"].change, controls["picture"].change], self._told(offer),
            [controls["picture"], controls["align"]], list(chosen.values()), preprocess=False, **ONE_AT_A_TIME,
        )  # fmt: skip

    def _changes(self) -> None:
        """Ask what the task's own option changes in the input."""
        if self.info.task == "super_resolution":
            self.controls["downsample"] = gr.Slider(1, 32, 8, step=1, label="Shrink the picture first, by")
        if self.info.iterations:
            most, steps = max(10, self.info.iterations), self.info.iterations
            label = "How often the picture is corrected"
            self.controls["iterations"] = gr.Slider(1, most, steps, step=1, label=label)
        if self.info.task == "inpainting":
            self.controls["mask"] = gr.Checkbox(True, label="Hide the triangle the task was trained with")

    def _makes(self) -> None:
        """Ask what is made, and its sliders; those of the others are out of sight."""
        info, controls = self.info, self.controls
        controls["make"] = gr.Radio(list(MAKES), value="one picture", label="Make")
        with gr.Row():
            controls["count"] = gr.Slider(1, MOST, 6, step=1, label="Variants", info="how many")
            controls["seed"] = gr.Slider(0, 999, 7, step=1, label="Seed", info="which styles")
            controls["psi"] = gr.Slider(0, 1, 1, step=0.05, label="ψ", info="0: the average face")
            controls["steps"] = gr.Slider(2, MOST, 7, step=1, label="Steps", info="both ends included")
            controls["alpha"] = gr.Slider(0, 1, info.mix_alpha, step=0.05, label="α", info="how much is mixed in")
            controls["layers"] = gr.Textbox(
                label="Layers", info=f"of 0-{info.styles - 1}", placeholder="the task's own", max_lines=1
            )
        other = _picture("The other picture", 256)
        controls["to"] = controls["style_of"] = other
        chosen = {name: controls[name] for name in controls if name in _CHOICES}
        if info.input == "rgb":
            chosen["face"] = self._face(other, 500)

        def visible(make: str) -> list[Any]:
            wanted = MAKES[make].options + (("to",) if "style_of" in MAKES[make].options else ())
            return [gr.update(visible=name in wanted or (name == "face" and "to" in wanted)) for name in chosen]

        for component in chosen.values():
            component.visible = False
        controls["make"].change(visible, controls["make"], list(chosen.values()), api_visibility="private")

    def _listen(self, button: Any) -> None:
        """Let the button make pictures, and so does every change that needs no more than itself."""
        controls = self.controls
        asked = dict(
            fn=self._told(self._make),
            inputs=list(controls.values()),
            outputs=[self.pictures, self.compared, self.timing, self.command, self.source],
            **ONE_AT_A_TIME,
        )
        triggers = [button.click, controls["make"].change]
        triggers += [c.input for c in controls.values() if isinstance(c, gr.Slider)]
        triggers += [c.change for c in controls.values() if isinstance(c, gr.Checkbox)]
        triggers += [controls["faces"].input] if "faces" in controls else []
        gr.on(triggers, trigger_mode="always_last", **asked)
        for picture in {controls["picture"], controls["to"]}:
            if isinstance(picture, gr.Image):
                picture.input(self._usable, picture, picture, preprocess=False, **ONE_AT_A_TIME).then(**asked)
        if self.info.input == "rgb":
            for face in self.faces:
                face.then(**asked)

    def _usable(self, upload: dict[str, Any] | None) -> Any:
        """Check a picture just given, or None, with a message, for what is none: Gradio would stumble over it later."""
        if not upload:  # a look at the webcam or the clipboard; what comes from there may be on its way already
            return gr.skip()
        path = self._uploaded(upload)
        if path is None:
            return None
        try:
            load_input(path, self.info)
        except PspError as mistake:
            gr.Warning(self.runs.worded(mistake), title="This picture cannot be used")
            return None
        return gr.skip()

    def _uploaded(self, upload: dict[str, Any] | None) -> Path | None:
        """Find the file of a picture as the browser sent it, unopened; None for a path that is not of an upload."""
        path = Path((upload or {}).get("path") or "")
        return path if path.resolve().is_relative_to(self.runs.folder.resolve()) else None

    def _make(self, *given: Any) -> tuple[Any, ...]:
        values = dict(zip(self.controls, given, strict=True))
        if missing := obstacle(values):
            return gr.skip(), gr.skip(), missing, gr.skip(), gr.skip()
        if self.info.input != "rgb":
            values["picture"] = self.runs.save_drawing(values["picture"]["composite"], self.info.input)
        shown = self.runs.run(self.engine, values)
        for warning in shown.warnings:
            gr.Warning(warning)
        source = gr.update(value=str(values["picture"]), visible=True)
        compared = gr.update(value=shown.compared, visible=shown.compared is not None)
        return shown.pictures, compared, shown.timing, shown.command, source

    def _told(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function; what it refuses is shown as a message."""

        def attempt(*given: Any) -> Any:
            try:
                return work(*given)
            except PspError as mistake:
                raise gr.Error(self.runs.worded(mistake), print_exception=False) from None

        return attempt

    def _next_face(self, seed: int) -> tuple[int, Any]:
        face = str(self.runs.random_face(self.engine, seed))
        return seed + 1, face if self.info.input == "rgb" else self._open_photo(face)

    def _open_labels(self, file: str) -> Any:
        labels = load(file, "labels", self.info.input_size, self.info.classes)
        return _on_canvas(coloured(labels))

    def _open_photo(self, file: str) -> Any:
        return _on_canvas(pencilled(load(file, "rgb", self.info.input_size)))


def _faces(count: int) -> list[str]:
    """Name the faces of a photo, as --faces takes them."""
    others = {2: "2nd", 3: "3rd"}
    numbered = [others.get(number, f"{number}th") for number in range(2, min(count, MOST) + 1)]
    return [LARGEST, *numbered, *(["all"] if count > 1 else [])]


def _picture(label: str, height: int) -> Any:
    """Take a file as it was uploaded: with `image_mode` None, Gradio does not convert it before it is read."""
    return gr.Image(type="filepath", image_mode=None, format="png", label=label, height=height, buttons=[])


def _canvas(kind: str) -> Any:
    """Paper to draw on, or a face in the colours of the classes."""
    labels = kind == "labels"
    colours = brush_colours() if labels else ["#000000", "#808080"]
    return gr.ImageEditor(
        _on_canvas(coloured(face_labels()) if labels else blank()),
        label="Label map: paint with the colours of the classes" if labels else "Sketch",
        image_mode="RGB", format="png", canvas_size=(SIDE, SIDE), fixed_canvas=True, layers=False,
        # A label map as it is stored is nearly black: it has a button of its own.
        sources=() if labels else ("upload", "webcam", "clipboard"), transforms=(), elem_classes="canvas",
        brush=gr.Brush(24 if labels else 4, colours, default_color=colours[labels], color_mode="fixed"),
        buttons=["download"], height=600,
    )  # fmt: skip


def _on_canvas(picture: Pixels) -> dict[str, Any]:
    return {"background": picture, "layers": [], "composite": picture}
