"""Whole photos on the page: their faces are found and shown, one is chosen, and what is made is put back."""

import importlib
from typing import Any

from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.ui import inputs
from psp_runtime.ui.outputs import AT_ONCE, ONE_AT_A_TIME
from psp_runtime.ui.runs import Runs

gr: Any = importlib.import_module("gradio")


class Photo:
    """The controls that ask whether a picture is a whole photo, which of its faces is meant, and if it is put back.

    `picture` has the path of the picture, `alert` is where it is said that a photo shows no face.
    """

    def __init__(self, picture: Any, alert: Any, info: EngineInfo, runs: Runs) -> None:
        self.info, self.runs = info, runs
        align = gr.Checkbox(False, label="A whole photo: find the faces")
        found = gr.Gallery(
            label="Faces found", show_label=False, columns=4, height=150, visible=False, buttons=[], interactive=False,
            allow_preview=False,
        )  # fmt: skip
        faces = gr.Radio(
            inputs.face_names(1), value=inputs.LARGEST, label="Which face: click it, or its name", visible=False
        )
        self.controls = {"align": align, "faces": faces}
        if info.task != "frontalization":
            self.controls["paste_back"] = gr.Checkbox(True, label="Put it back into the photo", visible=False)
        seen = gr.State(None)
        gr.on(
            [align.change, picture.change], self._offer, [picture, align, seen],
            [seen, found, *list(self.controls.values())[1:], alert], **ONE_AT_A_TIME,
        )  # fmt: skip
        found.select(_chosen, None, faces, **AT_ONCE)

    def _offer(self, picture: str | None, align: bool, seen: tuple[str, bool] | None) -> list[Any]:
        """Show the faces of a photo, where there is more than one; once, so that a choice among them stays."""
        back = len(self.controls) - 2
        if (str(picture), align) == seen:
            return [gr.skip()] * (4 + back)
        try:
            faces = self.runs.faces(picture, self.info) if picture and align else []
        except PspError as mistake:
            nothing = [gr.update(visible=False)] * (2 + back)
            return [(str(picture), align), *nothing, gr.update(value=self.runs.worded(mistake), visible=True)]
        several = len(faces) > 1
        gallery = gr.update(value=inputs.face_gallery(faces), visible=several)
        choices = gr.update(choices=inputs.face_names(len(faces)), value=inputs.LARGEST, visible=several)
        alert = gr.update(visible=False) if faces else gr.update()
        return [(str(picture), align), gallery, choices, *[gr.update(visible=align)] * back, alert]


def _chosen(event: gr.SelectData) -> str:
    number = int(event.index)
    return inputs.face_names(number + 1)[number]
