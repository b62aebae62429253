"""Compare what an engine gives with the reference, and refuse an engine that differs too much.

Compared is what users see, the uint8 output: PSNR with peak 255, and the largest difference in levels; and the W+
latents, which they may store and edit.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from psp_export.verify.cases import VERIFY_SEED, Case
from psp_runtime.engines import contract
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.refinement import refine
from psp_runtime.engines.session import Session
from psp_runtime.errors import PspError
from psp_train.networks import PSP

#: Lowest PSNR (dB) of the worst picture that lets an engine through.
GATES = {"fp32": 48.0, "fp16": 40.0, "int8": 35.0}
#: Lowest mean PSNR (dB), where the worst picture alone would let too much through.
MEAN_GATES = {"int8": 40.0}
#: Largest error of the W+ latents, over the largest of them, that lets an engine through.
LATENTS_GATES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.2}
#: Largest relative error of the mapping network that lets it through.
MAPPING_GATE = 1e-4

#: From an engine's inputs to its "output" and "latents".
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class ParityError(PspError):
    """An engine that does not give the reference's pictures."""


@dataclass(frozen=True)
class Parity:
    """Agreement with the reference over all compared pictures: PSNR of the worst in dB, largest difference in levels.

    Identical pictures count as 99 dB. `headroom` is 65504 over the largest value in FP16, where there are any; `mean`
    the mean PSNR, where the precision has a gate for it.
    """

    psnr: float
    max_difference: int
    headroom: float | None = None
    mean: float | None = None

    def to_metadata(self) -> dict[str, float]:
        """Give the `parity` field of an engine's metadata."""
        values: dict[str, float] = {"psnr": round(self.psnr, 2), "max": self.max_difference}
        values |= {} if self.mean is None else {"mean": round(self.mean, 2)}
        return values if self.headroom is None else values | {"headroom": round(self.headroom, 1)}

    def __str__(self) -> str:
        words = f"{self.psnr:.1f} dB, max error {self.max_difference}/255"
        words += "" if self.mean is None else f", mean {self.mean:.1f} dB"
        return words if self.headroom is None else f"{words}, FP16 headroom {self.headroom:.0f}x"


@dataclass(frozen=True)
class MappingParity:
    """Agreement of the mapping network with the reference: largest difference over the largest magnitude of w."""

    relative_error: float

    def to_metadata(self) -> dict[str, float]:
        """Give the `parity` field of the mapping network's metadata."""
        return {"relative_error": float(f"{self.relative_error:.1e}")}

    def __str__(self) -> str:
        return f"relative error {self.relative_error:.0e}"


def compare(run: Run, info: EngineInfo, cases: list[Case], headroom: float | None = None) -> Parity:
    """Run the cases through an engine, and measure how well it agrees with the reference.

    `headroom` is passed on to the result. Raises `ParityError` where pictures or latents are beyond the gates of the
    engine's precision.
    """
    found, largest = list[float](), 0
    for case in cases:
        outputs = run(case.inputs)
        _check_latents(outputs["latents"], case.latents, info)
        difference = np.abs(outputs["output"].astype(np.int16) - case.expected)
        largest = max(largest, int(difference.max()))
        found += [psnr(picture) for picture in difference]
    worst, mean = min(found), float(np.mean(found))
    _check_pictures(worst, GATES[info.precision], "on the worst picture", info)
    if info.precision not in MEAN_GATES:
        return Parity(worst, largest, headroom)
    _check_pictures(mean, MEAN_GATES[info.precision], "in the mean", info)
    return Parity(worst, largest, headroom, mean)


def _check_pictures(found: float, gate: float, where: str, info: EngineInfo) -> None:
    if not found >= gate:
        ways_out = {"fp16": "; export with --fp32", "int8": "; export with --fp16"}
        raise ParityError(
            f"the {info.backend} engine differs from PyTorch FP32: {found:.1f} dB {where}, expected at least "
            f"{gate:.0f} dB for {info.precision}; nothing was written{ways_out.get(info.precision, '')}"
        )


def _check_latents(latents: np.ndarray, expected: np.ndarray, info: EngineInfo) -> None:
    """Raise `ParityError` for latents beyond the gate: a picture that was mixed need not show that they are wrong."""
    error, gate = float(np.abs(latents - expected).max() / np.abs(expected).max()), LATENTS_GATES[info.precision]
    if not error <= gate:
        raise ParityError(
            f"the W+ latents of the {info.backend} engine differ from PyTorch FP32: relative error {error:.1e}, "
            f"expected at most {gate:.0e} for {info.precision}; nothing was written"
        )


def chained(encoder: Session, generator: Session) -> Run:
    """Make one function of encoder and generator: encode, mix, decode; of ReStyle in every step."""

    def once(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        latents = encoder.run({name: inputs[name] for name in contract.inputs(encoder.info)})["latents"]
        alpha = inputs["alpha"][:, :, None]
        return generator.run({"latents": (1 - alpha) * latents + alpha * inputs["style"]}) | {"latents": latents}

    return every_step(once, encoder.info)


def whole(session: Session) -> Run:
    """Make one function of a whole engine: its run or, of ReStyle, all its steps one after the other."""
    return every_step(session.run, session.info)


def every_step(once: Run, info: EngineInfo) -> Run:
    """Make one function of all steps of a ReStyle engine, whose outputs come one after the other; of others, `once`."""
    if not info.iterations:
        return once

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        steps = list(refine(once, info, inputs, info.iterations))
        return {name: np.concatenate([step[name] for step in steps]) for name in ("output", "latents")}

    return run


def feeds(session: Session, cases: list[Case]) -> list[Case]:
    """Give the cases as the graph itself takes them: of ReStyle one for every step, with the state it begins with."""
    if not session.info.iterations:
        return cases
    found: list[Case] = []

    def noted(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        outputs = session.run(inputs)
        found.append(Case(dict(inputs), outputs["output"], outputs["latents"]))
        return outputs

    for case in cases:
        list(refine(noted, session.info, case.inputs, session.info.iterations))
    return found


@torch.no_grad()
def compare_mapping(session: Session, psp: PSP) -> MappingParity:
    """Run 8 random z through the mapping network. Raises `ParityError` where its w are beyond `MAPPING_GATE`."""
    z = np.random.default_rng(VERIFY_SEED).standard_normal((8, session.info.style_dim), np.float32)
    expected = psp.decoder.map(torch.from_numpy(z)).numpy()
    error = float(np.abs(session.run({"z": z})["w"] - expected).max() / np.abs(expected).max())
    if not error <= MAPPING_GATE:
        raise ParityError(
            f"the mapping network differs from PyTorch FP32: relative error {error:.1e}, expected at most "
            f"{MAPPING_GATE:.0e}; nothing was written"
        )
    return MappingParity(error)


def psnr(difference: np.ndarray) -> float:
    """Compute the PSNR in dB, with peak 255, of a difference in levels of any shape; 99 for none at all."""
    mse = float(np.square(difference, dtype=np.float64).mean())
    return min(10 * math.log10(255**2 / mse), 99.0) if mse > 0 else 99.0
