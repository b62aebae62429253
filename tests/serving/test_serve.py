"""psp-serve on a real Triton, in a Python that PyTriton runs with: PSP_SERVE_PYTHON, else .venv/serving.

Requests are written here from the protocol (KServe v2 with binary tensors), so that the client is tested on its own.
"""

import asyncio
import http.client
import http.server
import io
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import serve as benchmark
from measure.server import Caller, Server, environment, free_port, serving_python
from PIL import Image
from tiny_family import write_family

import psp_runtime
from psp_runtime.engines.info import read_info
from psp_runtime.errors import EngineError, PspError
from psp_runtime.serving import triton
from psp_runtime.serving.cli import PYTHONS, Options, _serve, check
from psp_runtime.serving.client import connect, parse_url
from psp_runtime.serving.model import request_inputs
from psp_runtime.serving.proxy import ReverseProxy


@pytest.fixture(scope="module")
def python() -> str:
    found = serving_python()
    if not found:
        pytest.skip("no Python 3.10 to 3.12 with nvidia-pytriton and tritonclient: make serving")
    return found


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("engine"), parts=False)


@pytest.fixture(scope="module")
def server(python: str, engine: Path):
    running = Server(python, engine, threads=1)
    yield running
    assert running.stop() == 0


def infer(port: int, **inputs: np.ndarray) -> tuple[int, dict]:
    return Caller(port).infer(**inputs)


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 256, 256, 3), np.uint8)


def test_it_answers_what_the_pipeline_computes(server: Server, engine: Path) -> None:
    rng, info = np.random.default_rng(1), read_info(engine)
    style = rng.standard_normal((2, info.styles, info.style_dim), np.float32)
    alpha = rng.random((2, info.styles), np.float32)
    with psp_runtime.load(engine, "cpu") as pipeline:
        for inputs in ({}, {"style": style}, {"style": style, "alpha": alpha}):
            status, outputs = infer(server.port, image=pixels(2), **inputs)
            expected = pipeline.translate(pixels(2), **inputs)
            assert status == 200
            np.testing.assert_array_equal(outputs["output"], expected.output)
            np.testing.assert_array_equal(outputs["latents"], expected.latents)


def test_callers_are_batched_and_get_their_own_answers(server: Server, engine: Path) -> None:
    """One of them sends values that are refused: only that one is."""
    info = read_info(engine)
    bad = {"style": np.full((1, info.styles, info.style_dim), np.nan, np.float32)}
    before = server.metric("nv_inference_exec_count")
    with ThreadPoolExecutor(16) as pool:
        futures = [
            pool.submit(infer, server.port, image=pixels(1, seed), **(bad if seed % 16 == 5 else {}))
            for seed in range(48)
        ]
        answers = [future.result() for future in futures]
    with psp_runtime.load(engine, "cpu") as pipeline:
        for seed, (status, outputs) in enumerate(answers):
            if seed % 16 == 5:
                assert status == 400 and "style" in outputs["error"] and "not finite" in outputs["error"]
            else:
                assert status == 200
                np.testing.assert_array_equal(outputs["output"], pipeline.translate(pixels(1, seed)).output)
    assert server.metric("nv_inference_exec_count") - before < 48


def test_bad_requests_are_told_and_leave_it_running(server: Server, engine: Path) -> None:
    info = read_info(engine)
    codes, alpha = (1, info.styles, info.style_dim), np.zeros((1, info.styles), np.float32)
    for inputs, words in (
        ({"image": pixels(1).astype(np.float32)}, "UINT8"),
        ({"image": pixels(1)[:, :100]}, "unexpected shape"),
        ({"image": pixels(info.max_batch + 1)}, "batch"),
        ({"image": pixels(1), "style": np.full(codes, np.inf, np.float32)}, "not finite"),
        ({"image": pixels(1), "style": np.zeros(codes)}, "FP32"),
        ({"image": pixels(1), "alpha": alpha}, "alpha without style"),
        ({"alpha": alpha}, "image: not given"),
    ):
        status, outputs = infer(server.port, **inputs)
        assert 400 <= status <= 500 and words in outputs["error"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", "/v2/models/psp/infer", b"garbage")
    assert connection.getresponse().status in (400, 500)
    assert big_request(server.port) == 413
    assert urllib.request.urlopen(f"http://127.0.0.1:{server.port}/v2/health/ready", timeout=10).status == 200
    assert infer(server.port, image=pixels(1))[0] == 200


def big_request(port: int) -> int:
    """The status of a request that says it has a gigabyte."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", "/v2/models/psp/infer")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders(b"x" * 100_000)
    return connection.getresponse().status


def test_psp_run_over_http_makes_the_same_pictures(server: Server, engine: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        Image.fromarray(pixels(1, seed)[0]).save(tmp_path / f"{name}.png")
    psp = "from psp_runtime.cli import psp; psp()"
    command = [server.python, "-c", psp, "morph", "a.png", "--to", "b.png", "--steps", "3"]
    outputs = []
    for where in (["--url", f"http://127.0.0.1:{server.port}"], ["--engine", str(engine), "--device", "cpu"]):
        done = subprocess.run(
            [*command, *where, "--out", f"{where[0]}.png"],
            cwd=tmp_path,
            env=environment(1),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        outputs.append([np.asarray(Image.open(tmp_path / f"{where[0]}_{n}.png")) for n in (1, 2, 3)])
    np.testing.assert_array_equal(*outputs)


def test_styles_over_http(server: Server, engine: Path) -> None:
    script = "import sys, numpy; from psp_runtime.serving.client import connect; p = connect(sys.argv[1]); "
    script += "codes = p.encode(numpy.zeros((1, 256, 256, 3), numpy.uint8)); "
    script += "numpy.save(sys.stdout.buffer, p.mix(codes, p.styles(3, 7, 0.5)))"
    done = subprocess.run(
        [server.python, "-c", script, f"http://127.0.0.1:{server.port}"], env=environment(1), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    with psp_runtime.load(engine, "cpu") as pipeline:
        expected = pipeline.mix(pipeline.encode(np.zeros((1, 256, 256, 3), np.uint8)), pipeline.styles(3, 7, 0.5))
    np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), expected)


def test_stop_loses_no_request_and_a_full_queue_refuses(
    python: str, engine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A batch waits half a second for more pictures, so that requests are certain to be under way at the stop."""
    running = Server(python, engine, "--queue", "3", "--delay", "500", threads=1)
    idle = Caller(running.port)
    assert idle.infer(image=pixels(1))[0] == 200
    with ThreadPoolExecutor(24) as pool:
        crowd = list(pool.map(lambda _: infer(running.port, image=pixels(1)), range(24)))
        assert {status for status, _ in crowd} == {200, 503}
        assert all("3 requests wait already" in outputs["error"] for status, outputs in crowd if status == 503)
        futures = [pool.submit(infer, running.port, image=pixels(1)) for _ in range(3)]
        threading.Event().wait(0.2)
        assert running.stop() == 0
        assert [future.result()[0] for future in futures] == [200, 200, 200]
    assert capfd.readouterr().err == ""


#: psp-serve with a model that does not load.
BROKEN = """
from psp_runtime.serving import cli as serve
write = serve.write_repository
def broken(folder, *rest):
    write(folder, *rest)
    (folder / "psp" / "1" / "model.py").write_text("raise RuntimeError('no luck')")
serve.write_repository = broken
serve.main()
"""


def test_a_start_that_fails_is_told_at_once_and_leaves_nothing(python: str, engine: Path, tmp_path: Path) -> None:
    ports = ["--port", str(free_port()), "--metrics-port", str(free_port())]
    started = time.monotonic()
    done = subprocess.run(
        [python, "-c", BROKEN, "--engine", str(engine), *ports],
        env=environment(1) | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Triton does not start: RuntimeError: no luck\n"
    assert time.monotonic() - started < 60  # PyTriton's own start takes 120 s to see it
    assert not list(tmp_path.glob("psp-serve-*")) and not processes_of(str(tmp_path))


def processes_of(text: str) -> list[int]:
    """The processes with a text in their command line; those that have ended have none."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(file.parent.name)] * (text.encode() in file.read_bytes())
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_triton_ends_by_itself(
    python: str, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    others = set(Path("/dev/shm").glob("psp-serve-*"))
    running = Server(python, engine, threads=1)
    (server,) = processes_of("bin/tritonserver\0--model-repository=" + str(tmp_path))
    assert os.getpgid(server) == server  # Ctrl-C in a terminal is for psp-serve alone, which lets requests finish
    memory = set(Path("/dev/shm").glob("psp-serve-*")) - others
    os.kill(server, signal.SIGKILL)
    assert running.process.wait(30) == 2
    message = "error: Triton has ended by itself, out of memory for example: start psp-serve again\n"
    assert capfd.readouterr().err == message
    assert memory and not memory & set(Path("/dev/shm").glob("psp-serve-*"))
    assert not list(tmp_path.glob("psp-serve-*")) and not processes_of(str(tmp_path))


def test_a_second_ctrl_c_ends_triton_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = ["sh", "-c", "trap '' INT; echo ready; sleep 60 & wait"]
    process = subprocess.Popen(deaf, start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    wait = process.wait
    answers = iter([KeyboardInterrupt])

    def interrupted(timeout: float | None = None) -> int:
        if error := next(answers, None):
            raise error
        return wait(timeout)

    monkeypatch.setattr(process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        triton._stop(process)
    assert process.returncode == -signal.SIGKILL


STALLED = b"POST /v2/models/psp/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc"


def test_a_second_signal_ends_it_while_a_batch_waits(
    python: str, engine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Triton waits half a minute for more pictures, and is not waited for."""
    running = Server(python, engine, "--delay", "30000", threads=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(infer, running.port, image=pixels(1))
        with socket.create_connection(("127.0.0.1", running.port)) as stalled:
            stalled.sendall(STALLED)
            threading.Event().wait(1)
            running.process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionError):
                while True:  # until the first signal has closed the proxy
                    socket.create_connection(("127.0.0.1", running.port)).close()
            started = time.monotonic()
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(25) == 130 and time.monotonic() - started < 25
        assert isinstance(waiting.exception(10), ConnectionError | http.client.HTTPException)
    assert capfd.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_cuts_every_caller(engine: Path, number: signal.Signals) -> None:
    """Behind the proxy is a server that takes a request and never answers."""
    options = Options(engine, "127.0.0.1", free_port(), 0, "psp", "cpu", 1, 1000, 1)
    silent = subprocess.Popen(["sleep", "60"])

    async def run(behind: socket.socket) -> None:
        proxy = ReverseProxy(behind.getsockname()[1], 1000, 2)
        serving = asyncio.ensure_future(_serve(silent, proxy, options, "cpu"))
        while not proxy._server:
            await asyncio.sleep(0.01)
        callers = [await asyncio.open_connection("127.0.0.1", options.port) for _ in range(2)]
        callers[0][1].write(STALLED)
        callers[1][1].write(b"GET / HTTP/1.1\r\n\r\n")
        os.kill(os.getpid(), number)
        while not proxy.stopping:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), number)
        await serving

    with socket.create_server(("127.0.0.1", 0)) as behind, pytest.raises(KeyboardInterrupt):
        asyncio.run(asyncio.wait_for(run(behind), 20))
    assert silent.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            'I1122 1 a.cc:2] "starting"\nE1122 1 b.cc:3] "failed to load \'psp\' version 1: Internal: EngineError: no'
            ' engine at x.onnx\\n\\nAt:\\n  /a.py(97): f\\n"\nerror: creating server: Internal - failed\n',
            "EngineError: no engine at x.onnx",
        ),
        ('E1122 1 main.cc:3] "failed to start Metrics service: in use "\nSignal (2) received.\n',
         "failed to start Metrics service: in use"),
        ("tritonserver: error while loading shared libraries: libx.so: not found\n",
         "shared libraries: libx.so: not found"),
        ("I1122 1 a.cc:2] fine\nKilled\n", "Killed"),
        ("", "no message"),
    ],
)  # fmt: skip
def test_the_error_in_tritons_log(log: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "triton.log").write_text(log)
    assert triton.last_error(tmp_path / "triton.log") == expected


@pytest.mark.slow
def test_benchmark_reports_every_number_of_callers(
    python: str, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(["--engine", str(engine), "--pictures", "4", "--repeats", "1", "--requests", "20"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["side"] for row in report["rows"]] == ["bare", "1", "4", "16"]
    bare = report["rows"][0]["median"]
    for row in report["rows"]:
        assert 0 < row["least"] <= row["median"] <= row["most"]
        assert row["share"] == pytest.approx(row["median"] / bare, abs=0.01)
    assert report["long_run"]["lost"] == 0 and report["long_run"]["first_mib"] > 10


def test_mistakes_are_one_line(engine: Path, tmp_path: Path) -> None:
    options = Options(engine, "127.0.0.1", 0, 0, "psp", "cpu", 1, 1, 1)
    with pytest.raises(PspError, match="no engine at"):
        check(Options(tmp_path / "none.onnx", *list(vars(options).values())[1:]))
    with pytest.raises(PspError, match="only the mapping"):
        check(Options(engine.with_name("psp.mapping.onnx"), *list(vars(options).values())[1:]))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PspError, match="cannot listen on"):
        check(Options(engine, "127.0.0.1", taken.getsockname()[1], 0, "psp", "cpu", 1, 1, 1))
    with pytest.raises(PspError, match="--port and --metrics-port are both 8000"):
        check(Options(engine, "127.0.0.1", 8000, 8000, "psp", "cpu", 1, 1, 1))
    with pytest.raises(PspError, match="cannot listen on nowhere.invalid port .*; choose another"):
        check(Options(engine, "nowhere.invalid", 1, 2, "psp", "cpu", 1, 1, 1))
    for host in ("a..b", "a" * 70 + ".example"):
        with pytest.raises(PspError, match=f"--host {host}: expected an address"):
            check(Options(engine, host, 1, 2, "psp", "cpu", 1, 1, 1))
    for name in ("a/b", "x_mapping"):
        with pytest.raises(PspError, match="--name"):
            check(Options(engine, "127.0.0.1", 0, 0, name, "cpu", 1, 1, 1))


@pytest.mark.parametrize("delay", ["inf", "nan", "-1", "1e9"])
def test_a_delay_that_is_none(engine: Path, delay: str) -> None:
    command = [sys.executable, "-m", "psp_runtime.serving", "--engine", str(engine), f"--delay={delay}"]
    done = subprocess.run(command, capture_output=True, text=True)
    expected = f"error: --delay {float(delay):g}: expected milliseconds, 0 to 60000\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


@pytest.mark.skipif(sys.version_info[:2] in PYTHONS, reason="this Python is one that PyTriton runs with")
def test_other_pythons_are_told(engine: Path) -> None:
    with pytest.raises(PspError, match=f"Python {platform.python_version()}, PyTriton runs with 3.10 to 3.12"):
        check(Options(engine, "127.0.0.1", 0, free_port(), "psp", "cpu", 1, 1, 1))


def test_urls() -> None:
    assert parse_url("http://host:8000") == (False, "host:8000", "psp")
    assert parse_url("https://host/sketch/") == (True, "host", "sketch")
    assert parse_url("http://[::1]:8000/") == (False, "[::1]:8000", "psp")
    wrong = ("host:8000", "ftp://host", "http://", "http://host/a/b", "http://host/?x", "http://[::1")
    for url in (*wrong, "http://host:abc", "http://host:99999", "http://name:word@host:8000", "http://host/#x"):
        with pytest.raises(PspError, match="--url"):
            parse_url(url)


def test_what_answers_is_no_triton() -> None:
    pytest.importorskip("tritonclient.http", reason="needs tritonclient")

    class Website(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Website) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        with pytest.raises(EngineError, match="what answers there is no Triton[^<]*$"):
            connect(f"http://127.0.0.1:{site.server_port}")
        with pytest.raises(EngineError, match="psp-serve itself speaks http, not https"):
            connect(f"https://127.0.0.1:{site.server_port}")
        site.shutdown()


def test_values_an_engine_must_not_see(tmp_path: Path) -> None:
    info = read_info(write_family(tmp_path, kind="labels", parts=False))
    image = np.full((1, 256, 256), info.classes, np.uint8)
    with pytest.raises(PspError, match=f"class id {info.classes}"):
        request_inputs(info, {"image": image})
    with pytest.raises(PspError, match="alpha: 1 of its"):
        alpha = np.zeros((1, info.styles), np.float32)
        alpha[0, 0] = np.nan
        request_inputs(info, {"image": image, "alpha": alpha})
