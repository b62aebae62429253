"""`psp check`: what is installed, which devices there are, and what is missing for what."""

import importlib.util
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import NamedTuple

from psp_runtime import __version__, console
from psp_runtime.disk import cache_folder
from psp_runtime.engines.devices import cpu_flags, gpu_name
from psp_runtime.engines.precision import COSTS, INSTRUCTIONS, OPENVINO, Choice, has_openvino, lacks_bf16, lacks_int8
from psp_runtime.prefetch import cores


class Need(NamedTuple):
    """What one use needs: packages by the module each brings, several with | where one of them is enough."""

    use: str
    modules: tuple[str, ...]
    extra: str
    gpu: bool = False


NEEDS = (
    Need("run .onnx engines", ("onnxruntime",), "cpu"),
    Need("run them faster on a CPU", ("openvino",), "openvino"),
    Need("read HEIC pictures", ("pillow_heif",), "heif"),
    Need("run TensorRT plans", ("tensorrt|tensorrt_rtx", "pycuda"), "tensorrt", gpu=True),
    Need("psp export", ("torch", "onnx", "onnxscript", "safetensors", "onnxruntime"), "export"),
    Need("psp export: TensorRT plans", ("tensorrt|tensorrt_rtx",), "rtx"),
    Need("psp train, psp eval", ("torch", "safetensors", "matplotlib", "tensorboard"), "train"),
    Need("psp ui", ("gradio",), "ui"),
    Need("psp serve", ("granian", "starlette", "prometheus_client"), "serve"),
    Need("--url", ("tritonclient",), "client"),
    Need("--ray", ("ray", "pyarrow"), "ray"),
)
#: Packages that are called otherwise than their modules.
PACKAGES = {
    "pillow_heif": ("pillow-heif",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt_rtx": ("tensorrt-rtx",),
}
#: Instruction sets that decide how fast an engine is, by their names in /proc/cpuinfo.
FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", **INSTRUCTIONS["int8"], **INSTRUCTIONS["bf16"]}

app = console.new_app()


@app.command(cls=console.Command)
def psp_check() -> None:
    """Print what is installed here, which devices there are, and what is missing for what."""
    print("\n".join(report()))


def report() -> list[str]:
    """Write the lines of `psp check`."""
    rows = [("psp", f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")]
    rows += [("CPU", _cpu()), ("in bf16", _bf16()), ("in INT8", _int8())]
    rows += [("GPU", gpu_name() or "no NVIDIA GPU with its driver"), ("cache", _cache())]
    return _aligned(rows) + [""] + _aligned((need.use, state(need)) for need in NEEDS)


def state(need: Need) -> str:
    """Name the packages that serve a use, or what to install for it."""
    found = [_found(modules) for modules in need.modules]
    missing = [" or ".join(map(_package, one.split("|"))) for one, words in zip(need.modules, found) if not words]
    if missing:
        return f"missing {', '.join(missing)}: pip install '.[{need.extra}]'"
    words = ", ".join(found)
    return f"{words}, but no GPU to run them" if need.gpu and not gpu_name() else words


def _found(modules: str) -> str:
    """Name and version of the first package that is installed; empty where none is."""
    for module in modules.split("|"):
        if importlib.util.find_spec(module) is not None:
            return next(filter(None, map(_version, PACKAGES.get(module, (module,)))), module)
    return ""


def _package(module: str) -> str:
    return PACKAGES.get(module, (module,))[0]


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


def _cpu() -> str:
    words, flags = f"{cores()} cores", cpu_flags()
    if not flags:  # another system than Linux
        return f"{words}, {platform.processor() or platform.machine()}"
    return ", ".join([words, *(name for flag, name in FLAGS.items() if flag in flags)])


def _bf16() -> str:
    """Say whether engines run in bf16 here, and what that gains."""
    if lacking := lacks_bf16():
        return f"not here: it needs {lacking}; FP16 engines run in FP32"
    return f"pays, {_gain('bf16')}: FP16 engines run so by themselves, FP32 ones with --precision bf16"


def _int8() -> str:
    """Say whether INT8 engines are worth making for this machine."""
    if not has_openvino():
        return "not worth it without OpenVINO (pip install '.[openvino]')"
    if lacking := lacks_int8():
        return f"runs, but pays only on {lacking}"
    return f"pays, {_gain('int8')}: psp export --int8 makes such engines"


def _gain(precision: str) -> str:
    times = COSTS[Choice(OPENVINO, "fp32")].run / COSTS[Choice(OPENVINO, precision)].run
    return f"about {times:.1f} times as fast as FP32"


def _cache() -> str:
    folder = cache_folder()
    if folder is None:
        return "nothing is kept (PSP_CACHE=off, or no home)"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    by = ", named by PSP_CACHE" if os.environ.get("PSP_CACHE") else ""
    return f"{folder} ({size / 1e6:.1f} MB{by})"


def _aligned(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max(len(label) for label, _ in rows) + 2
    return [f"{label:<{width}}{text}" for label, text in rows]
