"""What a measurement ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from psp_runtime.devices import gpu_name

PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "openvino")


def describe(device: str) -> dict:
    """Name, cores, threads and versions; `kind` is what two machines must share to be compared."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = f"{cores} x {_cpu_name()}"
    name = f"{gpu_name()}, {cpu}" if device == "cuda" else cpu
    facts = {"name": name, "device": device, "cores": cores, "threads": torch.get_num_threads()}
    versions = {"Python": platform.python_version()} | {name: _version(name) for name in PACKAGES if _version(name)}
    return facts | {"kind": f"{name}, threads: {facts['threads']}", "versions": versions}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
