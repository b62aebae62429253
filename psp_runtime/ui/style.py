"""How the page looks: what Gradio leaves open, in light and dark, on wide screens and on phones."""

import importlib
from typing import Any

from psp_runtime.ui.canvas import brush_colours

#: Widths from which a page is that of a phone.
_PHONE = "@media (max-width: 640px)"

_PLAIN = """
.canvas canvas { image-rendering: pixelated }
.made .grid-wrap { max-height: none !important }  /* else Gradio cuts tall pictures off, and long strips */
footer { display: none !important }
.intro p { margin: 0.2em 0 }
.block.wrong { border-left: 4px solid #dc2626; border-radius: 4px; padding: 0.5em 0.8em !important;
  background: #dc262618 !important }
.block.wrong p::before { content: "⚠ "; color: #dc2626 }
.status { min-height: 4.5em }
.palette .wrap { gap: 0.3em }
.palette label { padding: 0.15em 0.5em !important }
.palette label input { border-radius: 3px !important; border-color: var(--border-color-primary) !important }
.palette label.selected { outline: 2px solid var(--color-accent) }
.examples img { object-fit: cover }
.gradio-container { overflow: clip !important }  /* hidden, it would keep the next one from sticking */
.generate { position: sticky; bottom: 0; z-index: 50; padding: 0.5em 0; background: var(--body-background-fill) }
"""

_ON_PHONES = """
  .generate { position: fixed; bottom: 0; left: 0; right: 0; padding: 0.5em 0.6em;
    background: var(--body-background-fill); border-top: 1px solid var(--border-color-primary) }
  .given { max-height: 300px }
  .results { min-height: 90vh }
  .overflow-menu > button::before { content: "All tasks "; font-size: 0.9em }
  .gradio-container main { padding: 0.6em 0.6em 5em !important }
"""


def theme() -> Any:
    """Make Gradio's own theme, but with a bold font that has letters: in 6.31 its half-bold one has hardly any."""
    themes = importlib.import_module("gradio").themes
    return themes.Default(font=[themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"])


def css() -> str:
    """Write the style sheet: the swatch of each class is its radio button."""
    swatches = (
        f".palette label:nth-of-type({number}) input {{ background: {colour} !important }}"
        for number, colour in enumerate(brush_colours(), start=1)
    )
    return f"{_PLAIN}{_PHONE} {{{_ON_PHONES}}}\n" + "\n".join(swatches)
