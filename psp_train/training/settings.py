"""What a training run was asked for, and how that is stored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from psp_runtime.console import HOW, INPUT, SAVE, WHERE, option
from psp_runtime.errors import PspError
from psp_train.drawn.dataset import FACES
from psp_train.recipes import Recipe

Precision = Literal["none", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The files of a training and how it runs: options of `psp-train` that are stored as they are given.

    `data`, `target`, `masks`: folders of sources, their faces, label maps of those. `generator`: StyleGAN2 `.pt` or
    `.pkl`, of the class `class_index` where it has classes. `weights`: folder of published networks. `init`: a pSp
    checkpoint whose encoder to continue. `demo`: the bundled generator on drawn faces. `held_out` samples are for
    validation.
    """

    data: Annotated[Path | None, option(INPUT, "Folder of input pictures. With --demo: where to draw faces.")] = None
    target: Annotated[Path | None, option(INPUT, "Folder of the inputs' faces, paired by name.")] = None
    masks: Annotated[Path | None, option(INPUT, "Folder of the faces' label maps, for --set mask=labels.")] = None
    generator: Annotated[Path | None, option(INPUT, "StyleGAN2 (.pt, NVIDIA's .pkl) to train an encoder for.")] = None
    class_index: Annotated[
        int | None, option(INPUT, "Which class of a conditional --generator.", "--class", min=0, metavar="NUMBER")
    ] = None
    weights: Annotated[Path | None, option(INPUT, "Folder of the published networks that losses need.")] = None
    init: Annotated[Path | None, option(INPUT, "pSp checkpoint (.pt) whose encoder to start from.")] = None
    demo: Annotated[bool, option(INPUT, "Train on drawn faces: no data, no downloads.", "--demo")] = False
    held_out: Annotated[int, option(HOW, "Samples kept for validation.", min=1)] = 100
    amp: Annotated[Precision, option(HOW, "Mixed precision.")] = "none"
    compile: Annotated[bool, option(WHERE, "Compile the networks with torch.compile.", "--compile")] = False
    workers: Annotated[int, option(WHERE, "Processes that read pictures.", min=0)] = 2
    log_every: Annotated[int, option(SAVE, "Steps between lines of metrics.jsonl.", min=1)] = 50
    validate_every: Annotated[int, option(SAVE, "Steps between validations.", min=1)] = 1000
    save_every: Annotated[int, option(SAVE, "Steps between checkpoints.", min=1)] = 1000


@dataclass(frozen=True)
class Settings(Setup):
    """One training: its recipe, its files, and how it runs; of a demo, how many faces are drawn. Stored as run.json."""

    recipe: Recipe
    out: Path
    faces: int = FACES

    def to_json(self) -> dict[str, Any]:
        """Give plain values for run.json; paths are absolute, as a run may be resumed from anywhere."""
        paths = {key: str(value.resolve()) for key, value in asdict(self).items() if isinstance(value, Path)}
        return asdict(self) | paths | {"recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """Read what `to_json` gave. Raises `PspError` for values of another version."""
        values = {"faces": FACES, "class_index": None} | dict(values)  # earlier runs drew all, and knew no classes
        named = get_type_hints(cls)
        if set(values) != set(named):
            differing = ", ".join(sorted(set(values) ^ set(named)))
            raise PspError(f"run.json was written by another version: it differs in {differing}")
        paths = {key: Path(values[key]) for key, kind in named.items() if "Path" in str(kind) and values[key]}
        return cls(**{**values, **paths, "recipe": Recipe.from_json(values["recipe"])})
