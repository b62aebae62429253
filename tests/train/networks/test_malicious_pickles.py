"""Pickles that want more than to be read: nothing in them runs, and each is refused in one line that says why."""

import contextlib
import pickle
import sys
from pathlib import Path

import pytest
import torch
from models import tiny_model
from pickled.malicious import kinds, storage
from pickled.nvidia import SOURCE, nvidia_modules, write_torch

from psp_train.checkpoints.generators import load_generator
from psp_train.checkpoints.nvidia_pickles import read_network
from psp_train.checkpoints.state_files import WeightsError

NAMES = list(kinds(Path("trap")))
#: What the refusal says of some kinds.
REASONS = {
    "os.system": "names 'posix.system'",
    "eval": r"names '(__builtin__|builtins).eval'",
    "a name with dots": "names 'torch._utils._rebuild_tensor_v2.__globals__.get'",
    "INST": "the pickle step INST",
    "code among the numbers, zipped": "the numbers of a tensor are damaged, or more than numbers",
    "an array of objects": "an array of type 'O8'",
    "a value number 2 billion": "a value number 2147483647",
    "a hundred thousand tuples": "nests values more than 1000 deep",
    "much out of little": "a tensor .* of 4 numbers",
    "a module in itself": "nests modules more than 10 deep",
}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs(tmp_path: Path, name: str) -> None:
    trap, file = tmp_path / "trap", tmp_path / "g.pkl"
    file.write_bytes(kinds(trap)[name])
    before = set(sys.modules)
    with pytest.raises(WeightsError, match=REASONS.get(name)) as caught:
        read_network(file)
    assert not trap.exists()
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not {one for one in set(sys.modules) - before if one.startswith(("dnnlib", "torch_utils"))}


def test_the_traps_work(tmp_path: Path) -> None:
    """Opened by pickle itself, the plain ones are sprung."""
    trap = tmp_path / "trap"
    nested = "code among the numbers, saved", "code among the numbers, zipped"
    for name in ("os.system", "posix.system by protocol 4", "eval", "exec", "subprocess", "INST", "OBJ", *nested):
        with nvidia_modules(), contextlib.suppress(Exception):  # the nested ones fail after they have run
            pickle.loads(kinds(trap)[name])
        assert trap.exists(), name
        trap.unlink()


def test_numbers_that_are_none_but_for_a_flag(tmp_path: Path) -> None:
    """The same pickle with numbers in their place is read: the refusals above are about what is in it."""
    storage_of_four = torch.storage.TypedStorage(
        wrap_storage=torch.arange(4.0).untyped_storage(), dtype=torch.float32, _internal=True
    )
    file, stream = tmp_path / "g.pkl", tmp_path / "numbers"
    torch.save(storage_of_four, stream, _use_new_zipfile_serialization=False)
    file.write_bytes(storage(stream.read_bytes()))
    assert read_network(file).tensors["weight"].tolist() == [0, 1, 2, 3]


def test_embedded_source_is_not_looked_at(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    state = {"synthesis.b4.const": torch.ones(3, 4, 4)}
    file = write_torch(tmp_path / "g.pkl", state, source=SOURCE.format(trap=str(trap)))
    assert SOURCE.format(trap=str(trap)).encode() in file.read_bytes()
    assert torch.equal(read_network(file).tensors["synthesis.b4.const"], state["synthesis.b4.const"])
    assert not trap.exists()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_off(tmp_path: Path, share: float) -> None:
    file = write_torch(tmp_path / "g.pkl", {"synthesis.b4.const": torch.ones(3, 4, 4)})
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match="g.pkl is not a network pickle, or is cut off"):
        read_network(file)


def test_other_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "g.pkl"
    file.write_bytes(pickle.dumps({"weights": 1}, 4))
    with pytest.raises(WeightsError, match="a pickle without a generator: expected G_ema.* found weights"):
        load_generator(file)
    torch.save({"g_ema": tiny_model().decoder.state_dict()}, file)  # the ending does not decide
    assert load_generator(file)[0].config.size == 64
    torch.save({"g_ema": tiny_model().decoder.state_dict()}, file, _use_new_zipfile_serialization=False)
    assert load_generator(file)[0].config.size == 64
    with pytest.raises(WeightsError, match="no checkpoint at"):
        load_generator(tmp_path / "none.pkl")
