"""What the verbs of `psp` are asked for: each option once, on a field of a dataclass.

`Options` has what every run needs; the groups below it offer what some verbs share. A field is an option of a verb
where its type is annotated with one, so a verb has only the options that mean something to it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from psp_runtime.alignment.pasting import MASKS, Mask
from psp_runtime.alignment.photos import Choice
from psp_runtime.arrays.files import ENDINGS
from psp_runtime.console import INPUT, MAKE, SAVE, WHERE, Device, Talk, option
from psp_runtime.engines.precision import Precision
from psp_runtime.pictures import png
from psp_runtime.pictures.encoding import FORMATS
from psp_runtime.prefetch import MOST_THREADS, THREADS
from psp_runtime.run.values import parse_faces
from psp_runtime.tasks import MOST_ITERATIONS

#: Of --size: two such pictures side by side are as wide as a WebP can be, 16383.
MOST_PIXELS = 8191
#: Of --batch: no engine takes so many.
MOST_BATCH = 10_000
Format = Literal["png", "jpg", "webp", "auto"]


def inputs_of(help: str) -> Any:
    """Describe the argument of a verb that may be given any number of times."""
    return typer.Argument(metavar="INPUTS", help=help, show_default=False, rich_help_panel=INPUT)


@dataclass(frozen=True, kw_only=True)
class Options(Talk):
    """One run: its inputs, the engine, what is saved, and where it runs. None and False are not given.

    The fields without an option are those of groups: only verbs that have the group can be given them.
    """

    #: The verb, what its inputs may be, and the task of its engines where it is for one task only.
    verb: ClassVar[str] = ""
    pictures: ClassVar[bool] = True
    stored: ClassVar[bool] = False
    task: ClassVar[str] = ""

    inputs: Annotated[list[str], inputs_of("Pictures, and folders of them (sub-folders too).")] = field(
        default_factory=list
    )
    engine: Annotated[
        Path, option(INPUT, "The engine to run: .onnx or .trt.", "--engine", "-e", show_default=False)
    ] = Path()
    url: Annotated[
        str | None, option(INPUT, "Instead of --engine: one that psp serve runs.", metavar="http://HOST:PORT")
    ] = None
    out: Annotated[str | None, option(SAVE, "The name of a single output, or a folder (here).", "--out", "-o")] = None
    format: Annotated[Format | None, option(SAVE, "Of outputs that --out does not name (png); auto: as the input.")] = (
        None
    )
    quality: Annotated[int | None, option(SAVE, "Of JPEG and WebP (95).", min=1, max=100)] = None
    compression: Annotated[
        int | None, option(SAVE, "Of PNG: 0 (none), 1 (quick) to 9 (1).", min=png.LEVELS[0], max=png.LEVELS[-1])
    ] = None
    size: Annotated[
        int | None, option(SAVE, "Width; of whole photos the longer side, at most.", min=1, max=MOST_PIXELS)
    ] = None
    device: Annotated[
        Device, option(WHERE, "Default: the GPU if the engine can use it, else the CPU.", show_default=False)
    ] = "auto"
    precision: Annotated[
        Precision,
        option(WHERE, "On a CPU: fp32, bf16, int8 (auto: as the engine).", metavar="PRECISION", show_default=False),
    ] = "auto"
    batch: Annotated[
        int | None, option(WHERE, "Pictures at a time (GPU: the most, CPU: 1).", min=1, max=MOST_BATCH)
    ] = None
    threads: Annotated[
        int | None, option(WHERE, f"Threads that read, as many that write ({THREADS}).", min=1, max=MOST_THREADS)
    ] = None

    verbose: Annotated[bool, option(WHERE, "Name every file; show what is behind an error.", "--verbose", "-v")] = False

    downsample: int | None = None
    mask: str | None = None
    sketch_from_photo: bool = False
    align: bool = False
    faces: str | None = None
    paste_back: Mask | None = None
    save_aligned: str | None = None
    couple: bool = False
    grid: Path | None = None
    gif: Path | None = None
    webp: Path | None = None
    save_latents: str | None = None
    iterations: int | None = None
    first: Path | None = None
    ray: str | None = None
    actors: int | None = None

    def given(self, names: Iterable[str]) -> list[str]:
        """List which of these options are given; a verb need not have them all."""
        return [name for name in names if not _is_absent(getattr(self, name, None))]

    @property
    def pool(self) -> int:
        """Threads that read pictures, and as many that write."""
        return self.threads or THREADS

    @property
    def changed(self) -> bool:
        """Whether the inputs are changed before they are translated."""
        return bool(self.given(CHANGES))

    @property
    def which(self) -> Choice | None:
        """The faces of a photo that are wanted; None where it is not said."""
        return None if self.faces is None else parse_faces(self.faces)

    @property
    def several(self) -> bool:
        """Whether a photo may give several faces, whose files are numbered."""
        return not (self.which or Choice()).single

    def suffix(self, source: Path) -> str:
        """Say what the name of the output of a picture ends in, such as ".png": whole photos keep their format."""
        if self.format not in (None, "auto"):
            return f".{self.format}"
        keep = self.format == "auto" or self.paste_back
        return source.suffix if keep and source.suffix.lower() in FORMATS else ".png"

    @property
    def singles(self) -> bool:
        """Whether every picture gets its own file: not where a sheet or an animation is all that is asked for."""
        return self.out is not None or not self.given(SHARED)


def _is_absent(value: object) -> bool:
    return value is None or value is False or value == [] or value == Path()  # 0 is a value


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What some tasks change in a good picture before it is translated."""

    downsample: Annotated[int | None, option(INPUT, "Super-resolution: shrink good pictures by this.")] = None
    mask: Annotated[str | None, option(INPUT, "Inpainting: hide the `triangle`, or what MASK.png has white.")] = None
    sketch_from_photo: Annotated[bool, option(INPUT, "Sketch: draw photos in pencil.", "--sketch-from-photo")] = False


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Whole photos instead of aligned crops: their faces are found, and may be put back."""

    align: Annotated[bool, option(INPUT, "Whole photos: find the face and cut it out.", "--align")] = False
    faces: Annotated[str | None, option(INPUT, "--align: largest, all, 3 (so many) or 2nd (that one).")] = None
    paste_back: Annotated[
        Mask | None, option(SAVE, "--align: whole photos, with the face made anew.", metavar=f"[{'|'.join(MASKS)}]")
    ] = None
    save_aligned: Annotated[str | None, option(SAVE, "--align: the crops, as PNG files.", metavar="FOLDER")] = None


@dataclass(frozen=True, kw_only=True)
class Storable:
    """Inputs that may be saved latents as well as pictures."""

    stored: ClassVar[bool] = True

    inputs: Annotated[list[str], inputs_of("Pictures, folders of them, or saved latents (.npy, .npz, .pt).")] = field(
        default_factory=list
    )


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """Pictures beside their inputs."""

    couple: Annotated[bool, option(SAVE, "Input and output in one.", "--couple")] = False
    grid: Annotated[Path | None, option(SAVE, "A contact sheet of everything.", metavar="PICTURE")] = None


@dataclass(frozen=True, kw_only=True)
class Animations:
    """The pictures of one input as a film."""

    gif: Annotated[Path | None, option(SAVE, "An animation.", metavar="NAME.gif")] = None
    webp: Annotated[Path | None, option(SAVE, "The same as WebP.", metavar="NAME.webp")] = None


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Where in W+ something is put, and how much of it."""

    layers: Annotated[str | None, option(MAKE, "Which: 8-13, 4,6 or 8- (those of the task).", metavar="LAYERS")] = None
    alpha: Annotated[float | None, option(MAKE, "How much, 0 to 1 (as the task does).")] = None


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How often a ReStyle engine corrects its picture."""

    iterations: Annotated[
        int | None, option(MAKE, "ReStyle: steps (as the engine says: 5).", min=1, max=MOST_ITERATIONS)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Folders dealt out to many machines."""

    ray: Annotated[
        str | None,
        option(WHERE, "Deal folders out to a Ray cluster, or this machine.", metavar="[ADDRESS]"),
    ] = None
    actors: Annotated[int | None, option(WHERE, "--ray: workers (one per GPU, or per machine without).", min=1)] = None


#: What changes inputs, and the tasks it is for; what shows many pictures in one file.
CHANGES = {"downsample": "super_resolution", "mask": "inpainting", "sketch_from_photo": "sketch"}
SHARED = ("grid", "gif", "webp")


def is_stored(name: str) -> bool:
    """Tell whether an input is a file of saved latents."""
    return name.lower().endswith(ENDINGS)


def flag(name: str) -> str:
    """Spell the option of a field, as on the command line."""
    return "pictures" if name == "inputs" else f"--{name.replace('_', '-')}"
