"""An engine against the reference: the trained model in PyTorch FP32, on several pictures and batch sizes.

Compared is what users see, the uint8 output: PSNR with peak 255, and the largest difference in levels; and the codes,
which they may store and edit. For an FP16 graph that is not enough: ONNX Runtime computes it in FP32 on a CPU, so its
pictures say nothing about overflow on a GPU. `fp16_peaks` looks at the magnitude of every FP16 tensor instead.
"""

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from psp_export.plans.build import tensor_types
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.session import Session
from psp_runtime.errors import PspError
from psp_runtime.tasks import InputKind
from psp_train.drawn import parameters as faces
from psp_train.networks import PSP
from psp_train.networks.psp import to_input, to_picture

#: Lowest PSNR (dB) of the worst picture that lets an engine through.
GATES = {"fp32": 48.0, "fp16": 40.0}
#: Largest error of the codes, over the largest of them, that lets an engine through.
CODES_GATES = {"fp32": 1e-3, "fp16": 2e-2}
#: Largest relative error of the mapping network that lets it through.
MAPPING_GATE = 1e-4
#: How far below 65504 every FP16 tensor must stay.
HEADROOM = 8.0
FP16_MAX = 65504.0
#: Batch sizes tried; the second one also mixes styles.
BATCHES = (1, 3)
VERIFY_SEED, CALIBRATION_SEED = 11, 12


#: From an engine's inputs to its "output" and "latents".
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class ParityError(PspError):
    """An engine that does not give the reference's pictures."""


@dataclass(frozen=True)
class Parity:
    """Agreement with the reference over all compared pictures: PSNR of the worst (dB), largest difference (levels).

    Identical pictures count as 99 dB. `headroom` is 65504 over the largest FP16 value, where there is one.
    """

    psnr: float
    max_difference: int
    headroom: float | None = None

    def to_metadata(self) -> dict[str, float]:
        """The `parity` field of an engine's metadata."""
        values: dict[str, float] = {"psnr": round(self.psnr, 2), "max": self.max_difference}
        return values if self.headroom is None else values | {"headroom": round(self.headroom, 1)}

    def __str__(self) -> str:
        words = f"{self.psnr:.1f} dB, within {self.max_difference} levels"
        return words if self.headroom is None else f"{words}, FP16 headroom {self.headroom:.0f}x"


@dataclass(frozen=True)
class MappingParity:
    """Agreement of the mapping network with the reference: largest difference over the largest magnitude of w."""

    relative_error: float

    def to_metadata(self) -> dict[str, float]:
        """The `parity` field of the mapping network's metadata."""
        return {"relative_error": float(f"{self.relative_error:.1e}")}

    def __str__(self) -> str:
        return f"relative error {self.relative_error:.0e}"


@dataclass(frozen=True)
class Case:
    """One batch of inputs with the reference's uint8 output [B,H,W,3] and its codes [B,L,S]."""

    inputs: dict[str, np.ndarray]
    expected: np.ndarray
    latents: np.ndarray


def pictures(kind: InputKind, classes: int, count: int, seed: int) -> np.ndarray:
    """Inputs of a kind, uint8 [count,256,256,...]: drawn faces, and one picture of noise as the hard case."""
    drawn = [faces.draw(z) for z in faces.sample(count - 1, seed)]
    rng = np.random.default_rng(seed)
    if kind == "labels":
        noise = np.kron(rng.integers(0, classes, (32, 32), dtype=np.uint8), np.ones((8, 8), np.uint8))
        return np.stack([face.labels % classes for face in drawn] + [noise])
    if kind == "sketch":
        return np.stack([f.sketch for f in drawn] + [rng.integers(0, 256, (256, 256), dtype=np.uint8)])[..., None]
    return np.stack([f.image for f in drawn] + [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)])


@torch.no_grad()
def reference_cases(psp: PSP, info: EngineInfo, seed: int = VERIFY_SEED) -> list[Case]:
    """Inputs, and what the trained model makes of them in PyTorch FP32.

    Raises `PspError` for a model whose pictures are not finite: as uint8 they would be black, as would the engine's.
    """
    cases = []
    for number, batch in enumerate(min(b, info.max_batch) for b in BATCHES):
        drawn_and_noise = pictures(info.input, info.classes, batch + 1, seed + number)
        image = drawn_and_noise[:batch] if number == 0 else drawn_and_noise[-batch:]
        z = np.random.default_rng(seed + number).standard_normal((batch * info.styles, info.style_dim))
        style = psp.decoder.map(torch.from_numpy(z).float()).view(batch, info.styles, info.style_dim)
        alpha = torch.zeros(batch, info.styles)
        if number > 0:
            alpha[:, list(info.mix_layers)] = 0.5
        x = to_input(torch.from_numpy(image), info.input, psp.encoder.config.input_channels)
        picture, latents = psp(x, style, alpha)
        if not picture.isfinite().all():
            raise PspError("the checkpoint gives pictures of NaN or infinity in PyTorch FP32: export an earlier one")
        inputs = {"image": image, "style": style.numpy(), "alpha": alpha.numpy()}
        cases.append(Case(inputs, to_picture(picture).numpy(), latents.numpy()))
    return cases


def compare(run: Run, info: EngineInfo, cases: list[Case], headroom: float | None = None) -> Parity:
    """Give the cases to an engine. Raises `ParityError` below the gate of its precision."""
    worst, largest = 99.0, 0
    for case in cases:
        outputs = run(case.inputs)
        _check_codes(outputs["latents"], case.latents, info)
        difference = np.abs(outputs["output"].astype(np.int16) - case.expected)
        largest = max(largest, int(difference.max()))
        worst = min(worst, *(psnr(picture) for picture in difference))
    gate = GATES[info.precision]
    if not worst >= gate:
        way_out = "; export with --fp32" if info.precision == "fp16" else ""
        raise ParityError(
            f"the {info.backend} engine differs from PyTorch FP32: {worst:.1f} dB on the worst picture, "
            f"expected at least {gate:.0f} dB for {info.precision}; nothing was written{way_out}"
        )
    return Parity(worst, largest, headroom)


def _check_codes(latents: np.ndarray, expected: np.ndarray, info: EngineInfo) -> None:
    """What is stored, edited and interpolated need not show in a picture that was mixed."""
    error, gate = float(np.abs(latents - expected).max() / np.abs(expected).max()), CODES_GATES[info.precision]
    if not error <= gate:
        raise ParityError(
            f"the codes of the {info.backend} engine differ from PyTorch FP32: relative error {error:.1e}, expected "
            f"at most {gate:.0e} for {info.precision}; nothing was written"
        )


def whole(session: Session) -> Run:
    """A full engine as a function from inputs to outputs."""
    return session.run


def parts(encoder: Session, generator: Session) -> Run:
    """Encoder and generator as one function: encode, mix, decode."""

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        latents = encoder.run({"image": inputs["image"]})["latents"]
        alpha = inputs["alpha"][:, :, None]
        return generator.run({"latents": (1 - alpha) * latents + alpha * inputs["style"]}) | {"latents": latents}

    return run


@torch.no_grad()
def compare_mapping(session: Session, psp: PSP) -> MappingParity:
    """Give the mapping network random z. Raises `ParityError` above `MAPPING_GATE`."""
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
    """PSNR in dB of a difference in levels, peak 255; 99 for none at all."""
    mse = float(np.square(difference, dtype=np.float64).mean())
    return min(10 * math.log10(255**2 / mse), 99.0) if mse > 0 else 99.0


def check_headroom(path: Path, cases: list[Case]) -> float:
    """65504 over the largest value of any FP16 tensor in any case. Raises `ParityError` below `HEADROOM`."""
    peaks = fp16_peaks(path, [case.inputs for case in cases])
    name, peak = max(peaks.items(), key=lambda item: item[1] if math.isfinite(item[1]) else math.inf)
    if not peak * HEADROOM <= FP16_MAX:
        raise ParityError(
            f"FP16 would overflow: tensor {name} reaches {peak:.0f}, expected at most "
            f"{FP16_MAX / HEADROOM:.0f}; export with --fp32, nothing was written"
        )
    return FP16_MAX / max(peak, 1e-30)


def fp16_peaks(path: Path, batches: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Largest magnitude of every FP16 tensor of an ONNX file, weights included: name -> peak.

    Every tensor gets a scalar output, reduced inside the graph as soon as it is there: the whole picture of a 1024²
    model would not fit in memory. One picture runs at a time, for the same reason. ONNX Runtime's CPU provider keeps
    FP16 values in FP32, so a peak above 65504 shows as what it is.
    """
    model = onnx.load(str(path))
    half = [name for name, kind in tensor_types(model).items() if kind == TensorProto.FLOAT16]
    _reduce_in_graph(model, half)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # that of the nodes: reduced, then freed
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        probe = Path(folder) / "probe.onnx"
        onnx.save(model, probe)
        session = onnxruntime.InferenceSession(str(probe), options, ["CPUExecutionProvider"])
        names = [f"peak_{index}" for index in range(len(half))]
        peaks = np.max([session.run(names, picture) for inputs in batches for picture in _each(inputs)], axis=0)
    weights = (t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)
    return {name: float(peak) for name, peak in zip(half, peaks, strict=True)} | {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor).astype(np.float32)).max()) for tensor in weights
    }


def _each(inputs: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """A batch as batches of one."""
    count = len(next(iter(inputs.values())))
    return [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]


def _reduce_in_graph(model: onnx.ModelProto, names: list[str]) -> None:
    """Give each of the tensors an output `peak_<index>`, its reduction right behind the node that makes it."""
    index_of = {name: index for index, name in enumerate(names)}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for name in filter(index_of.__contains__, node.output):
            nodes += _peak_nodes(name, index_of[name])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for index in range(len(names)):
        model.graph.output.append(helper.make_tensor_value_info(f"peak_{index}", TensorProto.FLOAT, []))


def _peak_nodes(name: str, index: int) -> list[onnx.NodeProto]:
    """max |x| of one tensor, as a float scalar."""
    wide, size = f"wide_{index}", f"size_{index}"
    return [
        helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT),
        helper.make_node("Abs", [wide], [size]),
        helper.make_node("ReduceMax", [size], [f"peak_{index}"], keepdims=0),
    ]
