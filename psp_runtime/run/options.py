"""What `psp-run` was asked for: its options, which of them go together, and how their values are written."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from psp_runtime.engines.info import EngineInfo
from psp_runtime.errors import PspError
from psp_runtime.pictures import png
from psp_runtime.pictures.sheets import check_animation
from psp_runtime.prefetch import THREADS


@dataclass(frozen=True)
class Options:
    """The options of one run by their names on the command line; None and False are not given."""

    inputs: tuple[Path, ...] = ()
    engine: Path = Path()
    url: str | None = None
    latents: Path | None = None
    # changes of the input
    downsample: int | None = None
    mask: str | None = None
    sketch_from_photo: bool = False
    # what is made of each input
    mix: int | None = None
    seed: int | None = None
    psi: float | None = None
    to: Path | None = None
    steps: int | None = None
    style_of: Path | None = None
    edit: Path | None = None
    strength: str | None = None
    swap: str | None = None
    find_direction: Path | None = None
    mix_layers: str | None = None
    mix_alpha: float | None = None
    # outputs
    out: str | None = None
    format: str | None = None
    quality: int | None = None
    compression: int | None = None
    couple: bool = False
    grid: Path | None = None
    gif: Path | None = None
    webp: Path | None = None
    size: int | None = None
    save_latents: str | None = None
    # how it runs
    device: str = "auto"
    batch: int | None = None
    threads: int = THREADS
    ray: str | None = None
    actors: int | None = None

    def given(self, names: Iterable[str]) -> list[str]:
        """Which of these options are on the command line."""
        return [name for name in names if not _is_absent(getattr(self, name))]

    @property
    def changed(self) -> bool:
        """Whether the inputs are changed before they are translated."""
        return bool(self.given(("downsample", "mask", "sketch_from_photo")))

    @property
    def singles(self) -> bool:
        """Whether every picture gets its own file: not where a sheet or an animation is all that is asked for."""
        return self.out is not None or not self.given(("grid", "gif", "webp"))


def _is_absent(value: object) -> bool:
    return value is None or value is False or value == ()  # 0 is a value


#: The value of --ray without an address.
LOCAL_RAY = "local"
#: Pictures made of one input at most: they are in memory together.
MOST = 1000
#: What can be made of an input: one of these.
APPLICATIONS = ("mix", "to", "style_of", "edit", "swap", "find_direction")
#: Options that mean something only with one of others.
GO_WITH = {
    "seed": ("mix",),
    "psi": ("mix",),
    "steps": ("to",),
    "strength": ("edit",),
    "mix_layers": ("mix", "style_of", "edit"),
    "mix_alpha": ("mix", "style_of", "edit"),
    "gif": ("to", "edit"),
    "webp": ("to", "edit"),
    "actors": ("ray",),
}
_LEARNING = ("find_direction", "engine", "latents", "out", "device", "batch", "threads")
#: Options that leave others no meaning, and why.
RULE_OUT = {
    "url": (("ray", "find_direction"), "the server runs the engine, there is no file of it here"),
    "latents": (
        ("inputs", "couple", "downsample", "mask", "sketch_from_photo", "swap", "save_latents"),
        "stored latents are decoded, there are no pictures to read",
    ),
    "save_latents": (APPLICATIONS, "the latents of translated pictures are saved"),
    "find_direction": (
        tuple(f.name for f in fields(Options) if f.name not in _LEARNING),
        "it learns from the pictures and labels of its table",
    ),
    "ray": (
        ("latents", "save_latents", "grid", "gif", "webp", "find_direction"),
        "pictures are dealt out to many machines, each makes files of its own",
    ),
}
#: Values from and to.
LEVELS = {"quality": range(1, 101), "compression": png.LEVELS, "mix": range(1, MOST + 1), "steps": range(2, MOST + 1)}
#: The task an option belongs to.
TASKS = {
    "downsample": "super_resolution",
    "mask": "inpainting",
    "sketch_from_photo": "sketch",
    "swap": "segmentation",
}


def check(options: Options, info: EngineInfo) -> None:
    """Raise `PspError` for options that contradict each other or the task of the engine."""
    applications = options.given(APPLICATIONS)
    if len(applications) > 1:
        first, second = map(flag, applications[:2])
        raise PspError(f"{first} and {second} are different things to make of an input: give one of them")
    for name in options.given(GO_WITH):
        if not options.given(GO_WITH[name]):
            raise PspError(f"{flag(name)} goes with {' or '.join(map(flag, GO_WITH[name]))}, which is not given")
    for name in options.given(RULE_OUT):
        others, reason = RULE_OUT[name]
        for other in options.given(others):
            raise PspError(f"{flag(name)} and {flag(other)} contradict each other: {reason}")
    for name in options.given(TASKS):
        if info.task != TASKS[name]:
            raise PspError(f"{flag(name)} is for {TASKS[name]} engines, {options.engine} is one of {info.task}")
    for name in options.given(("gif", "webp")):
        check_animation(getattr(options, name), f".{name}")
    if options.url and options.device != "auto":
        raise PspError("--url and --device contradict each other: the server chose its device when it started")
    if options.couple and not (options.singles or options.gif or options.webp):
        raise PspError("--couple is for pictures and animations, and a sheet shows its inputs anyway: leave it out")
    if options.format and not options.singles:
        raise PspError("--format is for single pictures, and only a sheet or an animation is asked for: add --out")
    for name in options.given(LEVELS):
        value, levels = getattr(options, name), LEVELS[name]
        if value not in levels:
            raise PspError(f"{flag(name)} {value}: expected {levels[0]} to {levels[-1]}")


def flag(name: str) -> str:
    """The option of a field, as on the command line."""
    return "pictures" if name == "inputs" else f"--{name.replace('_', '-')}"


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """Zero-based layers such as 8-13, 4,6,8-9, or 8- for all from there on, of an engine with `count` of them."""
    layers: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            start, end = int(first), int(last or (count - 1 if dash else first))
            if not 0 <= start <= end < count:
                raise ValueError
            layers.update(range(start, end + 1))
    except ValueError:
        raise PspError(
            f"--mix-layers {text}: expected layers such as 8-{count - 1}, 4,6,8-9 or 8-, this engine has 0..{count - 1}"
        ) from None
    return tuple(sorted(layers))


def parse_strengths(text: str) -> tuple[float, ...]:
    """One strength, several with commas, or FROM:TO:STEPS."""
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        first, last, count = text.split(":")
        start, end, steps = float(first), float(last), int(count)
        if not (2 <= steps <= MOST and math.isfinite(start) and math.isfinite(end)):
            raise ValueError
        return tuple(start + (end - start) * index / (steps - 1) for index in range(steps))
    except ValueError:
        expected = f"a number, several as in -1,0,2, or FROM:TO:STEPS as in -3:3:7, 2 to {MOST} steps"
        raise PspError(f"--strength {text}: expected {expected}") from None


def parse_swap(text: str, classes: int) -> dict[int, int]:
    """Class ids OLD=NEW, several with commas."""
    swapped: dict[int, int] = {}
    try:
        for part in text.split(","):
            old, new = map(int, part.split("="))
            if swapped.setdefault(old, new) != new:
                raise ValueError
    except ValueError:
        raise PspError(f"--swap {text}: expected class ids OLD=NEW, such as 13=0 or 4=5,5=4, each once") from None
    for label in (*swapped, *swapped.values()):
        if not 0 <= label < classes:
            raise PspError(f"--swap {text}: there is no class {label}, this engine knows 0..{classes - 1}")
    return swapped
