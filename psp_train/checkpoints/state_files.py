"""Files of weights, opened as data and loaded strictly: those of pSp, of StyleGAN2 and of the frozen networks.

Nothing in such a file is run: `torch.load` with `weights_only` takes tensors, numbers, strings, dicts and lists, and,
because training scripts store their options so, `argparse.Namespace`, which is as plain as a dict, and plain values of
NumPy and pathlib.
"""

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from psp_runtime.errors import PspError
from psp_train.checkpoints.foreign import plain_types, what_it_is
from psp_train.checkpoints.records import damaged_record, odd_kind

StateDict = dict[str, torch.Tensor]

#: So many names stand in an error message before it says how many more there are.
NAMED = 5


class WeightsError(PspError):
    """A file of weights that is missing, damaged, or not what it should be."""


def read_state_file(path: Path, advice: str) -> dict[str, Any]:
    """Read the dict in a file of weights, tensors on the CPU; `advice` ends the message about a file that is none.

    Raises `WeightsError` for a file that is missing, damaged, no dict, or would have to run code.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}: {advice}")
    try:
        damaged = damaged_record(path) if zipfile.is_zipfile(path) else ""
        if damaged:
            raise WeightsError(f"{path} is damaged: its record {damaged} changed since it was saved; copy it again")
        data = _load(path)
    except WeightsError:
        raise
    except PermissionError:
        raise WeightsError(f"{path} may not be read: check its permissions") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "unrecognized function" in str(error):
            raise WeightsError(
                f"{path} holds more than weights and was not opened: a checkpoint must not run code "
                "(expected tensors, numbers, strings and dicts)"
            ) from None
        raise _unreadable(path, advice) from None
    except Exception:  # of a damaged file nearly any: PyTorch, pickle, zipfile and struct each raise their own
        raise _unreadable(path, advice) from None
    if not isinstance(data, Mapping):
        raise WeightsError(f"{path} is not a checkpoint: expected a dict, found {type(data).__name__}")
    return dict(data)


def _unreadable(path: Path, advice: str) -> WeightsError:
    return WeightsError(f"{path} {what_it_is(path) or f'is not a PyTorch checkpoint, or is cut off: {advice}'}")


def _load(path: Path) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace, *plain_types()]):
        warnings.simplefilter("ignore")  # about pickle protocols
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def load_strictly(module: torch.nn.Module, state: Mapping[str, Any], misfit: str, prefix: str = "") -> None:
    """Fill a module (it may be on the meta device) from `state`, whose keys begin with `prefix`, in the module's types.

    What is not a tensor is left out. Raises `WeightsError`, which begins with `misfit`, where a key is missing, unknown
    or of another shape.
    """
    expected = {prefix + key: value for key, value in module.state_dict().items()}
    state = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    differences = _differences(expected, state)
    if differences:
        count = "1 key differs" if len(differences) == 1 else f"{len(differences)} keys differ"
        raise WeightsError(f"{misfit}, {count}: {listed(differences)}")
    own = {key.removeprefix(prefix): state[key].to(value.dtype) for key, value in expected.items()}
    module.load_state_dict(own, assign=True)


def _differences(expected: StateDict, state: StateDict) -> list[str]:
    shapes = [
        f"{key} has shape {list(state[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    missing = [f"missing {key}" for key in expected if key not in state]
    odd = [f"{key} is {odd_kind(value)}, expected plain numbers" for key, value in state.items() if odd_kind(value)]
    return odd + missing + [f"unknown {key}" for key in state if key not in expected] + shapes


def listed(names: Collection[object]) -> str:
    """Name the first of `names`, and say how many more there are."""
    more = len(names) - NAMED
    return ", ".join(map(str, list(names)[:NAMED])) + (f" and {more} more" if more > 0 else "")
