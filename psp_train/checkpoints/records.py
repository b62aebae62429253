"""Check what a file of weights holds before it is used: records by their CRC, tensors and options by their kind."""

import argparse
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Bytes of a record that are read at once.
_BLOCK = 1 << 20
#: Options that are used, and what they may be; any other may be anything.
_OPTIONS: dict[str, tuple[type, ...]] = {
    "dataset_type": (str,),
    "encoder_type": (str,),
    "start_from_latent_avg": (bool, int),
    "psp_toolkit": (Mapping,),
    "conv_clamp": (int, float),
}


def damaged_record(path: Path) -> str:
    """Name the first record of a zip file whose content is not what was saved; empty where all are.

    PyTorch maps a file into memory and does not look. Files that were saved without CRCs have zeros for all of them.
    Raises what zipfile raises where the damage is around the records.
    """
    with zipfile.ZipFile(path) as archive:
        if not any(record.CRC for record in archive.infolist()):
            return ""
        for record in archive.infolist():
            try:
                with archive.open(record) as content:
                    while content.read(_BLOCK):
                        pass
            except zipfile.BadZipFile:
                return record.filename
    return ""


def odd_kind(tensor: torch.Tensor) -> str:
    """Say in one word what a tensor is that cannot be a weight, such as complex or sparse; empty for all others."""
    if tensor.layout is not torch.strided:
        return "sparse"
    if tensor.is_nested:
        return "nested"
    if tensor.is_meta:
        return "without values"
    return "complex" if tensor.is_complex() else "quantized" if tensor.is_quantized else ""


def plain_opts(opts: Any) -> Mapping[str, Any]:
    """Give the options of a checkpoint as a dict, empty where there are none. Raises `ValueError` for odd ones."""
    opts = vars(opts) if isinstance(opts, argparse.Namespace) else {} if opts is None else opts
    if not isinstance(opts, Mapping):
        raise ValueError(f"opts is a {type(opts).__name__}, expected a dict")
    opts = {name: value.item() if isinstance(value, np.generic) else value for name, value in opts.items()}
    for name, kinds in _OPTIONS.items():
        value = opts.get(name)
        if value is not None and not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"its opts have a {type(value).__name__} as {name}, expected a {wanted}")
    clamp = opts.get("conv_clamp")
    if clamp is not None and not 0 < clamp < math.inf:
        raise ValueError(f"its opts have the conv_clamp {clamp}, expected a number above 0, or none")
    return opts
