"""Where the page shows results, and what goes wrong: beside what caused it; and how Gradio calls for them."""

import importlib
from typing import Any

from psp_runtime.errors import PictureError, PspError
from psp_runtime.ui.results import Shown

gr: Any = importlib.import_module("gradio")

#: What is done with an engine happens one at a time.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "engine", "concurrency_limit": 1, "api_visibility": "private"}
#: A look at a picture that was just given waits for other pictures, not for engines.
LOOKED_AT: dict[str, Any] = {"concurrency_id": "pictures", "concurrency_limit": 1, "api_visibility": "private"}
#: What only changes the page waits for nobody.
AT_ONCE: dict[str, Any] = {
    "queue": False,
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}
#: Where errors stand: below the picture, below the other picture, above the button.
PLACES = ("picture", "to", "settings")


def wrong() -> Any:
    """Make a place for an error, out of sight while there is none."""
    return gr.Markdown(visible=False, elem_classes="wrong", container=False)


def place_of(mistake: PspError, values: dict[str, Any]) -> str:
    """Say which of PLACES caused a mistake: messages about pictures name their files."""
    if not isinstance(mistake, PictureError):
        return "settings"
    other = str(values.get("to") or "").rpartition("/")[2]
    return "to" if other and other in str(mistake) else "picture"


class Outputs:
    """The components of results, in the order in which `cleared`, `shown` and `failed` give their values."""

    def __init__(self, alerts: dict[str, Any], cancel: Any) -> None:
        self.status = gr.Markdown("", elem_classes="status", min_height=70)
        self.compared = gr.ImageSlider(
            label="Before and after: move the line", type="filepath", interactive=False, visible=False, max_height=640,
            elem_classes="compared",
        )  # fmt: skip
        self.pictures = gr.Gallery(
            label="Result", columns=3, object_fit="contain", interactive=False, elem_classes="made",
            buttons=["download", "download_all", "fullscreen"],
        )  # fmt: skip
        with gr.Row():
            self.result = gr.DownloadButton("Download result", visible=False, size="sm")
            self.source = gr.DownloadButton("Download input", visible=False, size="sm")
            self.animation = gr.DownloadButton("Download GIF", visible=False, size="sm")
            self.files = gr.DownloadButton("Download all (ZIP)", visible=False, size="sm")
        self.command = gr.Textbox(label="The same from a shell", max_lines=6, buttons=["copy"], visible=False)
        self.alerts, self.cancel = alerts, cancel

    def all(self) -> list[Any]:
        """List the components."""
        downloads = [self.result, self.source, self.animation, self.files]
        return [
            self.status, self.compared, self.pictures, self.command, *downloads, *self.alerts.values(), self.cancel
        ]  # fmt: skip

    def cleared(self, words: str = "", waiting: bool = False) -> list[Any]:
        """Take everything old off the page; `waiting` for what comes. What is wrong with a picture stays beside it."""
        status, none = gr.update(value=words), gr.update(visible=False)
        pictures = [gr.update(value=None, visible=False), gr.update(value=None, visible=True)]
        alerts = [gr.update() if place != "settings" else gr.update(value="", visible=False) for place in PLACES]
        command = gr.update(value="", visible=False)
        return [status, *pictures, command, none, none, none, none, *alerts, gr.update(visible=waiting)]

    def failed(self, words: str, place: str) -> list[Any]:
        """Show what is wrong beside what caused it."""
        found = self.cleared()
        found[self.all().index(self.alerts[place])] = gr.update(value=words, visible=True)
        return found

    def shown(self, shown: Shown, source: str | None) -> list[Any]:
        """Show a result: two pictures before and after in one, several in a gallery."""
        warnings = "".join(f"\n\n⚠ {words}" for words in shown.warnings)
        one = len(shown.pictures) == 1 or shown.compared is not None
        return [
            gr.update(value=shown.timing + warnings),
            gr.update(value=shown.compared, visible=shown.compared is not None),
            gr.update(value=shown.pictures, visible=shown.compared is None),
            gr.update(value=shown.command, visible=True),
            _file("Download result", shown.pictures[-1][0] if one else None),
            _file("Download input", source), _file("Download GIF", shown.animation),
            _file("Download all (ZIP)", shown.files),
            *[gr.update(value="", visible=False)] * len(PLACES), gr.update(visible=False),
        ]  # fmt: skip


def _file(label: str, path: str | None) -> Any:
    return gr.update(label=label, value=path, visible=path is not None)
