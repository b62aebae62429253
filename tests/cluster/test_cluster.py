"""Folders on a Ray cluster: a real one on this machine, an actor of it killed, other filesystems than the local one.

What does not depend on where workers are is in test_cluster_worker.py, without Ray.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runs import PspRun, runner
from cluster_runs import contents, errors, free_port, wait_for, write_pictures
from PIL import Image
from tiny_engines import write_onnx

from psp_runtime.cli import _with_values
from psp_runtime.run.options import Options

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed: pip install '.[ray]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install '.[ray]'")

from psp_runtime.cluster import manifest  # noqa: E402
from psp_runtime.cluster.artifacts import pack  # noqa: E402
from psp_runtime.cluster.storage import find_pictures, open_place  # noqa: E402

PICTURES, BROKEN = 30, "photos/p07.png"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two cores; psp-run uses the one that is there."""
    with pytest.MonkeyPatch.context() as patch:
        settings = {
            "PSP_CACHE": "off",
            "PSP_CPU": "onnxruntime",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def kill_first_worker(out: Path, killed: list[int]) -> None:
    """Kill the worker of the first finished block; how many blocks were finished then."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not killed:
        for part in out.glob(f"{manifest.FOLDER}/*.parquet"):
            pid = int(parquet.read_table(part)["worker"][0].as_py().split(":")[1])
            killed += [pid, len(list(part.parent.glob("*.parquet")))]
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.002)


def test_a_killed_worker_loses_nothing(
    cluster: None, psp_run: PspRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs are byte for byte those of a plain run, a broken picture is listed, a second run has only that to do."""
    monkeypatch.chdir(tmp_path)
    engine = write_onnx(tmp_path / "psp.onnx")
    write_pictures(tmp_path / "photos", PICTURES, 500)
    write_pictures(tmp_path / "photos" / "sub", 4)
    (tmp_path / BROKEN).write_bytes(b"no picture")
    how = ["--engine", engine, "--batch", 2, "--threads", 1]
    killed: list[int] = []
    killer = threading.Thread(target=kill_first_worker, args=(tmp_path / "out", killed))
    killer.start()
    code, out, err = psp_run("photos", *how, "--out", "out", "--ray", "--actors", 2)
    killer.join()

    parts = sorted((tmp_path / "out" / manifest.FOLDER).iterdir())
    assert killed and killed[1] < len(parts), "the worker was killed when everything was done"
    assert code == 1 and out.startswith(f"{PICTURES + 3} pictures in ")
    assert errors(err) == [
        f"error: cannot read {tmp_path / BROKEN}: not a picture of a known format, or damaged from its first bytes",
        f"error: 1 of {PICTURES + 4} pictures could not be used and was skipped",
    ]
    monkeypatch.setenv("PSP_THREADS", "1")
    assert psp_run("photos", *how, "--out", "plain")[0] == 1
    assert psp_run("photos/sub", *how, "--out", "plain/sub")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")

    rows = parquet.read_table(tmp_path / "out" / manifest.FOLDER).to_pylist()
    assert {row["path"] for row in rows} == {str(path) for path in (tmp_path / "photos").rglob("*.png")}
    assert [row["path"] for row in rows if row["status"] != "done"] == [str(tmp_path / BROKEN)]
    assert all(row["seconds"] > 0 and len(row["engine"]) == 64 for row in rows) and len(rows) == PICTURES + 4
    assert not list((tmp_path / "out").rglob("*.tmp"))

    Image.new("RGB", (256, 256)).save(tmp_path / BROKEN)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    code, out, err = psp_run("photos", *how, "--out", "out", "--ray", "--actors", 2)
    assert code == 0 and not errors(err) and "warning" not in err, "one picture needs no second worker"
    assert out.startswith("1 picture in ") and f", 1 worker), {PICTURES + 3} done before: " in out
    assert psp_run("photos", *how, "--out", "out", "--ray", "host:1") == (
        0,
        f"nothing to do, {PICTURES + 4} done before: {tmp_path}/out/\n",
        "",
    ), "what has nothing to do needs no Ray"
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_other_filesystems(cluster: None, psp_run: PspRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are fetched and outputs sent, under their own names: here through fsspec, which knows no local paths."""
    monkeypatch.chdir(tmp_path)
    engine = write_onnx(tmp_path / "psp.onnx")
    write_pictures(tmp_path / "photos" / "sub", 3)
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no picture")
    uri = f"fsspec+file://{tmp_path}"
    how = ["--engine", engine, "--couple", "--size", 32, "--format", "webp"]
    code, _, err = psp_run(f"{uri}/photos", *how, "--out", f"{uri}/far", "--ray")
    assert code == 1 and errors(err)[0].startswith(f"error: cannot read {uri}/photos/a.jpg: not a picture")
    psp_run("photos/sub", *how, "--out", "near")
    assert {path.name: path.read_bytes() for path in (tmp_path / "far" / "sub").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "near").iterdir()
    }
    _, (one,), _ = find_pictures([f"{uri}/photos/sub/p01.png"], [open_place(uri)])
    assert (one.folder, one.name) == (f"{uri}/photos/sub", "p01.png")


def test_the_picture_whose_style_is_taken_is_not_replaced(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "psp.onnx")
    write_pictures(Path("photos"), 1)
    write_pictures(Path("kept"), 1)
    Path("kept/p00.png").rename("kept/p00_out.png")
    arguments = ["photos", "--engine", "psp.onnx", "--ray", "--style-of", "kept/p00_out.png", "--out", "kept"]
    code, _, err = runner(monkeypatch, capsys, "psp")("transfer", *arguments)
    assert code == 2 and "is an input too: choose another folder for it" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", "--actors", 2], "--actors goes with --ray"),
        (["photos", "--ray", "--grid", "g.png"], "--ray and --grid contradict each other"),
        (["photos", "--ray", "--out", "r.png"], "is a file, expected a folder"),
        (["photos", "--ray", "--quality", 90], "--quality is for JPEG and WEBP files"),
        (["nowhere", "--ray"], "cannot read nowhere: no such file or folder"),
        (["out", "--ray"], "no pictures in out"),
        (["other://bucket/photos", "--ray"], "cannot use other://bucket/photos"),
        (["s3://bucket/photos"], "s3://bucket/photos is not a path of this machine: --ray"),
        (["photos", "photos/p0.png", "--ray"], "p0_out.png: rename one, or run them apart"),
        (["photos/p0.png", "kept/p0_out.png", "--ray", "--out", "kept"], "kept/p0_out.png, the output of"),
        (["photos", "--ray", "--actors", 3], "has room for 2 workers of 1 cores each"),
        (["photos", "--ray", "--device", "cuda"], "has no GPU"),
    ],
)
def test_mistakes_are_one_line(
    cluster: None, psp_run: PspRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "psp.onnx")
    Path("photos").mkdir()
    Path("out").mkdir()
    Path("kept").mkdir()
    Image.new("RGB", (256, 256)).save("photos/p0.png")
    Image.new("RGB", (256, 256)).save("kept/p0_out.png")
    before = Path("kept/p0_out.png").read_bytes()
    code, out, err = psp_run(*arguments, "--engine", "psp.onnx")
    assert (code, out, len(errors(err))) == (2, "", 1) and words in errors(err)[0]
    assert [path.name for path in tmp_path.rglob("*_out*")] == ["p0_out.png"]
    assert Path("kept/p0_out.png").read_bytes() == before


def test_an_engine_that_does_not_open_is_one_line(
    cluster: None, psp_run: PspRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = write_onnx(tmp_path / "psp.onnx")
    content = engine.read_bytes()
    engine.write_bytes(content.replace(b"ReduceMean", b"ReduceMoon"))  # found when a worker opens it
    write_pictures(tmp_path / "photos", 2)
    code, out, err = psp_run("photos", "--engine", "psp.onnx", "--ray")
    assert (code, out, len(errors(err))) == (2, "", 1) and "refuses" in err and "psp.onnx" in err


@pytest.fixture
def client_server(cluster: None) -> Iterator[str]:
    """A Ray Client server of the cluster: its address."""
    port = free_port()
    server = [sys.executable, "-m", "ray.util.client.server", "--mode", "legacy", "--host", "127.0.0.1"]
    there = ["--port", str(port), "--address", ray.get_runtime_context().gcs_address]
    with subprocess.Popen([*server, *there], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(port)
        yield f"ray://127.0.0.1:{port}"
        process.terminate()


@pytest.mark.long
def test_through_ray_client(client_server: str, tmp_path: Path) -> None:
    """From a process that is not of the cluster, as from a laptop: what became of pictures comes back to it."""
    engine = write_onnx(tmp_path / "psp.onnx")
    write_pictures(tmp_path / "photos", 5)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    command = [sys.executable, "-c", "from psp_runtime.cli import main; main()", "photos", "--engine", engine.name]
    command += ["--out", "out", "--ray", client_server]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(contents(tmp_path / "out"))) == (1, 5), done.stderr
    assert done.stdout.startswith("5 pictures in ")
    assert errors(done.stderr)[0].startswith(f"error: cannot read {tmp_path}/photos/bad.png: not a picture")


def test_ray_may_stand_alone() -> None:
    for given, read in [
        (["photos", "--ray"], ["photos", "--ray=local"]),
        (["--ray", "photos"], ["--ray=local", "photos"]),
        (["--ray", "s3://bucket/photos"], ["--ray=local", "s3://bucket/photos"]),
        (["--ray", "--actors", "2"], ["--ray=local", "--actors", "2"]),
        (["--ray", "ray://head:10001", "photos"], ["--ray", "ray://head:10001", "photos"]),
        (["--ray", "10.0.0.1:6379"], ["--ray", "10.0.0.1:6379"]),
    ]:
        assert _with_values(given) == read


def test_what_a_run_reads_travels_with_it(cluster: None, tmp_path: Path) -> None:
    engine, mask = write_onnx(tmp_path / "psp.onnx"), tmp_path / "mask.png"
    write_onnx(tmp_path / "psp.mapping.onnx", part="mapping")
    Image.new("L", (8, 8), 255).save(mask)
    options = Options(engine=engine, mask=str(mask), batch=2, threads=3, ray="ray://head:10001")
    packed = pack(options).sent()
    assert packed.unpack(options, tmp_path / "there") == options, "files that are here are used where they are"
    wanted = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in wanted:
        (tmp_path / name).unlink()
    (tmp_path / "there").mkdir()
    found = packed.unpack(options, tmp_path / "there")
    assert found == replace(
        options, engine=tmp_path / "there/engine/psp.onnx", mask=str(tmp_path / "there/mask/mask.png")
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").rglob("*.*")} == wanted
