"""The compiled CUDA kernels: fresh, for old drivers and every card, and what happens where they cannot be loaded."""

import re
import shutil
import subprocess

import pytest
import torch

from psp_runtime.errors import DeviceError, PspError
from psp_runtime.kernels import driver, ptx
from psp_train.ops import cuda

FILES = [(source, dtype) for source in ptx.SOURCES for dtype in ptx.ELEMENTS]
ARCHITECTURES = (75, 80, 90, 100, 120)


@pytest.mark.parametrize(("source", "dtype"), FILES)
def test_compiled_files_are_fresh_and_old_drivers_read_them(source, dtype):
    text = ptx.path(source, dtype).read_text()
    assert text.splitlines()[0] == ptx.first_line(source, dtype), "the sources changed: make ptx"
    assert re.findall(r"^\.version (.*)$", text, re.M) == [ptx.ISA]
    assert re.findall(r"^\.target (.*)$", text, re.M) == ["sm_75"]


def test_a_changed_source_is_noticed(tmp_path, monkeypatch):
    for file in (ptx.HEADER, "upfirdn2d.cu"):
        shutil.copy(ptx.FOLDER / file, tmp_path)
    before = ptx.first_line("upfirdn2d", "float32")
    monkeypatch.setattr(ptx, "FOLDER", tmp_path)
    assert ptx.first_line("upfirdn2d", "float32") == before
    for file in (ptx.HEADER, "upfirdn2d.cu"):
        with (tmp_path / file).open("a") as end:
            end.write(" ")
        assert ptx.first_line("upfirdn2d", "float32") != before
        before = ptx.first_line("upfirdn2d", "float32")


def ptxas() -> str:
    """The assembler of the CUDA toolkit, beside nvcc."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    found = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")
    if found is None:
        pytest.skip(f"no CUDA toolkit to assemble the kernels with (looked for ptxas beside {nvcc})")
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_for_every_architecture_without_spills(architecture):
    """What drivers do with the shipped files. All element types on one, half precision on the others."""
    files = [(source, dtype) for source, dtype in FILES if architecture == 75 or dtype == "float16"]
    for source, dtype in files:
        command = [ptxas(), "-v", f"-arch=sm_{architecture}", "-o", "/dev/null", str(ptx.path(source, dtype))]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
        assert len(spills) == (7 if source == "upfirdn2d" else 2) and set(spills) == {("0", "0")}, done.stderr


# ---- Without a GPU -------------------------------------------------------------------------------------------


def test_no_driver_is_one_line(monkeypatch):
    def nothing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", nothing)
    driver._driver.cache_clear()
    with pytest.raises(DeviceError, match="need an NVIDIA GPU and its driver: none was found"):
        driver.prepare("upfirdn2d", "float32")
    driver._driver.cache_clear()
    with pytest.raises(DeviceError, match="there is no NVRTC to compile them with"):
        ptx.find_nvrtc()
    assert "none was found" in cuda.obstacle(0)
    driver._driver.cache_clear()


def test_a_driver_that_refuses_the_kernels_leaves_plain_torch_with_one_warning(monkeypatch):
    monkeypatch.setattr(cuda, "obstacle", lambda index: "the driver refuses upfirdn2d.float32.ptx")
    cuda._usable.cache_clear()
    with pytest.warns(UserWarning, match="run in plain torch: the driver refuses upfirdn2d.float32.ptx"):
        assert not cuda.usable(torch.zeros(1))
    assert not cuda.usable(torch.zeros(1))
    cuda._usable.cache_clear()


def test_the_switch(monkeypatch):
    monkeypatch.setenv(cuda.SWITCH, "0")
    assert cuda.obstacle(0) == "PSP_CUDA_OPS=0"


class FakeDriver:
    """The driver calls of loading and launching, as they answer on some machine."""

    def __init__(self, codes: list[int], cards: int = 75) -> None:
        self.codes, self.cards, self.images = codes, cards, []

    def cuModuleLoadData(self, module, image):
        self.images.append(image)
        return self.codes.pop(0)

    def cuCtxGetDevice(self, device):
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: self.cards // 10, 76: self.cards % 10}[attribute]
        return 0

    def cuGetErrorString(self, code, text):
        text._obj.value = b"the provided PTX was compiled with an unsupported toolchain"
        return 0


def test_nvrtc_compiles_for_the_card_where_the_driver_refuses_the_file(monkeypatch):
    compiled = []
    monkeypatch.setattr(ptx, "find_nvrtc", lambda: "nvrtc")
    monkeypatch.setattr(ptx, "compile_source", lambda *given: compiled.append(given) or b"cubin")
    for codes in ([0], [222, 0]):
        fake = FakeDriver(codes)
        monkeypatch.setattr(driver, "_driver", lambda fake=fake: fake)
        driver._load("upfirdn2d", "float16")
    assert fake.images[1] == b"cubin" and compiled == [("upfirdn2d", "float16", "sm_75", "nvrtc")]
    assert fake.images[0].startswith(b"// psp-toolkit upfirdn2d.cu")
    monkeypatch.undo()
    monkeypatch.setattr(driver, "_driver", lambda: FakeDriver([222]))

    def missing():
        raise DeviceError("there is no NVRTC")

    monkeypatch.setattr(ptx, "find_nvrtc", missing)
    with pytest.raises(PspError, match=r"refuses upfirdn2d.float16.ptx \(CUDA error 222.*there is no NVRTC; update"):
        driver._load("upfirdn2d", "float16")
