"""Provide the ONNX file that a plan is built from."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx

from psp_export.graphs.trace import save, set_info
from psp_runtime.engines.info import read_info
from psp_runtime.engines.tensorrt import plugins


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Express a graph in standard operations alone, for parsers that know neither the plugins nor functions."""
    return onnx.inliner.inline_local_functions(model)


@contextmanager
def plan_source(path: Path, flavour: str) -> Iterator[Path]:
    """Provide the file to build a plan from: `path`, or its standard operations where TensorRT cannot take the plugins.

    Registers the plugins for a file with custom nodes; where TensorRT needs more, a warning says what.
    """
    info, trt = read_info(path), importlib.import_module(flavour)
    obstacle = plugins.obstacle(trt) if info.custom_ops else ""
    if info.custom_ops and not obstacle:
        plugins.register(trt)
    if not obstacle:
        yield path
        return
    warnings.warn(f"{path.with_suffix('.trt').name} is built without plugins, which need {obstacle}", stacklevel=4)
    plain = path.with_name(f"plain-{path.name}")
    model = inlined(onnx.load(str(path)))
    set_info(model, replace(info, custom_ops=False))
    save(model, plain)
    try:
        yield plain
    finally:
        plain.unlink()
