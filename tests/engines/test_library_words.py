"""No library writes its own lines beside ours."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from tiny_engines import write_onnx

from psp_runtime.engines.session import OnnxSession
from psp_runtime.errors import EngineError


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "psp_runtime", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | environment)


def test_damaged_tiff_files(tmp_path: Path) -> None:
    """libtiff prints of each what it cannot decode."""
    write_onnx(tmp_path / "psp.onnx")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name, options in (("a", "tiff_lzw"), ("b", "tiff_adobe_deflate"), ("c", "jpeg"), ("d", "group4")):
        image = Image.fromarray(noise).convert("1" if options == "group4" else "RGB")
        image.save(tmp_path / f"{name}.tif", compression=options)
        content = bytearray((tmp_path / f"{name}.tif").read_bytes())
        start = int.from_bytes(content[4:8], "little")  # of the tags, behind the data or before them
        content[start // 3 : start // 2] = bytes(start // 2 - start // 3)
        (tmp_path / f"{name}.tif").write_bytes(content)
    done = run(tmp_path, "a.tif", "b.tif", "c.tif", "d.tif", "--engine", "psp.onnx")
    assert done.returncode in (1, 2) and done.stderr
    assert not [line for line in done.stderr.splitlines() if not line.startswith(("error: ", "warning: "))]


def broken_engines(folder: Path) -> list[Path]:
    """Engines that ONNX Runtime refuses, each for another reason."""
    found = []
    for number in range(5):
        model = onnx.load(write_onnx(folder / f"{number}.onnx"))
        if number == 0:
            model.graph.node[2].op_type = "Nonesuch"
        elif number == 1:
            model.graph.initializer[0].dims[1] = 5
        elif number == 2:
            del model.graph.node[5]
        elif number == 3:
            model.opset_import[0].version = 999
        else:
            tensor = model.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="missing.bin")
        onnx.save(model, folder / f"{number}.onnx")
        found.append(folder / f"{number}.onnx")
    return found


def test_engines_onnx_runtime_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in broken_engines(tmp_path):
        with pytest.raises(EngineError, match="refuses|which is not beside it") as caught:
            OnnxSession(path, "cpu")
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", ""), path
