"""psp-serve as it runs: what it answers on both faces, how it starts, stops and comes back.

Requests are written here from the protocol (KServe v2 with binary tensors), so that the client is tested on its own.
"""

import io
import json
import os
import re
import signal
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
from measure.server import Caller, Server, environment, free_port
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tiny_engines import write_onnx
from tiny_family import write_family
from tiny_steps import CARS, write_steps

import psp_runtime
from psp_runtime.addresses import check_address
from psp_runtime.cli import psp
from psp_runtime.engines.info import read_info
from psp_runtime.errors import EngineError, PspError
from psp_runtime.serving.cli import psp_serve
from psp_runtime.serving.client import connect, parse_url
from psp_runtime.serving.options import Serve, check

LABELS = np.kron(np.random.default_rng(4).integers(0, 19, (8, 8), np.uint8), np.ones((32, 32), np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_family(folder, "face", parts=False)
    write_family(folder, "seg", kind="labels", parts=False)
    write_onnx(folder / "sr.onnx", task="super_resolution")
    write_steps(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Path:
    return folder / "face.onnx"


@pytest.fixture(scope="module")
def server(folder: Path):
    """All engines, the first one called psp; up to four pictures a batch, so that there are some on a CPU."""
    names = [word for name in ("psp", "seg", "sr", "steps") for word in ("--name", name)]
    engines = [folder / f"{name}.onnx" for name in ("face", "seg", "sr", "steps")]
    running = Server(*engines, options=(*names, "--batch", "4", "--delay", "20"), threads=1)
    yield running
    assert running.stop() == 0


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 256, 256, 3), np.uint8)


def file_of(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def get(server: Server, path: str):
    return urllib.request.urlopen(f"{server.url}{path}", timeout=30)


def test_it_answers_what_the_pipeline_computes(server: Server, engine: Path) -> None:
    rng, info = np.random.default_rng(1), read_info(engine)
    style = rng.standard_normal((2, info.styles, info.style_dim), np.float32)
    alpha = rng.random((2, info.styles), np.float32)
    with psp_runtime.load(engine, "cpu") as pipeline:
        for inputs in ({}, {"style": style}, {"style": style, "alpha": alpha}):
            status, outputs = Caller(server.port).infer(image=pixels(2), **inputs)
            expected = pipeline.translate(pixels(2), **inputs)
            assert status == 200
            np.testing.assert_array_equal(outputs["output"], expected.output)
            np.testing.assert_array_equal(outputs["latents"], expected.latents)


@pytest.mark.parametrize(
    ("command", "query"),
    [
        ("run face.png", ""),
        ("run face.png --size 40 --format webp --quality 80", "size=40&format=webp&quality=80"),
        ("mix face.png --count 1", "mix=true"),
        ("mix face.png -n 1 --seed 7 --psi 0.5 --layers 2-5 --alpha 0.3", "mix=1&seed=7&psi=0.5&layers=2-5&alpha=0.3"),
        ("run face.png --engine sr.onnx --downsample 4 --size 99", "engine=sr&downsample=4&size=99"),
        ("run labels.png --engine seg.onnx --format jpg", "engine=seg&format=jpg"),
        ("run face.png --engine steps.onnx --iterations 2", "engine=steps&iterations=2"),
        ("mix face.png -n 1 --engine steps.onnx", "engine=steps&mix=true"),
    ],
)
def test_translate_makes_the_pictures_of_psp(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, query: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("face.png").write_bytes(file_of(pixels(1)[0]))
    Path("labels.png").write_bytes(file_of(LABELS))
    words = command.replace("--engine ", f"--engine {folder}/").split()
    words += [] if "--engine" in command else ["--engine", str(folder / "face.onnx")]
    monkeypatch.setattr(sys, "argv", ["psp", *words])
    with pytest.raises(SystemExit) as end:
        psp()
    assert not end.value.code
    (made,) = tmp_path.glob("*_out.*")
    status, answer = Caller(server.port).translate(Path(words[1]).read_bytes(), query)
    assert status == 200, answer
    np.testing.assert_array_equal(decoded(answer), decoded(made.read_bytes()))


def test_steps_of_restyle_are_the_servers(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.array([[2], [0]], np.int32)
    status, outputs = Caller(server.port, "steps").infer(image=pixels(2), iterations=counts)
    assert status == 200
    with psp_runtime.load(folder / "steps.onnx", "cpu") as pipeline:
        for row, steps in enumerate((2, 5)):
            pipeline.repeat(steps)
            expected = pipeline.translate(pixels(2)[row : row + 1])
            np.testing.assert_array_equal(outputs["output"][row], expected.output[0])
    status, outputs = Caller(server.port, "steps").infer(image=pixels(1), iterations=np.array([[21]], np.int32))
    assert status == 400 and "iterations 21: expected 1 to 20 steps" in outputs["error"]
    monkeypatch.chdir(tmp_path)
    Path("face.png").write_bytes(file_of(pixels(1)[0]))
    for where in (["--url", f"{server.url}/steps"], ["--engine", str(folder / "steps.onnx")]):
        monkeypatch.setattr(
            sys, "argv", ["psp", "run", "face.png", *where, "--iterations", "3", "-o", f"{where[0]}.png"]
        )
        with pytest.raises(SystemExit) as end:
            psp()
        assert not end.value.code
    np.testing.assert_array_equal(*(np.asarray(Image.open(f"{where}.png")) for where in ("--url", "--engine")))


def test_callers_are_batched_and_get_their_own_answers(server: Server, engine: Path) -> None:
    """One of them sends values that are refused: only that one is."""
    info = read_info(engine)
    bad = {"style": np.full((1, info.styles, info.style_dim), np.nan, np.float32)}

    def ask(seed: int) -> tuple[int, dict]:
        return Caller(server.port).infer(image=pixels(1, seed), **(bad if seed % 16 == 5 else {}))

    batches = server.metric("psp_batch_pictures_count")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(48)))
    with psp_runtime.load(engine, "cpu") as pipeline:
        for seed, (status, outputs) in enumerate(answers):
            if seed % 16 == 5:
                assert status == 400 and "style" in outputs["error"] and "not finite" in outputs["error"]
            else:
                assert status == 200
                np.testing.assert_array_equal(outputs["output"], pipeline.translate(pixels(1, seed)).output)
    assert server.metric("psp_batch_pictures_count") - batches < 45


def test_psp_run_over_http_makes_the_same_pictures(
    server: Server, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        Image.fromarray(pixels(1, seed)[0]).save(f"{name}.png")
    outputs = []
    for where in (["--url", server.url], ["--engine", str(engine), "--device", "cpu"]):
        words = ["psp", "morph", "a.png", "--to", "b.png", "--steps", "3", *where, "--out", f"{where[0]}.png"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            psp()
        assert not end.value.code
        outputs.append([np.asarray(Image.open(f"{where[0]}_{n}.png")) for n in (1, 2, 3)])
    np.testing.assert_array_equal(*outputs)


def test_styles_over_http(server: Server, engine: Path) -> None:
    black = np.zeros((1, 256, 256, 3), np.uint8)
    with connect(server.url) as remote, psp_runtime.load(engine, "cpu") as pipeline:
        for one in (remote, pipeline):
            made = one.mix(one.encode(black), one.styles(3, 7, 0.5))
            np.testing.assert_array_equal(made, pipeline.mix(pipeline.encode(black), pipeline.styles(3, 7, 0.5)))
        assert remote.info == pipeline.info and remote.device == "cpu"


@pytest.mark.slow
def test_a_client_may_pause(server: Server) -> None:
    """Connections that do nothing are closed after ten seconds; the client opens another one."""
    with connect(server.url) as remote:
        first = remote.translate(pixels(1)).output
        time.sleep(11)
        np.testing.assert_array_equal(remote.translate(pixels(1)).output, first)


def test_tritonclient_as_it_comes(server: Server, engine: Path) -> None:
    """Metadata, readiness, a request with an id and one output, versions."""
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live() and client.is_server_ready()
    assert all(client.is_model_ready(name) for name in ("psp", "psp_mapping", "seg", "seg_mapping", "sr"))
    assert client.is_model_ready("psp", "1") and not client.is_model_ready("none")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    info = read_info(engine)
    tensors = client.get_model_metadata("psp")
    assert [(one["name"], one["datatype"]) for one in tensors["inputs"]] == [
        ("image", "UINT8"), ("style", "FP32"), ("alpha", "FP32"),
    ]  # fmt: skip
    assert tensors["outputs"][1] == {"name": "latents", "datatype": "FP32", "shape": [-1, info.styles, info.style_dim]}
    image = http.InferInput("image", [1, 256, 256, 3], "UINT8")
    image.set_data_from_numpy(pixels(1))
    wanted = [http.InferRequestedOutput("latents", binary_data=True)]
    answer = client.infer("psp", [image], outputs=wanted, request_id="seven", model_version="1")
    assert answer.get_response()["id"] == "seven" and answer.as_numpy("output") is None
    assert answer.as_numpy("latents").shape == (1, info.styles, info.style_dim)


def test_metrics_and_pages(server: Server) -> None:
    assert Caller(server.port).infer(image=pixels(1))[0] == 200
    text = get(server, "/metrics").read().decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"psp_requests", "psp_batch_pictures", "psp_batch_seconds", "psp_waiting_requests"} <= names
    description = json.load(get(server, "/openapi.json"))
    paths = description["paths"]
    assert {"/translate", "/v2/models/psp/infer", "/v2/models/seg_mapping/infer", "/v2/health/ready"} <= set(paths)
    names = [one["name"] for one in paths["/translate"]["post"]["parameters"]]
    assert {"engine", "format", "mix", "seed", "psi", "downsample", "mask"} <= set(names)
    page = get(server, "/").read().decode()
    assert all(f"<code>{name}</code>" in page for name in names) and not re.search(r"(src|href)=.?https?:", page)


def test_the_description_is_openapi(server: Server) -> None:
    """Every path has its operation, every parameter a schema, every reference leads somewhere."""
    description = json.load(get(server, "/openapi.json"))
    assert description["openapi"].startswith("3.1") and set(description["info"]) == {"title", "version"}
    for methods in description["paths"].values():
        for operation in methods.values():
            assert operation["summary"] and operation["responses"]
            for one in operation.get("parameters", []):
                assert one["in"] == "query" and one["schema"]["type"] in ("string", "integer", "number", "boolean")
    assert "Error" in description["components"]["schemas"]


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


def test_an_int8_engine_is_served_as_such(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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


def test_mistakes_are_one_line(engine: Path, tmp_path: Path) -> None:
    for file, delay, words in (
        (tmp_path / "none.onnx", 2, "no engine at"),
        (engine.with_name("face.mapping.onnx"), 2, "only the mapping"),
        *((engine, float(delay), "expected milliseconds, 0 to 60000") for delay in ("inf", "nan", "-1", "1e9")),
    ):
        with pytest.raises(PspError, match=words):
            psp_serve(Serve(engine=[file], delay=delay))


def test_addresses(server: Server) -> None:
    for host, port, words in (
        ("127.0.0.1", server.port, f"cannot listen on 127.0.0.1 port {server.port}"),
        ("nowhere.invalid", 1, "cannot listen on nowhere.invalid port .*; choose another"),
        ("a..b", 1, "--host a..b: expected an address"),
        ("a" * 70 + ".example", 1, "expected an address"),
    ):
        with pytest.raises(PspError, match=words):
            check_address(host, port)
    assert check_address("localhost", free_port()) in ("127.0.0.1", "::1")
    with pytest.warns(UserWarning, match="everyone who reaches this machine can use it, without a password"):
        assert check_address("0.0.0.0", free_port()) == "0.0.0.0"


def test_names_of_engines() -> None:
    a, b = Path("a.onnx"), Path("b.onnx")
    assert Serve(engine=[a]).names == ["psp"]
    assert Serve(engine=[a, b]).names == ["a", "b"]
    assert Serve(engine=[a, b], name=["x", "y"]).names == ["x", "y"]
    for engines, names, words in (
        ([a, b], ["x"], "1 --name for 2 --engine"),
        ([a, Path("c/a.onnx")], None, "two engines are called a"),
        ([a], ["a/b"], "--name"),
        ([a], ["x_mapping"], "--name"),
    ):
        with pytest.raises(PspError, match=words):
            check(Serve(engine=engines, name=names))


def test_urls() -> None:
    assert parse_url("http://host:8000") == (False, "host:8000", "psp")
    assert parse_url("https://host/sketch/") == (True, "host", "sketch")
    assert parse_url("http://[::1]:8000/") == (False, "[::1]:8000", "psp")
    wrong = ("host:8000", "ftp://host", "http://", "http://host/a/b", "http://host/?x", "http://[::1")
    for url in (*wrong, "http://host:abc", "http://host:99999", "http://name:word@host:8000", "http://host/#x"):
        with pytest.raises(PspError, match="--url"):
            parse_url(url)


def test_what_a_client_is_told(server: Server) -> None:
    for url, words in (
        (f"{server.url}/none", "model none: expected psp, psp_mapping, seg, seg_mapping, sr, steps, steps_mapping$"),
        (f"http://127.0.0.1:{free_port()}", "is psp-serve running there"),
        (f"https://127.0.0.1:{server.port}", "psp-serve itself speaks http, not https"),
    ):
        with pytest.raises(EngineError, match=words) as caught:
            connect(url)
        assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        (["steps", "sr"], "--first goes with one --engine, given 2: serve the others apart"),
        (["sr"], "--first is for ReStyle engines, .*sr.onnx makes its pictures in one step"),
        (["cars"], "steps.onnx is no engine to go on from: its input_shape is"),
    ],
)
def test_engines_that_no_first_step_goes_with(folder: Path, tmp_path: Path, engines: list[str], words: str) -> None:
    write_steps(tmp_path, "cars", **CARS)
    paths = [tmp_path / "cars.onnx" if name == "cars" else folder / f"{name}.onnx" for name in engines]
    with pytest.raises(PspError, match=words):
        psp_serve(Serve(engine=paths, first=folder / "steps.onnx"))
