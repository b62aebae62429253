"""What `psp-run --info` prints of an engine."""

from pathlib import Path

from psp_runtime.engines.info import EngineInfo


def describe(path: Path, info: EngineInfo) -> str:
    """The metadata of an engine file as aligned lines."""
    rows = {
        "engine": f"{path} ({path.stat().st_size / 2**20:.1f} MiB)",
        "task": info.task,
        "encoder": info.encoder,
        "part": info.part,
        **_tensors(info),
        "mixed layers": f"{_ranges(info.mix_layers)} at {info.mix_alpha:g}",
        "largest batch": str(info.max_batch),
        "precision": info.precision,
        "made with": f"{info.backend} {info.backend_version}",
        "made for": info.device or "any device",
        "custom ops": "psp::PspUpFirDn2d, psp::PspFusedBiasLeakyReLU" if info.custom_ops else "none",
        "checkpoint": info.checkpoint,
        "parity": ", ".join(f"{name} {value:g}" for name, value in (info.parity or {}).items()) or "not verified",
        "license": info.license,
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows.items())


def _tensors(info: EngineInfo) -> dict[str, str]:
    """What goes in and comes out."""
    output = f"uint8 [B,{info.output_size},{info.output_size},3] RGB"
    latents = f"float32 [B,{info.styles},{info.style_dim}]"
    vector = f"float32 [B,{info.style_dim}]"
    return {
        "full": {"input": _input(info), "output": output, "latents": latents},
        "encoder": {"input": _input(info), "output": f"{latents} latents"},
        "generator": {"input": f"{latents} latents", "output": output},
        "mapping": {"input": f"{vector} z", "output": f"{vector} w"},
    }[info.part]


def _input(info: EngineInfo) -> str:
    side = info.input_size
    return {
        "rgb": f"uint8 [B,{side},{side},3] RGB",
        "sketch": f"uint8 [B,{side},{side},1] grey sketch",
        "labels": f"uint8 [B,{side},{side}] ids of {info.classes} classes",
    }[info.input]


def _ranges(layers: tuple[int, ...]) -> str:
    if layers and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers)) or "none"
