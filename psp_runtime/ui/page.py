"""The page of `psp-ui`: what it is, one tab for each engine, and where to read more, in Gradio."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psp_runtime.engines.info import EngineInfo
from psp_runtime.ui.runs import Runs
from psp_runtime.ui.tab import Tab
from psp_runtime.ui.watch import Watches

# Only the extra `ui` has it; `cli` says so where it is missing.
gr: Any = importlib.import_module("gradio")

#: So many runs may wait.
WAITING = 16
#: Gradio's own copies of uploads and of what was made: looked for every hour, deleted after a day, in seconds.
DELETE_CACHE = (3600, 24 * 3600)

_PUBLISHED = "https://github.com/eladrich/pixel2style2pixel#pretrained-models"
_PAPER = "https://arxiv.org/abs/2008.00951"

HEAD = """# pixel2style2pixel
Turn photos, sketches and label maps into faces, and vary, mix and edit them. Choose a task, give it a picture or \
click an example, and press **Generate**."""
CARTOONS = f"""The bundled models are small ones that draw **cartoon faces**. For real faces, download \
[published weights]({_PUBLISHED}), then `psp export --checkpoint psp_ffhq_encode.pt --fp16 --output ffhq` and \
`psp ui --engine ffhq.onnx`."""
ABOUT = f"""* Every result comes with the `psp` command that makes the same files; `psp --help` lists all verbs.
* The manual is `docs/README.md` of the toolkit's source, this page is in `docs/ui.md`, all options in \
`docs/reference/commands.md`.
* The method: Richardson et al., [Encoding in Style]({_PAPER}), CVPR 2021, and its \
[published code and weights]({_PUBLISHED}).
* Pictures stay on the machine that runs this page, and are deleted when it ends.
* Licence: the toolkit is [MIT](https://opensource.org/license/mit), the face finder Apache 2.0."""


def make_page(engines: list[Path], runs: Runs) -> Any:
    """Make a `gradio.Blocks` with a tab for each engine file.

    Raises `EngineError` for a file that is no engine, or only a part of one.
    """
    infos = {engine: runs.info(engine) for engine in engines}
    watches = Watches()
    with gr.Blocks(title="pixel2style2pixel", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        gr.Markdown(HEAD, elem_classes="intro")
        if runs.demo:
            gr.Markdown(CARTOONS, elem_classes="intro")
        for engine, info in infos.items():
            with gr.Tab(_title(engine, info)), gr.Row():
                Tab(engine, runs, watches)
        with gr.Accordion("About, sources and licences", open=False):
            gr.Markdown("\n".join([ABOUT, *sorted({f"* {_licence(info)}" for info in infos.values()})]))
        page.unload(_forget(watches))
    return page.queue(max_size=WAITING, api_open=False)


def _forget(watches: Watches) -> Callable[[Any], None]:
    """End what a visitor waits for when he leaves."""

    def forget(request: gr.Request) -> None:
        watches.forget(str(request.session_hash))

    return forget


def _title(engine: Path, info: EngineInfo) -> str:
    task = info.task.replace("_", " ")
    return task if engine.stem == info.task else f"{engine.stem} ({task})"


def _licence(info: EngineInfo) -> str:
    return info.license if info.license.startswith("Weights") else f"Weights: {info.license}"
