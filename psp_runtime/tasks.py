"""What each task of the paper eats, and which style layers it mixes.

Training, export and run time share this table, so all three see the same pixels.
"""

from dataclasses import dataclass
from typing import Literal

from psp_runtime.errors import PspError

InputKind = Literal["rgb", "sketch", "labels"]

#: Channels the encoder sees per input kind; label maps arrive as class ids and become one-hot in the graph.
CHANNELS: dict[InputKind, int] = {"rgb": 3, "sketch": 1, "labels": 19}

#: Every task of the paper works on 256x256 inputs (section 4); all inputs are as wide.
INPUT_SIZE = 256
#: How often a ReStyle encoder corrects its codes (Alaluf et al. 2021, section 4), unless a run is told otherwise.
ITERATIONS = 5
#: More steps than this bring nothing.
MOST_ITERATIONS = 20


@dataclass(frozen=True)
class Task:
    """One image-to-image translation task.

    `reference` is the name published checkpoints carry in `opts["dataset_type"]` (None: trained like inversion,
    under its name or one of its own). `mix_from`, `mix_to` bound the zero-based W+ layers that multi-modal
    synthesis replaces, `mix_alpha` how much of them (paper, section 4.3 and appendix B). `input_height` is that of
    its pictures, INPUT_SIZE wide; what a generator, whose pictures are square, makes beside their shape is cut off.
    """

    name: str
    summary: str
    reference: str | None = None
    input: InputKind = "rgb"
    mix_from: int = 8
    mix_to: int | None = None
    mix_alpha: float = 1.0
    input_height: int = INPUT_SIZE

    @property
    def channels(self) -> int:
        """Input channels of the encoder."""
        return CHANNELS[self.input]

    def mix_layers(self, styles: int) -> tuple[int, ...]:
        """List the layers mixed by default in an engine with `styles` (L) style vectors."""
        return tuple(range(styles))[self.mix_from : self.mix_to]

    def rows(self, size: int) -> tuple[int, int] | None:
        """Return the rows kept of a square picture of `size` pixels, such as (64, 448) of 512 for cars; None is all."""
        margin = size * (INPUT_SIZE - self.input_height) // (2 * INPUT_SIZE)
        return (margin, size - margin) if margin else None


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("inversion", "a face into W+ and back", "ffhq_encode"),
        Task("frontalization", "a face turned to the camera", "ffhq_frontalize"),
        Task("sketch", "a face from a sketch", "celebs_sketch_to_face", input="sketch"),
        Task("segmentation", "a face from a label map", "celebs_seg_to_face", input="labels"),
        Task(
            "super_resolution",
            "a face from a small picture of it",
            "celebs_super_resolution",
            mix_from=4,
            mix_to=8,
            mix_alpha=0.5,
        ),
        Task("inpainting", "a face from a picture with a part missing"),
        Task("toonify", "a face in the style of another generator"),
        # e4e and ReStyle, configs/transforms_config.py; the rows they keep: scripts/inference.py.
        Task("cars", "a car into W+ and back", "cars_encode", input_height=192),
    )
}


def get_task(name: str) -> Task:
    """Find the task of that name; `PspError` names the known ones."""
    try:
        return TASKS[name]
    except KeyError:
        raise PspError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}") from None
