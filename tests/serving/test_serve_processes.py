"""psp-serve's processes: how it starts, stops, is killed and comes back."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import serve as benchmark
from calls import decoded, file_of, get, pixels
from measure.server import Caller, Server, environment, free_port
from tiny_family import write_family
from tiny_steps import write_steps

import psp_runtime
from psp_runtime.cli import psp
from psp_runtime.serving.client import connect


def test_stop_loses_no_request_and_a_full_queue_refuses(engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A batch waits half a second for more pictures, so that requests are certain to be under way at the stop."""
    options = ("--queue", "3", "--delay", "500", "--batch", "4")
    running = Server(engine, options=options, threads=1)
    idle = Caller(running.port)
    assert idle.infer(image=pixels(1))[0] == 200

    def ask(_: int = 0) -> tuple[int, dict]:
        return Caller(running.port).infer(image=pixels(1))

    with ThreadPoolExecutor(24) as pool:
        crowd = list(pool.map(ask, range(24)))
        assert {status for status, _ in crowd} == {200, 503}
        assert all("3 requests wait already" in outputs["error"] for status, outputs in crowd if status == 503)
        futures = [pool.submit(ask) for _ in range(3)]
        threading.Event().wait(0.2)
        assert running.stop() == 0
        assert [future.result()[0] for future in futures] == [200, 200, 200]
    assert capfd.readouterr().err == ""


def wait_ready(server: Server, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if get(server, "/v2/health/ready").status == 200:
                return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


def is_gone(pid: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes():
            return True
        time.sleep(0.05)
    return False


def test_a_killed_worker_comes_back_and_ends_with_psp_serve(engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    running = Server(engine, threads=1)
    first = running.worker
    os.kill(first, signal.SIGKILL)
    assert is_gone(first)
    wait_ready(running)
    second = running.worker
    assert second != first and Caller(running.port).infer(image=pixels(1))[0] == 200
    err = capfd.readouterr().err  # later, Python may tell of semaphores that a killed process has left
    assert err.startswith("warning: the process that serves is replaced: it died") and err.count("\n") == 1
    running.process.kill()
    assert running.process.wait(10) == -signal.SIGKILL
    assert is_gone(second)


#: psp-serve with an engine that hangs at its second run: the first one is the warm-up.
HANGING = "from psp_runtime.serving import server; import hanging; server.load = hanging.load; "
HANGING += "from psp_runtime.serving.cli import main; main()"


def test_a_hung_engine_is_told_and_replaced(engine: Path, tmp_path: Path) -> None:
    port, hang = free_port(), tmp_path / "hang"
    variables = environment(1) | {"HANG": str(hang)}
    variables["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    command = [sys.executable, "-c", HANGING, "--engine", str(engine), "--port", str(port)]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert f"model psp; next: psp run PICTURE --url http://127.0.0.1:{port}\n" in process.stdout.readline()
        hang.touch()  # the next batch hangs
        started = time.monotonic()
        status, outputs = Caller(port).infer(image=pixels(1))
        assert status == 503 and "is being started anew" in outputs["error"]
        assert time.monotonic() - started < 20
        hang.unlink()
        assert "model psp" in process.stdout.readline()
        assert Caller(port).infer(image=pixels(1))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert (
            process.stderr.read()
            == "warning: the process that serves is replaced: it died, an engine hung, or it took too much memory\n"
        )
    finally:
        process.kill()


def test_an_engine_that_does_not_open_ends_it_in_a_line(engine: Path, tmp_path: Path) -> None:
    broken = tmp_path / "psp.onnx"
    data = bytearray(engine.read_bytes())
    middle = data.find(b"MatMul")
    data[middle : middle + 6] = b"NoSuch"
    broken.write_bytes(data)
    command = [sys.executable, "-m", "psp_runtime.serving", "--engine", str(broken), "--port", str(free_port())]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_int8_engine_is_served_as_such(tmp_path: Path) -> None:
    """Clients are told what the server computes in."""
    engine = write_family(tmp_path, "psp", parts=False, precision="int8", processor="cpu")
    running = Server(engine, threads=1)
    try:
        assert connect(f"{running.url}/psp").precision == "int8"
        with psp_runtime.load(engine, "cpu") as pipeline:
            expected = pipeline.translate(pixels(1)).output
        np.testing.assert_array_equal(Caller(running.port).infer(image=pixels(1))[1]["output"], expected)
    finally:
        assert running.stop() == 0


def test_bf16_that_cannot_be_ends_psp_serve_in_a_line(engine: Path) -> None:
    command = [sys.executable, "-m", "psp_runtime.serving", "--engine", str(engine), "--port", str(free_port())]
    command += ["--precision", "bf16"]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "cannot run in bf16: PSP_CPU=onnxruntime computes in FP32" in done.stderr


def test_a_second_signal_does_not_wait_for_answers(engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    running = Server(engine, options=("--delay", "30000", "--batch", "4"), threads=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Caller(running.port).infer, image=pixels(1))
        time.sleep(1)
        started = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 130 and time.monotonic() - started < 20
        assert waiting.exception(10) is not None
    assert capfd.readouterr().err.strip() == "interrupted"


@pytest.mark.slow
def test_benchmark_reports_both_faces_and_every_number_of_callers(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(["--engine", str(engine), "--pictures", "4", "--repeats", "1", "--requests", "20"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    sides = [f"{face} {count}" for face in ("infer", "translate") for count in (1, 4, 16)]
    assert [row["side"] for row in report["rows"]] == ["bare", *sides]
    bare = report["rows"][0]["median"]
    for row in report["rows"]:
        assert 0 < row["least"] <= row["median"] <= row["most"]
        assert row["share"] == pytest.approx(row["median"] / bare, abs=0.01)
    for face in ("infer", "translate"):
        assert report["long_run"][face]["lost"] == 0 and report["long_run"][face]["first_mib"] > 10


def test_the_first_step_of_another_engine_is_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Toonify from a face: psp serve --first is psp run --first."""
    monkeypatch.chdir(tmp_path)
    write_steps(tmp_path, "toon", 0.5), write_steps(tmp_path, "face")
    Path("photo.png").write_bytes(file_of(pixels(1)[0]))
    made = []
    running = Server(tmp_path / "toon.onnx", options=("--first", str(tmp_path / "face.onnx")), threads=1)
    try:
        for number, where in enumerate((["--url", running.url], ["--engine", "toon.onnx", "--first", "face.onnx"])):
            monkeypatch.setattr(sys, "argv", ["psp", "run", "photo.png", *where, "-o", f"{number}.png"])
            with pytest.raises(SystemExit) as end:
                psp()
            assert not end.value.code
            made.append(decoded(Path(f"{number}.png").read_bytes()))
    finally:
        assert running.stop() == 0
    np.testing.assert_array_equal(*made)
    monkeypatch.setattr(sys, "argv", ["psp", "run", "photo.png", "--engine", "toon.onnx", "-o", "alone.png"])
    with pytest.raises(SystemExit):
        psp()
    assert (decoded(Path("alone.png").read_bytes()) != made[0]).any()
    capsys.readouterr()
