"""Write one ONNX file of an export: first unverified, for the verification to run, then with the parity it found."""

from dataclasses import replace
from pathlib import Path

import onnx

from psp_export.graphs.inspect import stored_precision
from psp_export.graphs.trace import save, set_info
from psp_export.output_files import Written
from psp_export.verify.parity import MappingParity, Parity
from psp_runtime.engines.fields import WHOLE
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.session import OnnxSession


class Draft:
    """An ONNX file in the making: on disk, and in memory (up to 1.2 GB) until its parity is known."""

    def __init__(self, model: onnx.ModelProto, info: EngineInfo, stem: Path) -> None:
        """Write a model of the part `info.part` beside `stem`, with `info` as its metadata."""
        part = "" if info.part in WHOLE else f".{info.part}"
        self.path = stem.with_name(f"{stem.name}{part}.onnx")
        self.parity = "not verified"
        self.model, self.info = model, info
        set_info(model, info)
        save(model, self.path)

    def session(self) -> OnnxSession:
        """Open the file on the CPU."""
        return OnnxSession(self.path, "cpu")

    def verified(self, parity: Parity | MappingParity, more: dict[str, float] | None = None, words: str = "") -> None:
        """Write the measured parity into the file, and `more` numbers, which `words` have for people."""
        self.parity = "; ".join(filter(None, [str(parity), words]))
        set_info(self.model, replace(self.info, parity=parity.to_metadata() | (more or {})))
        save(self.model, self.path)

    def written(self, note: str = "") -> Written:
        """Describe the finished file, with a note on its precision."""
        return Written(self.path, self.info.part, stored_precision(self.path), self.parity, note)
