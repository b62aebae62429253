"""Write the INT8 files of a model: for a CPU, and for TensorRT to build a plan of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from psp_export.draft import Draft
from psp_export.int8.bias import Means
from psp_export.int8.calibration import Histograms, calibrate
from psp_export.int8.ladder import climb, corrected, quantised
from psp_export.int8.layouts import Layout, Rung
from psp_export.int8.samples import Samples
from psp_export.output_files import Written
from psp_export.verify.cases import Case, case, with_styles
from psp_export.verify.parity import Parity, chained, compare, whole
from psp_runtime.engines.info import EngineInfo
from psp_train.networks import PSP

#: Every so many-th picture has styles mixed in, as some of those that users translate.
MIXED_EVERY = 4
HELD_OUT_SEED, CALIBRATION_SEED = 21, 22
#: Biases are corrected on every so many-th picture that is calibrated on: a mean needs fewer than an extreme.
CORRECTED_EVERY = 4


class Source(NamedTuple):
    """An FP32 file of the engine or of a part of it, and what it says about itself."""

    path: Path
    info: EngineInfo


class Attempt(NamedTuple):
    """The whole engine on a rung of the ladder: its file, the means its parts are corrected with, how near it comes."""

    draft: Draft
    means: dict[str, Means]
    parity: Parity | None


@dataclass(frozen=True)
class Quantiser:
    """What the INT8 files of a model are made of.

    FP32 files, the whole first; where values lie; the inputs that biases are corrected on; held-out cases. Without
    `cases` nothing is verified, and the ladder stays at its first rung.
    """

    sources: Sequence[Source]
    histograms: Histograms
    inputs: Sequence[dict[str, np.ndarray]]
    calibration: dict[str, int | str]
    cases: Sequence[Case]
    say: Callable[..., object]

    def write(self, layout: Layout, stem: Path) -> list[Written]:
        """Write the files of a processor; encoder and generator are compared as one, and have the scales of the whole.

        Raises `ParityError` where no rung of the ladder passes the gates.
        """
        rung, (whole_draft, means, parity) = climb(layout, partial(self._attempt, layout, stem))
        drafts = [
            self._draft(quantised(part.path, self.histograms, layout, rung, means), part, layout, stem)
            for part in self.sources[1:]
        ]
        if parity:
            whole_draft.verified(parity)
        if parity and drafts:
            together = compare(chained(*(draft.session() for draft in drafts)), drafts[0].info, self.cases)
            for draft in drafts:
                draft.verified(together)
        return [draft.written(str(rung)) for draft in (whole_draft, *drafts)]

    def _attempt(self, layout: Layout, stem: Path, rung: Rung) -> Attempt:
        """Write the whole engine on a rung. Raises `ParityError` where it does not pass the gates."""
        self.say(f"quantising for the {layout.processor.upper()}, {rung}")
        source = self.sources[0]
        model, means = corrected(source.path, self.histograms, layout, rung, self.inputs)
        draft = self._draft(model, source, layout, stem)
        return Attempt(draft, means, compare(whole(draft.session()), draft.info, self.cases) if self.cases else None)

    def _draft(self, model: onnx.ModelProto, source: Source, layout: Layout, stem: Path) -> Draft:
        made_with = {"processor": layout.processor, "calibration": self.calibration}
        return Draft(model, replace(source.info, precision="int8", **made_with), stem)


def prepare(
    psp: PSP, sources: Sequence[Source], samples: Samples, verify: bool, say: Callable[..., object]
) -> Quantiser:
    """Calibrate the FP32 file of the whole, the first of `sources`, and run the held-out pictures in PyTorch."""
    info, stage = sources[0].info, f"calibrating on {len(samples.calibration)} pictures"
    say(stage)
    feeds = _feeds(psp, info, samples.calibration, CALIBRATION_SEED)
    histograms = calibrate(sources[0].path, feeds, lambda words: say(stage, words))
    cases: list[Case] = []
    if verify:
        say(f"computing the reference of {len(samples.held_out)} held-out pictures")
        cases = [case(psp, info, inputs) for inputs in _feeds(psp, info, samples.held_out, HELD_OUT_SEED)]
    return Quantiser(sources, histograms, feeds[::CORRECTED_EVERY], samples.to_metadata(), cases, say)


def _feeds(psp: PSP, info: EngineInfo, pictures: np.ndarray, seed: int) -> list[dict[str, np.ndarray]]:
    """Make inputs of one picture each; into some, random styles are mixed as far as the task does."""
    amounts = [info.mix_alpha if index % MIXED_EVERY == MIXED_EVERY - 1 else 0 for index in range(len(pictures))]
    return [
        with_styles(psp, info, picture[None], seed + 1000 * index, amount)
        for index, (picture, amount) in enumerate(zip(pictures, amounts, strict=True))
    ]
