"""What a training run was asked for, and how that is stored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from psp_runtime.errors import PspError
from psp_train.drawn.dataset import FACES
from psp_train.recipes import Recipe

Precision = Literal["none", "bf16", "fp16"]


@dataclass(frozen=True)
class Settings:
    """One training: its recipe, its files, and how it runs. Stored as run.json.

    `data`, `target`, `masks`: folders of sources, their faces, label maps of those. `generator`: StyleGAN2 `.pt`.
    `weights`: folder of published networks. `init`: a pSp checkpoint whose encoder to continue. `demo`: the bundled
    generator on `faces` drawn faces. `held_out` samples are for validation.
    """

    recipe: Recipe
    out: Path
    data: Path | None = None
    target: Path | None = None
    masks: Path | None = None
    generator: Path | None = None
    weights: Path | None = None
    init: Path | None = None
    demo: bool = False
    faces: int = FACES
    held_out: int = 100
    amp: Precision = "none"
    compile: bool = False
    workers: int = 2
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 1000

    def to_json(self) -> dict[str, Any]:
        """Give plain values for run.json; paths are absolute, as a run may be resumed from anywhere."""
        paths = {key: str(value.resolve()) for key, value in asdict(self).items() if isinstance(value, Path)}
        return asdict(self) | paths | {"recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """Read what `to_json` gave. Raises `PspError` for values of another version."""
        values = {"faces": FACES} | dict(values)  # earlier runs drew them all
        named = {field.name: field.type for field in fields(cls)}
        if set(values) != set(named):
            differing = ", ".join(sorted(set(values) ^ set(named)))
            raise PspError(f"run.json was written by another version: it differs in {differing}")
        paths = {key: Path(values[key]) for key, kind in named.items() if "Path" in str(kind) and values[key]}
        return cls(**{**values, **paths, "recipe": Recipe.from_json(values["recipe"])})
