"""What a measurement ran on."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

from psp_runtime.engines.devices import gpu_name

PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "openvino")
CPUINFO = Path("/proc/cpuinfo")


def describe(device: str) -> dict:
    """Name, cores, threads and versions; `kind` is what two machines must share to be compared."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = f"{cores} x {cpu_name()}"
    name = f"{gpu_name()}, {cpu}" if device == "cuda" else cpu
    facts = {"name": name, "device": device, "cores": cores, "threads": torch.get_num_threads()}
    versions = {"Python": platform.python_version()} | {name: _version(name) for name in PACKAGES if _version(name)}
    return facts | {"kind": f"{name}, threads: {facts['threads']}", "versions": versions}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cpu_name() -> str:
    """Name, family and model number: virtual machines call several generations "AMD EPYC" or "Intel Xeon Processor"."""
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", text, re.MULTILINE))
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    if "cpu family" not in facts or "model" not in facts:
        return facts["model name"]
    return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})"
