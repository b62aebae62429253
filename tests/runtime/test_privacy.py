"""Nothing leaves the machine: libraries that report are told not to, and the home folder keeps our cache alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_engines import write_onnx

from psp_runtime.engines import libraries
from psp_runtime.engines.libraries import ORT_SETTING

REPOSITORY = Path(__file__).parents[2]
#: Runs psp, and then says which of the modules that report are there.
PSP = "import sys; from psp_runtime.cli import psp; sys.argv[0] = 'psp'; psp()"
IN_REPORTERS = "import sys; print('openvino_telemetry' in sys.modules, 'openvino' in sys.modules)"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home beside a working folder with an engine and pictures, and a user who has set nothing."""
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "psp.onnx")
    Path("photos").mkdir()
    for index in range(2):
        Image.fromarray(np.full((64, 64, 3), index, np.uint8)).save(f"photos/p{index}.png")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def run(home: Path, *arguments: str, code: str = PSP, **more: str) -> str:
    """A process of a user with this home; stdout."""
    mine = ("CI", "TF_BUILD", "JENKINS_URL", "XDG_", "ORT_", "PSP_", "MPLCONFIGDIR", "RAY_")  # silence some libraries
    environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)} | more
    path = f"{REPOSITORY}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kept(home: Path) -> list[str]:
    """The files in a home but for our cache."""
    names = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    return [name for name in names if not name.startswith((".cache/psp-toolkit/", "psp-toolkit/"))]


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_running_an_engine_leaves_nothing(home: Path, library: str) -> None:
    pytest.importorskip(library)
    run(home, "run", "photos", "--engine", "psp.onnx", PSP_CPU=library)
    assert Path("p1_out.png").is_file() and kept(home) == []


@pytest.mark.long
def test_other_tools_leave_nothing(home: Path) -> None:
    """Export, which verifies engines, curves, and workers on a Ray cluster, whose token Ray keeps there."""
    for module in ("torch", "onnx", "matplotlib", "ray"):
        pytest.importorskip(module)
    run(home, "export", "--backend", "onnx", "--output", "demo")
    Path("run").mkdir()
    Path("run/metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 1.0}\n')
    run(home, "train", "plot", "run")
    run(home, "run", "photos", "--engine", "psp.onnx", "--out", "dealt", "--ray")
    assert Path("demo.onnx").is_file() and Path("run/curves.png").is_file()
    assert len(list(Path("dealt").glob("*.png"))) == 2
    assert [name for name in kept(home) if name != ".ray/auth_token"] == []


def test_openvino_reports_where_its_user_agreed(home: Path) -> None:
    """opt_in_out --opt_in writes this file: an answer of the user's own stands."""
    pytest.importorskip("openvino_telemetry")
    code = f"from psp_runtime.engines.libraries import import_openvino; import_openvino(); {IN_REPORTERS}"
    assert run(home, code=code) == "False True\n"
    for answer, reports in (("0", "False True\n"), ("1", "True True\n")):
        (home / "intel").mkdir(exist_ok=True)
        (home / "intel" / "openvino_telemetry").write_text(answer)
        assert run(home, code=code, CI="true") == reports, "in CI it asks nobody and sends nothing"


def test_other_code_may_use_its_telemetry_afterwards(home: Path) -> None:
    pytest.importorskip("openvino_telemetry")
    code = "from psp_runtime.engines.libraries import import_openvino; import_openvino(); import openvino_telemetry"
    run(home, code=f"{code}; print('there')")
    assert kept(home) == []


@pytest.mark.parametrize(("own", "seen"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_a_setting_of_the_users_own_stands(monkeypatch: pytest.MonkeyPatch, own: str | None, seen: str) -> None:
    monkeypatch.setenv(ORT_SETTING, own or "")
    if own is None:
        monkeypatch.delenv(ORT_SETTING)
    runtime, asked = libraries.import_onnxruntime(), []
    assert os.environ[ORT_SETTING] == seen
    monkeypatch.setattr(runtime, "disable_telemetry_events", lambda: asked.append(True))
    libraries.import_onnxruntime()
    assert not asked, "it is set by now, by the user or by us"


def test_libraries_are_imported_in_one_place() -> None:
    """Elsewhere nobody would have told them."""
    for package in ("psp_runtime", "psp_train", "psp_export", "benchmarks", "tools"):
        for file in (REPOSITORY / package).rglob("*.py"):
            text = file.read_text()
            for library in ("onnxruntime", "openvino"):
                words = (f"import {library}\n", f"from {library} ", f'import_module("{library}")')
                here = file.name == "libraries.py"
                assert here or not any(word in text for word in words), (file, library)
