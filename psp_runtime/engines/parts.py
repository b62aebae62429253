"""The files beside an engine: its mapping network, and its encoder and generator alone (`psp-export --parts`)."""

import threading
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psp_runtime.engines.info import EngineInfo, read_info
from psp_runtime.engines.precision import as_asked
from psp_runtime.engines.session import OnnxSession, Session, open_session
from psp_runtime.errors import EngineError


class Parts:
    """What lies beside the open engine `full`, opened when it is first needed, to compute in what it computes in.

    `runs` as for `open_session`.

    Encoder and generator count only together and only when they are of the same export as the engine: the same
    checkpoint, precision and kind of file. Others are left alone, with a warning.
    """

    def __init__(self, full: Session, runs: int | None = None) -> None:
        self._full, self._runs = full, runs
        self._lock = threading.Lock()
        self._opened: dict[str, Session] = {}
        self._usable: bool | None = None

    @property
    def usable(self) -> bool:
        """Say whether encoder and generator are there."""
        if self._usable is None:
            self._usable = all(self._belongs(part) for part in ("encoder", "generator"))
        return self._usable

    @property
    def encoder(self) -> Session:
        """image -> latents."""
        return self._open("encoder", self._full.device)

    @property
    def generator(self) -> Session:
        """latents -> output."""
        return self._open("generator", self._full.device)

    def map(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the mapping network: z [B,S] -> w [B,S]. On the CPU everywhere, so that a seed is one style everywhere.

        Raises `EngineError` when the network is not there or belongs to another checkpoint.
        """
        return np.asarray(self._open("mapping", "cpu").run({"z": z})["w"])

    def close(self) -> None:
        """Close what was opened."""
        for session in self._opened.values():
            session.close()
        self._opened.clear()

    def _open(self, part: str, device: str) -> Session:
        with self._lock:
            if part not in self._opened:
                self._opened[part] = self._open_new(part, device)
            return self._opened[part]

    def _open_new(self, part: str, device: str) -> Session:
        path = part_path(self._full.path, part)
        if part == "mapping":
            check_mapping(self._full.path, self._full.info)
            return OnnxSession(path, device)
        return open_session(path, device, self._runs, as_asked(self._full.precision))

    def _belongs(self, part: str) -> bool:
        path = part_path(self._full.path, part)
        if not path.is_file():
            return False
        different = _difference(self._full.info, read_info(path), part, ("task", "checkpoint", "precision"))
        if different:
            words = f"{path.name} is not used: it is not a part of {self._full.path.name} ({different})"
            warnings.warn(f"{words}: export them together with --parts", stacklevel=4)
        return not different


def part_path(engine: Path, part: str) -> Path:
    """Say where a part of an engine lies. The mapping network is always an ONNX file."""
    return engine.with_name(f"{engine.stem}.{part}{'.onnx' if part == 'mapping' else engine.suffix}")


def check_mapping(engine: Path, info: EngineInfo) -> None:
    """Raise `EngineError` unless the mapping network of an engine lies beside it."""
    path = part_path(engine, "mapping")
    if not path.is_file():
        raise EngineError(
            f"random styles need {path}, which is not there: psp-export writes it with the engine, keep them together"
        )
    different = _difference(info, read_info(path), "mapping", ("checkpoint", "style_dim"))
    if different:
        raise EngineError(f"{path.name} does not belong to {engine.name}: {different}: export them together")


def _difference(engine: EngineInfo, part: EngineInfo, name: str, fields: tuple[str, ...]) -> str:
    """Name the first field in which a part is not of the engine, in words; empty when it is."""
    wanted = {"part": name} | {field: getattr(engine, field) for field in fields}
    for field, value in wanted.items():
        found = getattr(part, field)
        if found != value:
            return f"{field} {found}, not {value}"
    return ""
