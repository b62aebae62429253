"""One tab of the page: the components of one engine, and what happens between them."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psp_runtime.errors import PspError
from psp_runtime.ui import inputs, settings
from psp_runtime.ui.choices import MAKES, obstacle
from psp_runtime.ui.outputs import AT_ONCE, ONE_AT_A_TIME, PLACES, Outputs, place_of, wrong
from psp_runtime.ui.photos import Photo
from psp_runtime.ui.runs import Runs
from psp_runtime.ui.samples import examples, is_photo
from psp_runtime.ui.watch import Cancelled, Watch, Watches

gr: Any = importlib.import_module("gradio")

#: Pictures of one batch.
MOST_FILES = 50
#: On a phone the result is below: go there when it is asked for.
_SHOW_RESULT = "() => innerWidth < 641 && document.querySelectorAll('.status').forEach(one => \
one.offsetParent && one.scrollIntoView({behavior: 'smooth', block: 'start'}))"


class Tab:
    """What a visitor sees of one engine. Each run is told to `watches`, under the engine's name."""

    def __init__(self, engine: Path, runs: Runs, watches: Watches) -> None:
        self.engine, self.runs, self.watches = engine, runs, watches
        self.info = runs.info(engine)
        self.controls: dict[str, Any] = {}
        self.alerts: dict[str, Any] = {}
        self.brought: list[Any] = []  # events that bring a drawing, after which pictures are made
        with gr.Column():
            self._input()
            if self.info.input == "rgb" and self.info.input_height == self.info.input_size:  # faces; cars are wide
                self.photo = Photo(self.controls["picture"], self.alerts["picture"], self.info, runs)
                self.controls |= self.photo.controls
            self.controls |= settings.changes(self.info)
            self._makes()
            with gr.Column(elem_classes="generate"):  # in sight wherever the page is, and so is what is wrong
                self.alerts["settings"] = wrong()
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary", scale=3)
                    cancel = gr.Button("Cancel", variant="stop", visible=False, scale=1, min_width=90)
            with gr.Accordion("Many pictures at once", open=False):
                label = f"At most {MOST_FILES}, together 20 MB; the results come as a ZIP"
                self.batch = gr.File(file_count="multiple", file_types=["image"], label=label)
                every = gr.Button("Generate all")
        with gr.Column(elem_classes="results"):
            self.outputs = Outputs({name: self.alerts[name] for name in PLACES}, cancel)
        self.ticket = gr.Textbox(visible=False)  # the number of the run asked for last, as the browser knows it
        self._listen(generate, every)
        cancel.click(self._cancel, None, self.outputs.all(), **AT_ONCE)

    def _input(self) -> None:
        """Ask where the picture comes from: a file, the clipboard, a webcam, or a canvas for what is drawn."""
        kind = self.info.input
        self.own = own = inputs.picture("Picture", 320) if kind == "rgb" else inputs.canvas(kind)
        if kind == "labels":
            inputs.palette(own)
        self.alerts["picture"] = alert = wrong()
        self.controls["picture"] = inputs.checked(own, alert, self.info, self.runs) if kind == "rgb" else own
        self.samples = inputs.example_gallery(self.info)
        if kind == "labels":
            self._upload("Open a label map (grey or palette PNG of class ids)")
            return
        with gr.Row():
            if kind == "sketch":
                self._upload("Make a sketch of a photo")
            self._face(own, "picture", 0)

    def _face(self, picture: Any, place: str, first: int) -> Any:
        """Make a button that brings faces of the generator's own, from the seed `first` on."""
        button, seed = gr.Button("Random face", size="sm"), gr.State(first)
        outputs = [seed, picture, self.alerts[place]]
        brought = button.click(self._next_face, seed, outputs, **ONE_AT_A_TIME)
        if not isinstance(picture, gr.Image):  # a picture that is usable is heard of
            self.brought.append(brought)
        return button

    def _upload(self, label: str) -> None:
        """Make a button that opens a file on the canvas."""
        button = gr.UploadButton(label, file_types=["image"], type="filepath", size="sm")
        outputs = [self.controls["picture"], self.alerts["picture"]]
        self.brought.append(button.upload(self._opened, button, outputs, **ONE_AT_A_TIME))

    def _makes(self) -> None:
        """Ask what is made, and show the sliders of the choice alone."""
        given = settings.makes(self.info, self.engine in self.runs.demo)
        self.alerts["to"] = wrong()
        if self.info.input == "rgb":
            given["face"] = self._face(given["to"], "to", 500)
            given["face"].visible = False
        words = given.pop("words")
        to = inputs.checked(given["to"], self.alerts["to"], self.info, self.runs)
        self.controls |= {name: one for name, one in given.items() if name != "face"} | {"to": to}

        def visible(make: str) -> list[Any]:
            names = settings.wanted(make)
            names |= {"face"} if "to" in names else set()
            alert = gr.skip() if "to" in names else gr.update(visible=False)
            return [*(gr.update(visible=name in names) for name in given), MAKES[make].words, alert]

        given["make"].change(visible, given["make"], [*given.values(), words, self.alerts["to"]], **AT_ONCE)

    def _listen(self, generate: Any, every: Any) -> None:
        """Let the button make pictures, and so does every change that needs no more than itself."""
        controls = self.controls
        triggers = [generate.click, controls["make"].change, controls["animate"].change, controls["named"].input]
        triggers += [controls[name].input for name in ("replaced", "by")]
        triggers += [one.input for one in controls.values() if isinstance(one, gr.Slider)]
        triggers += [controls[name].change for name in ("align", "paste_back", "mask") if name in controls]
        if "faces" in controls:
            triggers.append(controls["faces"].change)
        triggers += [one.change for one in controls.values() if isinstance(one, gr.State)]  # pictures that are usable
        self._make_after(gr.on, triggers)
        if self.samples is not None:
            outputs = [self.own, *([controls["align"]] if "align" in controls else [])]
            shown = self.samples.click(self._example, self.samples, outputs, **ONE_AT_A_TIME)
            self.brought += [shown] if self.info.input != "rgb" else []
        for event in self.brought:
            self._make_after(event.success)
        generate.click(None, js=_SHOW_RESULT)
        outputs = self.outputs.all()
        asked = every.click(self._ask, None, [self.ticket, *outputs], **AT_ONCE)
        asked.then(self._make_all, {self.ticket, self.batch, *controls.values()}, outputs, **self._progress())

    def _make_after(self, listen: Callable[..., Any], *triggers: Any) -> None:
        """Clear the old pictures at once, then make new ones."""
        outputs = self.outputs.all()
        asked = listen(*triggers, fn=self._ask, inputs=None, outputs=[self.ticket, *outputs], **AT_ONCE)
        asked.then(self._make, {self.ticket, *self.controls.values()}, outputs, **self._progress())

    def _progress(self) -> dict[str, Any]:
        # "once", the default, would drop what is asked for while the run that it replaces is ending.
        return {**ONE_AT_A_TIME, "show_progress_on": self.outputs.status, "trigger_mode": "multiple"}

    def _ask(self, request: gr.Request) -> list[Any]:
        """Clear what is old, at once; whatever was being made in this tab is no longer wanted."""
        number = self.watches.new(str(request.session_hash), str(self.engine))
        return [str(number), *self.outputs.cleared(waiting=True)]

    def _cancel(self, request: gr.Request) -> list[Any]:
        self.watches.last(str(request.session_hash), str(self.engine)).end()
        return self.outputs.cleared("Cancelled.")

    def _make(self, given: dict[Any, Any], request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:
        return self._attempt(self._values(given), request, progress)

    def _make_all(self, given: dict[Any, Any], request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:
        files = given[self.batch] or []
        if len(files) > MOST_FILES:
            return self.outputs.failed(f"{len(files)} pictures: expected at most {MOST_FILES}", "settings")
        return self._attempt(self._values(given) | {"picture": files, "animate": False}, request, progress)

    def _values(self, given: dict[Any, Any]) -> dict[str, Any]:
        """Name what the page holds; the other picture serves for two verbs."""
        values = {name: given[component] for name, component in self.controls.items()}
        return values | {"style_of": values["to"], "ticket": given[self.ticket]}

    def _attempt(self, values: dict[str, Any], request: gr.Request, progress: Any) -> list[Any]:
        """Make what the values say, unless something newer was asked for since."""
        watch = self.watches.last(str(request.session_hash), str(self.engine))
        if values.pop("ticket") != str(watch.number) or not watch.begin(_told(progress)):
            return [gr.skip()] * len(self.outputs.all())
        try:
            return self._made(values, watch)
        except Cancelled:
            replaced = [gr.skip()] * len(self.outputs.all())
            return replaced if watch.replaced else self.outputs.cleared("Cancelled.")
        except PspError as mistake:
            return self.outputs.failed(self.runs.worded(mistake), place_of(mistake, values))

    def _made(self, values: dict[str, Any], watch: Watch) -> list[Any]:
        watch.step("Reading the picture")
        several = isinstance(values["picture"], list)
        if isinstance(values["picture"], dict):
            values["picture"] = self.runs.save_drawing(values["picture"]["composite"], self.info.input)
        if values["make"] == "Edit":
            self.runs.pipeline(self.engine, watch)  # directions of the generator need its file
            values["direction"], values["component"] = (
                (values["own"], None) if values["own"] else self.runs.direction(self.engine, values["named"])
            )
        if missing := obstacle(values):
            return self.outputs.cleared(missing)
        shown = self.runs.run(self.engine, values, watch)
        return self.outputs.shown(shown, None if several else str(values["picture"]))

    def _next_face(self, seed: int, progress: Any = gr.Progress()) -> tuple[int, Any, Any]:
        watch = Watch()
        watch.begin(_told(progress))
        try:
            face = str(self.runs.random_face(self.engine, seed, watch))
        except PspError as mistake:
            return seed, gr.skip(), gr.update(value=self.runs.worded(mistake), visible=True)
        return seed + 1, self._value(face), gr.update(visible=False)

    def _opened(self, file: str) -> tuple[Any, Any]:
        try:
            return self._value(file), gr.update(visible=False)
        except PspError as mistake:
            return gr.skip(), gr.update(value=self.runs.worded(mistake), visible=True)

    def _value(self, file: str) -> Any:
        return inputs.from_file(file, self.info.input, self.info.input_size, self.info.classes)

    def _example(self, number: int) -> Any:
        """Give an example as if the visitor had brought it: a copy of his own."""
        example = examples(self.info)[number]
        if self.info.input == "sketch":
            return inputs.sketch_file(example, self.info.input_size)
        if self.info.input == "labels":
            return self._value(example)
        copied = shutil.copy(example, self.runs.new_folder())
        return [str(copied), is_photo(example)] if "align" in self.controls else str(copied)


def _told(progress: Any) -> Callable[[str, int | None, int | None], object]:
    """Show the steps of a run as Gradio does."""
    return lambda words, done, total: progress(
        (done, total) if done is not None and total else 0, desc=words, unit="steps"
    )
