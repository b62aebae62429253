"""`psp-export` as a user meets it: options, exit codes, one line for every mistake."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from cli_runs import PspRun, runner
from models import tiny_checkpoint, tiny_model

from psp_export import cli
from psp_export.cli import replaced, table
from psp_export.export import Options, deployable, export
from psp_export.output_files import models_of
from psp_runtime import read_info


@pytest.fixture
def psp_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PspRun:
    """Run the tool in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys, "psp-export", cli.main)


@pytest.fixture
def tiny(monkeypatch):
    """The tiny model in place of the bundled one."""
    monkeypatch.setattr("psp_train.checkpoints.psp.load_demo_checkpoint", lambda task: tiny_checkpoint())


def in_own_process(*args: object, cwd: Path, code: str = "") -> subprocess.CompletedProcess:
    """Run the tool in a process of its own; `code` runs before it."""
    code += "\nimport sys; from psp_export.cli import main; sys.argv[0] = 'psp-export'; main()"
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def checkpoint(folder: Path, **changes: object) -> Path:
    data = {
        "state_dict": tiny_model().state_dict(),
        "opts": {"dataset_type": "ffhq_encode", "encoder_type": "GradualStyleEncoder"},
    }
    torch.save(data | changes, folder / "psp.pt")
    return folder / "psp.pt"


def test_the_two_commands_of_the_readme(tmp_path):
    """The bundled model by default, said so; stages on stderr, the table and the licence on stdout."""
    done = in_own_process("--task", "inversion", "--fp16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bundled demo model" in done.stderr
    assert "verifying against PyTorch FP32" in done.stderr
    assert "licence" in done.stdout
    assert {"psp.onnx", "psp.mapping.onnx"} <= {p.name for p in tmp_path.iterdir()}
    assert read_info(tmp_path / "psp.onnx").precision == "fp16"
    row = next(line for line in done.stdout.splitlines() if line.startswith("psp.onnx"))
    assert "fp16" in row and "dB" in row


def test_a_published_checkpoint(tmp_path, psp_export):
    source = ("--checkpoint", checkpoint(tmp_path), "--backend", "onnx", "--output", "face.onnx")
    code, out, err = psp_export(*source, "--no-verify", "--parts")
    assert code == 0, err
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"psp.pt", "face.onnx", "face.mapping.onnx", "face.encoder.onnx", "face.generator.onnx"}
    assert "not verified" in out
    assert "non-commercial" in out
    assert read_info(tmp_path / "face.onnx").parity is None
    earlier = models_of(tmp_path / "face")
    code, out, err = psp_export(*source, "--no-verify", "--fp16", "--quiet")
    assert (code, out) == (0, "") and err.startswith("warning: left over")
    was = replaced(earlier, models_of(tmp_path / "face"))
    sha256 = hashlib.sha256((tmp_path / "psp.pt").read_bytes()).hexdigest()
    assert was == {tmp_path / "face.onnx": f"task inversion, fp32, checkpoint {sha256[:12]}"}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--task", "inversions"), "unknown task 'inversions': choose one of inversion"),
        (("--task", ""), "unknown task '': choose one of inversion"),
        (("--task", "sketch", "--checkpoint", "psp.pt"), "--task sketch contradicts psp.pt"),
        (("--checkpoint", "missing.pt"), "no checkpoint at missing.pt"),
        (("--checkpoint", "text.pt"), "text.pt is not a PyTorch checkpoint"),
        (("--checkpoint", "half.pt"), "half.pt is not a PyTorch checkpoint, or is cut off"),
        (
            ("--checkpoint", "weights/psp_ffhq_encode.pt"),
            "no checkpoint at weights/psp_ffhq_encode.pt: it is published at https://github.com/eladrich/",
        ),
        (("--checkpoint", "other.pt"), "other.pt is not a checkpoint of pSp over StyleGAN2: it lacks"),
        (("--output", "folder"), "is a folder: give the name of a file in it"),
        (("--output", "nowhere/psp"), "there is no folder nowhere"),
        (("--output", "psp.pt/psp"), "there is no folder psp.pt"),
        (("--output", "psp.encoder.onnx"), "that is the name of the encoder of psp; give another"),
        (("--backend", "onnx", "--output", "taken"), "taken.onnx is a folder: give another --output"),
        (("--tune-batch", "9"), "--tune-batch 9: the plan serves batches of 1..8; raise --max-batch"),
    ],
)
def test_mistakes_are_one_line(tmp_path, psp_export, args, expected):
    whole = checkpoint(tmp_path).read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("these are not weights\n")
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.onnx").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    code, _, err = psp_export(*args)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(errors) == 1 and expected in errors[0]
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "args",
    [
        ("--max-batch", "0"),
        ("--backend", "tvm"),
        ("--workspace", "-1"),
        ("--workspace", "99999999999999"),
        ("--fp8",),
        ("--opset", "16"),
    ],
)
def test_wrong_options_are_one_line(psp_export, args):
    code, _, err = psp_export(*args)
    assert code == 2
    assert err.startswith("error: ") and err.endswith(" --help\n") and err.count("\n") == 1


def test_a_folder_that_cannot_be_written(psp_export, tiny, monkeypatch):
    def mkdtemp(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    code, _, err = psp_export("--no-verify")
    assert code == 2
    assert "error: cannot write into .: Permission denied; choose another folder" in err


def test_without_the_export_extra(tmp_path):
    hide = "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None"
    hide += "\nimport importlib.util as u; f = u.find_spec"
    hide += "\nu.find_spec = lambda n: None if n in ('torch', 'onnx') else f(n)"
    done = in_own_process(cwd=tmp_path, code=hide)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: psp-export needs torch, onnx: pip install '.[cpu,export]'"


def test_an_unfaithful_engine_exits_3(tmp_path, psp_export, tiny, monkeypatch):
    def spoiled(model, info):
        module = deployable(model, info)
        module.generator.convs[2].bias.data += 1
        return module

    monkeypatch.setattr("psp_export.export.deployable", spoiled)
    code, _, err = psp_export("--backend", "onnx")
    assert code == 3
    assert "differs from PyTorch FP32" in err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_earlier_files(tmp_path, psp_export, tiny, monkeypatch):
    (tmp_path / "psp.onnx").write_bytes(b"earlier")
    original = Path.write_bytes

    def write_bytes(self, data):
        if self.name == "psp.mapping.onnx":
            original(self, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    code, _, err = psp_export("--backend", "onnx", "--no-verify")
    assert code == 2
    assert "error: cannot write into .: No space left on device; make room or choose another folder" in err
    assert "Traceback" not in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"psp.onnx": b"earlier"}


def test_ctrl_c_leaves_nothing(tmp_path):
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from psp_export.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not any(tmp_path.iterdir()) and time.time() < deadline:  # the temporary folder: work has begun
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_table_shows_what_is_in_the_files(tmp_path):
    files = export(tiny_checkpoint(), Options(tmp_path / "psp", "fp16", "onnx"))
    lines = table(files).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[1:4] == [f"{(tmp_path / 'psp.onnx').stat().st_size / 1e6:.1f}", "MB", "fp16"]
    assert "fp32" in lines[2]
