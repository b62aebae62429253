"""What `psp info` prints of an engine."""

from pathlib import Path

from psp_runtime.engines import contract, devices, fields
from psp_runtime.engines.info import EngineInfo
from psp_runtime.engines.precision import OPENVINO, Choice, choose, lacks_bf16, lacks_int8
from psp_runtime.engines.session import plan_obstacle
from psp_runtime.errors import EngineError


def describe(path: Path, info: EngineInfo) -> str:
    """Write the metadata of an engine file as aligned lines."""
    rows = {
        "engine": f"{path} ({path.stat().st_size / 2**20:.1f} MiB)",
        "task": info.task,
        "encoder": info.encoder,
        "part": info.part,
        **_tensors(info),
        **_family(info),
        "mixed layers": f"{_ranges(info.mix_layers)} at {info.mix_alpha:g}",
        "largest batch": str(info.max_batch),
        "precision": info.precision,
        "runs here in": runs_here(path, info),
        **_int8(info),
        "made with": f"{info.backend} {info.backend_version}",
        "made for": info.device or "any device",
        "custom ops": "psp::PspUpFirDn2d, psp::PspFusedBiasLeakyReLU" if info.custom_ops else "none",
        "checkpoint": info.checkpoint,
        "parity": ", ".join(f"{name} {value:g}" for name, value in (info.parity or {}).items()) or "not verified",
        "license": info.license,
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows.items())


def runs_here(path: Path, info: EngineInfo) -> str:
    """Say what an engine computes in on this machine without `--precision`, in which library, and what it lacks."""
    if path.suffix.lower() != ".onnx":
        obstacle = plan_obstacle(path, info)
        return f"nothing: it needs {obstacle}" if obstacle else f"{info.precision}, {info.backend} on the GPU"
    if info.part == "mapping":
        return "fp32, ONNX Runtime on the CPU"
    if devices.cuda_devices():
        return f"{info.precision}, ONNX Runtime on the GPU"
    try:
        choice, single = choose(path, info), choose(path, info, runs=1)
    except EngineError as error:
        return f"nothing: {error}"
    words = _library(choice) + (f"; a single picture in {_library(single)}" if single != choice else "")
    return words + _lacking(info, choice)


def _library(choice: Choice) -> str:
    return f"{choice.precision}, {'OpenVINO' if choice.library == OPENVINO else 'ONNX Runtime'} on the CPU"


def _lacking(info: EngineInfo, choice: Choice) -> str:
    """Say why an engine is not as fast here as it was made to be; empty where it is."""
    if info.precision == "fp16" and choice.precision == "fp32" and (lacking := lacks_bf16()):
        return f"; half precision needs {lacking}"
    lacking = lacks_int8() if info.precision == "int8" else ""
    return f"; slower than FP32: 8 bits need {lacking}" if lacking else ""


def _tensors(info: EngineInfo) -> dict[str, str]:
    """Describe what goes in and comes out; of a full engine without the styles it may mix."""
    taken, given = (next(iter(tensors.items())) for tensors in (contract.inputs(info), contract.outputs(info)))
    rows = {"input": _tensor(info, *taken), "output": _tensor(info, *given)}
    return rows | ({"latents": str(contract.latents(info))} if info.part in fields.WHOLE else {})


def _int8(info: EngineInfo) -> dict[str, str]:
    """Describe what only INT8 engines have: the processor they are laid out for, what their scales come from."""
    rows = {"laid out for": info.processor.upper()} if info.processor else {}
    if info.calibration:
        rows["calibrated on"] = "{pictures} pictures, SHA-256 {sha256}".format(**info.calibration)
    return rows


def _family(info: EngineInfo) -> dict[str, str]:
    """Describe what not every engine has: steps, a part of the generator's picture that is cut away, faces."""
    rows = {"iterations": f"{info.iterations}, unless a run says otherwise"} if info.iterations else {}
    if info.rows:
        first, last = info.rows
        rows["crop"] = f"rows {first}-{last - 1} of {info.output_size}: {info.output_size}x{last - first}"
    if info.input_height == info.input_size:
        rows["faces framed"] = f"{info.crop_scale:g} times as wide as in FFHQ"
    return rows


def _tensor(info: EngineInfo, name: str, tensor: contract.Tensor) -> str:
    images = {"rgb": "RGB", "sketch": "grey sketch", "labels": f"ids of {info.classes} classes"}
    return f"{tensor} {({'image': images[info.input], 'output': 'RGB'}).get(name, name)}"


def _ranges(layers: tuple[int, ...]) -> str:
    if layers and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers)) or "none"
