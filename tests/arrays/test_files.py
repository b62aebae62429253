"""Files of arrays as people have them: every layout gives the numbers that its own library reads."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickled.malicious import kinds, saved, touching

from psp_runtime.arrays.files import read_array, read_arrays
from psp_runtime.errors import PspError

NUMBERS = torch.arange(105.0).reshape(3, 5, 7) / 7
TENSORS = {
    "float32": NUMBERS,
    "float64": NUMBERS.double(),
    "float16": NUMBERS.half(),
    "int64": torch.arange(4),
    "bool": torch.tensor([True, False]),
    "a number": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "a view": NUMBERS[1:, ::2].transpose(0, 1),
    "a parameter": torch.nn.Parameter(NUMBERS),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors(tmp_path: Path, name: str, zipped: bool) -> None:
    file = tmp_path / "a.pt"
    torch.save(TENSORS[name], file, _use_new_zipfile_serialization=zipped)
    found, expected = read_array(file), torch.load(file, weights_only=True).detach().numpy()
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_dicts_and_types_numpy_has_not(tmp_path: Path, zipped: bool) -> None:
    """Several tensors may share their numbers; what is no array is left out; bfloat16 becomes float32."""
    value = {"a": NUMBERS, "b": NUMBERS[0], "c": NUMBERS.bfloat16(), "d": NUMBERS.numpy(), "e": "text", "f": {"g": [1]}}
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read_arrays(tmp_path / "a.pt")
    assert list(found) == ["a", "b", "c", "d"]
    for key in found:
        assert np.array_equal(found[key], torch.as_tensor(value[key]).float().numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_saved_on_a_gpu(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "pose.pt"
    file.write_bytes(on_gpu(saved({"pose": NUMBERS}, zipped), zipped))
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(file, weights_only=True)
    assert np.array_equal(read_arrays(file)["pose"], NUMBERS.numpy())


def on_gpu(content: bytes, zipped: bool) -> bytes:
    """The same file, of tensors that were on a GPU."""
    if not zipped:
        return content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, on_gpu(old.read(name), False) if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def test_numpy_files(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    array = NUMBERS.numpy()
    np.save(file, array)
    assert np.array_equal(read_array(file), array)
    for value in ({"age": array[0], "smile": array.T}, {"age": array.astype(">f8")}):
        np.save(file, value)
        found, expected = read_arrays(file), np.load(file, allow_pickle=True).item()
        assert list(found) == list(expected)
        assert all(np.array_equal(found[key], expected[key]) for key in found)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", array)
        assert np.array_equal(read_array(tmp_path / "a.npz"), array)
        save(tmp_path / "a.npz", w=array, z=array[0])
        assert {key: one.shape for key, one in read_arrays(tmp_path / "a.npz").items()} == {"w": (3, 5, 7), "z": (5, 7)}
    with pytest.raises(PspError, match=r"holds 2 arrays by their names, w \[3, 5, 7\], z \[5, 7\]: expected one array"):
        read_array(tmp_path / "a.npz")


@pytest.mark.parametrize("name", kinds(Path("trap")))
def test_nothing_runs(tmp_path: Path, name: str) -> None:
    """Malicious pickles in a .npy file, in a zip and in the layout before."""
    trap, file = tmp_path / "trap", tmp_path / "a.pt"
    pickled = kinds(trap)[name]
    contents: dict[str, Any] = {"older": saved(1, False).replace(b"\x80\x02K\x01.", pickled), "plain": pickled}
    zipped, header = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    np.lib.format.write_array_header_1_0(header, {"shape": (), "fortran_order": False, "descr": "|O"})
    contents |= {"zip": zipped.getvalue(), "npy": header.getvalue() + pickled}
    assert pickled in contents["older"]
    for content in contents.values():
        file.write_bytes(content)
        with pytest.raises(PspError) as caught:
            read_arrays(file)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert not trap.exists()


def test_an_object_that_is_code(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    np.save(tmp_path / "a.npy", {"age": touching(trap)})
    with pytest.raises(PspError, match="a.npy holds more than numbers and was not read: it names 'posix.system'"):
        read_arrays(tmp_path / "a.npy")
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(tmp_path: Path, zipped: bool) -> None:
    """Cut off anywhere, or with a byte changed in its numbers, which the checksum of a zip shows."""
    file, whole = tmp_path / "a.pt", saved(NUMBERS, zipped)
    for end in range(0, len(whole) - 1, 37):
        file.write_bytes(whole[:end])
        with pytest.raises(PspError):
            read_arrays(file)
    if zipped:
        middle = whole.index(NUMBERS.numpy().tobytes()) + 50
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(PspError, match="cannot read .*a.pt: not a .npy, .npz or .pt file of numbers, or a damaged"):
            read_arrays(file)


def test_what_holds_no_numbers(tmp_path: Path) -> None:
    for value, message in ((["a"], "holds a list"), ({"opts": {}}, r"holds a dict without arrays \(opts\)")):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(PspError, match=f"{message}: expected an array or tensor, or a dict of them"):
            read_arrays(tmp_path / "a.pt")
