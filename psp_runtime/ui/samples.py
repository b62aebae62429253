"""The examples of the page: drawn faces, sketches, label maps, a photo, and directions of the bundled generator.

`make examples` draws and learns them.
"""

from pathlib import Path

from psp_runtime.engines.info import EngineInfo

FOLDER = Path(__file__).with_name("examples")
#: What the files for each kind of input are called.
_NAMES = {"rgb": ("face_*.jpg", "photo_*.jpg"), "sketch": ("sketch_*.png",), "labels": ("labels_*.png",)}


def examples(info: EngineInfo) -> list[str]:
    """List the pictures an engine can be tried on; none for what is no face."""
    if info.input_height != info.input_size:
        return []
    return [str(path) for pattern in _NAMES[info.input] for path in sorted(FOLDER.glob(pattern))]


def is_photo(example: str) -> bool:
    """Tell whether an example is a whole photo, whose faces must be found."""
    return Path(example).name.startswith("photo_")


def own_directions() -> dict[str, Path]:
    """Name the directions that were learned for the bundled generator."""
    return {path.stem.replace("_", " "): path for path in sorted(FOLDER.glob("*.npy"))}
